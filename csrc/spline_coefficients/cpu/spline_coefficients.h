// The coefficients whose cubic B-spline passes through an image, on the CPU.
#pragma once

#include "core/tensor.h"

namespace plasticine {

// image (N, C, *spatial), any strides; out contiguous, of its type. scratch: contiguous float32 of
// the same shape where the type is 16 bits wide (the axes are solved one after the other, and must
// not be rounded in between), null otherwise. adjoint: the transposed systems are solved.
void spline_coefficients(const Tensor& image, const Tensor& out, const Tensor& scratch,
                         Padding padding, bool adjoint, int threads);

}  // namespace plasticine
