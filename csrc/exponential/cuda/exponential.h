// The CUDA exponential as the bindings call it; see exponential_cpu.h for what each function does
// and for the memory that it needs. All launches of a call are queued by it. Nothing here needs a
// CUDA header.
#pragma once

#include "exponential/schedule.h"

namespace plasticine::cuda {

void exponential_forward(const Flow& flow, const Tensor& out, const Tensor& inverse,
                         const Stages& stages, const Tensor& scratch, int device,
                         std::uintptr_t stream);

void exponential_resume(const Flow& flow, const Tensor& out, const Stages& stages,
                        const Tensor& scratch, int device, std::uintptr_t stream);

// The order of the atomics shows in the last bits of the result.
void exponential_backward(const Flow& flow, const Tensor& grad_out, const Stages& stages,
                          const Tensor& grad_velocity, const Tensor& scratch, int device,
                          std::uintptr_t stream);

// Raises the float64 element of `peak` to the greatest square of a voxel's speed; voxels where that
// is not finite do not count.
void exponential_peak(const Tensor& velocity, const Tensor& peak, int device,
                      std::uintptr_t stream);

// What follows launches on the current device.

// From the velocity to the displacement of stage `target`, for what goes on from there itself.
// targets are in ascending order, and spare is a field.
void integrate(const Flow& flow, int from, const Tensor& source, const std::vector<Target>& targets,
               const Tensor& spare, std::uintptr_t stream);

// Writes scale * velocity (euler), or one step of the classical Runge-Kutta method (rk4), to out[0]
// and, where there is one, the same over -scale to out[1].
void take_step(const Flow& flow, const std::vector<Tensor>& out, std::uintptr_t stream);

// Writes the second and third velocity of the classical Runge-Kutta step, unscaled.
void store_slopes(const Flow& flow, const Tensor& second, const Tensor& third,
                  std::uintptr_t stream);

}  // namespace plasticine::cuda
