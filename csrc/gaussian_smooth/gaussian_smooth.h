// Images smoothed by a Gaussian along each spatial axis: what the bindings call.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace plasticine {

// images: (N, C, *spatial), of any strides; out: contiguous, of their type. sigma: one for each
// spatial axis. adjoint: the transposed map.
void gaussian_smooth(const Tensor& images, const Tensor& out, const std::vector<double>& sigma,
                     bool adjoint, int threads);

namespace cuda {

// scratch: (1 or more, N, C, *spatial), contiguous, of the type that is computed in: two in 3D
// where that is not the type of the images, otherwise one.
void gaussian_smooth(const Tensor& images, const Tensor& out, const Tensor& scratch,
                     const std::vector<double>& sigma, bool adjoint, int device,
                     std::uintptr_t stream);

}  // namespace cuda

}  // namespace plasticine
