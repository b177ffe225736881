// The coefficients whose cubic B-spline passes through an image, on the GPU. Nothing here needs a
// CUDA header.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace plasticine::cuda {

// As on the CPU: image (N, C, *spatial), any strides; out contiguous, of its type; scratch
// contiguous float32 of the same shape where the type is 16 bits wide. Launched on the stream;
// raises std::runtime_error with CUDA's message.
void spline_coefficients(const Tensor& image, const Tensor& out, const Tensor& scratch,
                         Padding padding, bool adjoint, int device, std::uintptr_t stream);

}  // namespace plasticine::cuda
