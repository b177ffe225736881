// The warp in its cubic modes, and its adjoint, on the CPU: what warp_forward and warp_backward do
// in Mode::cubic and Mode::bspline (of coefficients).
#pragma once

#include "warp/cpu/warp.h"

namespace plasticine {

void warp_cubic_forward(const WarpForward& call);
void warp_cubic_backward(const WarpBackward& call);

}  // namespace plasticine
