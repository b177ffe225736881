// The warp in its cubic modes, and its adjoint, on the CPU.
#pragma once

#include "warp/cpu/warp.h"

namespace plasticine {

// What warp_forward and warp_backward do in Mode::cubic and Mode::bspline (of coefficients).
void warp_cubic_forward(const WarpForward& call);
void warp_cubic_backward(const WarpBackward& call);

// The gradient to the image; deterministic as scatter_to_image is.
template <typename T>
void scatter_cubic_to_image(const WarpBackward& call);

}  // namespace plasticine
