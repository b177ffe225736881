// The CUDA Jacobian determinant as the bindings call it. Nothing here needs a CUDA header.
#pragma once

#include <cstdint>
#include <vector>

#include "../common/tensor.h"
#include "../common/types.h"

namespace plasticine::cuda {

// As jacobian_cpu.h has them: out (N, 1, *spatial) and grad_displacement are contiguous and written
// in full. Launched on the stream; raises std::runtime_error with CUDA's message.
void jacobian_forward(const Tensor& displacement, const Tensor& out, Scheme scheme,
                      const std::vector<double>& spacing, int device, std::uintptr_t stream);

// Every voxel gathers from its neighbours in a fixed order: no atomics, the same bits every time.
void jacobian_backward(const Tensor& grad_out, const Tensor& displacement,
                       const Tensor& grad_displacement, Scheme scheme,
                       const std::vector<double>& spacing, int device, std::uintptr_t stream);

}  // namespace plasticine::cuda
