// The CUDA splat as the bindings call it: what the warp's backward scatters to its image.
#pragma once

#include "../warp/warp_cuda.h"

namespace plasticine::cuda {

// out(n, c, q) = sum over p of (weight with which the warp reads voxel q at p) * image(n, c, p);
// out is contiguous, (N, C, *size), in the accumulator's type of the image. out_fixed and
// fixed_scale: as in WarpGradients.
inline void splat_forward(const Tensor& image, const Tensor& displacement,
                          const std::optional<Tensor>& affine, const Tensor& out,
                          const std::optional<Tensor>& out_fixed,
                          const std::optional<Tensor>& fixed_scale, Mode mode, Padding padding,
                          int device, std::uintptr_t stream) {
  WarpGradients gradients;
  gradients.image = out;
  gradients.image_fixed = out_fixed;
  gradients.fixed_scale = fixed_scale;
  Tensor read = out;  // of which only type and sizes are asked for
  read.dtype = image.dtype;
  warp_backward(image, read, displacement, affine, gradients, mode, padding, device, stream);
}

}  // namespace plasticine::cuda
