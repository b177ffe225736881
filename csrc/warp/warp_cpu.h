// The warp and its adjoint on the CPU, which compose and exponential are written with.
#pragma once

#include "../common/tensor.h"

namespace plasticine {

// out(p) = scale * (image(affine p + scale * displacement(p)) + displacement(p) if add), where the
// affine is the identity when its data is null. scale is for the exponential, whose first squaring
// then needs no copy of the scaled velocity: with image = displacement = v and a power of two it is
// exactly the composition of scale * v with itself.
struct WarpForward {
  Tensor image;         // (N, C, *spatial)
  Tensor displacement;  // (N, d, *out spatial)
  Tensor affine;        // (N, d, d + 1)
  Tensor out;           // (N, C, *out spatial), contiguous
  Mode mode = Mode::linear;
  Padding padding = Padding::border;
  double scale = 1.0;
  bool add = false;
  int threads = 1;
};

void warp_forward(const WarpForward& call);

// The gradients of the above for scale = 1, each computed where its data is not null.
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
  // Of a composition: grad_displacement also receives grad_out, that of the term added.
  bool add = false;
  // Where one field is both image and displacement: the image's gradient is added to what
  // grad_displacement received, in the same memory, and all is multiplied by scale.
  bool accumulate = false;
  double scale = 1.0;
  int threads = 1;
};

void warp_backward(const WarpBackward& call);

}  // namespace plasticine
