// The Jacobian determinant of id + displacement, det(I + du_i / dx_j), and its adjoint.
#pragma once

#include <vector>

#include "core/tensor.h"

namespace plasticine {

// spacing: the voxel size per axis in the displacement's unit. out (N, 1, *spatial) and
// grad_displacement are contiguous.
void jacobian_forward(const Tensor& displacement, const Tensor& out, Scheme scheme,
                      const std::vector<double>& spacing, int threads);

void jacobian_backward(const Tensor& grad_out, const Tensor& displacement,
                       const Tensor& grad_displacement, Scheme scheme,
                       const std::vector<double>& spacing, int threads);

}  // namespace plasticine
