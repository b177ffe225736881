// The adjoint of the warp in its image: what the warp gathers, the splat scatters.
#pragma once

#include "../common/tensor.h"

namespace plasticine {

// out(q) = sum over p of (weight with which the warp reads voxel q at p) * image(p); out,
// contiguous, is overwritten. The affine is the identity where its data is null.
struct Splat {
  Tensor image;         // (N, C, *spatial)
  Tensor displacement;  // (N, d, *spatial)
  Tensor affine;        // (N, d, d + 1)
  Tensor out;           // (N, C, *size)
  Mode mode = Mode::linear;
  Padding padding = Padding::border;
  int threads = 1;
};

void splat_forward(const Splat& call);

// The same for Mode::cubic and Mode::bspline (into coefficients).
void splat_cubic_forward(const Splat& call);

}  // namespace plasticine
