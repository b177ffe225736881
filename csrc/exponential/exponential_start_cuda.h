// The steps from the velocity that are no composition: launches on the current device.
#pragma once

#include "exponential/cpu/exponential.h"

namespace plasticine::cuda {

// Writes scale * velocity (euler), or one step of the classical Runge-Kutta method (rk4), to out
// and, where inverse has data, the same over -scale to it.
void start_forward(const Flow& flow, const Tensor& out, const Tensor& inverse,
                   std::uintptr_t stream);

// Writes the second and third slope of the classical Runge-Kutta step, unscaled.
void store_slopes(const Flow& flow, const Tensor& second, const Tensor& third,
                  std::uintptr_t stream);

}  // namespace plasticine::cuda
