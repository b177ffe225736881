// The warp and its adjoint on the CPU, which compose and exponential are written with.
#pragma once

#include "core/tensor.h"

namespace plasticine {

// out(p) = image(affine p + displacement(p)) + (displacement(p) if add), where the affine is the
// identity when its data is null.
struct WarpForward {
  Tensor image;         // (N, C, *spatial)
  Tensor displacement;  // (N, d, *out spatial)
  Tensor affine;        // (N, d, d + 1)
  Tensor out;           // (N, C, *out spatial), contiguous
  Mode mode = Mode::linear;
  Padding padding = Padding::border;
  int threads = 1;
  bool add = false;  // not in the cubic modes
};

void warp_forward(const WarpForward& call);

// The gradients, each computed where its data is not null, of
// scale * (image(affine p + displacement_scale * displacement(p)) + (displacement(p) if add)).
// The scales are for the exponential: with image = displacement = v and both one power of two, this
// is the composition of scale * v with itself, without a copy of the scaled velocity.
struct WarpBackward {
  Tensor grad_out;
  Tensor image;
  Tensor displacement;
  Tensor affine;
  Tensor grad_image;         // contiguous
  Tensor grad_displacement;  // contiguous
  Tensor grad_affine;        // contiguous
  Mode mode = Mode::linear;
  Padding padding = Padding::border;
  int threads = 1;
  // What follows is not for the cubic modes.
  // Of a composition: grad_displacement also receives grad_out, that of the term added.
  bool add = false;
  // The image's gradient is added to what grad_image holds. Both gradients may be the same memory,
  // where one field is image and displacement: it receives their sum, whatever it held.
  bool accumulate = false;
  double scale = 1.0;
  double displacement_scale = 1.0;
};

// Where only the image's gradient is asked for, of `image` only type and sizes are looked at: with
// grad_image in its place this is the splat.
void warp_backward(const WarpBackward& call);

}  // namespace plasticine
