// The CUDA Jacobian determinant as the bindings call it. Nothing here needs a CUDA header.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace plasticine::cuda {

// As cpu/jacobian.h has them: out (N, 1, *spatial) and grad_displacement are contiguous and written
// in full. Launched on the stream; raises std::runtime_error with CUDA's message.
void jacobian_forward(const Tensor& displacement, const Tensor& out, Scheme scheme,
                      const std::vector<double>& spacing, int device, std::uintptr_t stream);

// Every voxel gathers from its neighbours in a fixed order: no atomics, the same bits every time.
void jacobian_backward(const Tensor& grad_out, const Tensor& displacement,
                       const Tensor& grad_displacement, Scheme scheme,
                       const std::vector<double>& spacing, int device, std::uintptr_t stream);

}  // namespace plasticine::cuda
