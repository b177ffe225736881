// The derivative of the CUDA warp's backward as the bindings call it.
#pragma once

#include "warp_cuda.h"

namespace plasticine::cuda {

// What WarpDoubleBackward (warp_double_backward.h) describes, launched on the stream. gradients:
// those to image, displacement and affine, as the warp's backward writes them; its image is null
// where field_direction is. to_grad_out: contiguous, or null.
struct WarpDoubleBackward {
  Tensor image_direction;
  Tensor field_direction;
  Tensor affine_direction;
  Tensor grad_out;
  Tensor image;
  Tensor displacement;
  Tensor affine;
  Tensor to_grad_out;
  WarpGradients gradients;
  Padding padding = Padding::border;
  bool add = false;
};

void warp_double_backward(const WarpDoubleBackward& call, int device, std::uintptr_t stream);

}  // namespace plasticine::cuda
