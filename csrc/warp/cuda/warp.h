// The CUDA warp as the bindings call it. Nothing here needs a CUDA header.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace plasticine::cuda {

// out(n, c, p) = image(n, c, A p + t + u(p)); out is contiguous, (N, C, *spatial). For
// Mode::bspline, `image` are coefficients, which may be float32 where the displacement is 16 bits
// wide. Launched on the stream; raises std::runtime_error with CUDA's message.
void warp_forward(const Tensor& image, const Tensor& displacement, const Tensor& affine,
                  const Tensor& out, Mode mode, Padding padding, int device, std::uintptr_t stream);

// The gradients asked for. All are contiguous and written in full.
struct WarpGradients {
  // (N, C, *image_spatial) in the accumulator's type.
  Tensor image;
  // int64, the shape of `image`, and one float64: a sum that does not depend on the order of the
  // atomics. Finite contributions, times the scale, are then added here, the others to `image`.
  Tensor image_fixed;
  Tensor fixed_scale;
  // (N, d, *spatial) in the displacement's type.
  Tensor displacement;
  // (N, P, d, d + 1) in the accumulator's type: P partial sums over the voxels of each sample.
  Tensor affine_partial;
};

// Of `image`, where only its gradient is asked for, only the sizes are looked at.
void warp_backward(const Tensor& grad, const Tensor& image, const Tensor& displacement,
                   const Tensor& affine, const WarpGradients& gradients, Mode mode, Padding padding,
                   int device, std::uintptr_t stream);

}  // namespace plasticine::cuda
