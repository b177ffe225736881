// The derivative of the linear warp's backward: what a second differentiation needs.
#pragma once

#include "../common/tensor.h"

namespace plasticine {

// The gradients of the warp, multiplied with a direction (of image, displacement and affine; the
// cotangents of those gradients) and summed, are a number:
//
//   sum over p, c of grad_out(p, c) * (the derivative of the warp along the direction)(p, c).
//
// Computed are its gradients, each where its data is not null. That to grad_out is the warp's
// directional derivative itself; those to the others are the Hessian of <grad_out, warp> times the
// direction. Linear mode only.
struct WarpDoubleBackward {
  Tensor image_direction;   // (N, C, *spatial) or null
  Tensor field_direction;   // (N, d, *out spatial) or null
  Tensor affine_direction;  // (N, d, d + 1) or null; never without field_direction
  Tensor grad_out;          // (N, C, *out spatial)
  Tensor image;
  Tensor displacement;
  Tensor affine;
  Tensor to_grad_out;      // contiguous
  Tensor to_image;         // contiguous; null where field_direction is
  Tensor to_displacement;  // contiguous
  Tensor to_affine;        // contiguous
  Padding padding = Padding::border;
  // Of a composition: field_direction passes through to to_grad_out.
  bool add = false;
  int threads = 1;
};

void warp_double_backward(const WarpDoubleBackward& call);

}  // namespace plasticine
