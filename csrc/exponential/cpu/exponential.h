// The exponential of a stationary velocity field v by scaling and squaring (Arsigny et al., MICCAI
// 2006), and its adjoint: u_0 is one step of a Runge-Kutta method over scale = 2^-steps of the unit
// of time, and u_{k+1} = compose(u_k, u_k).
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace plasticine {

struct Flow {
  Tensor velocity;     // (N, d, *spatial), float32 or float64, any strides
  double scale = 1.0;  // 2^-steps, or its negative for the inverse
  int steps = 0;
  Method method = Method::euler;
  Padding padding = Padding::border;
  int threads = 1;
};

// The first of the u_k that is ever in memory: Euler's u_0 is the velocity, scaled as it is read.
inline int first_stage(const Flow& flow) {
  return flow.method == Method::euler && flow.steps > 0 ? 1 : 0;
}

// Whether there is no voxel, and so nothing to compute. PyTorch gives such tensors no address.
inline bool is_empty(const Flow& flow) {
  std::int64_t voxels = flow.velocity.shape[0];
  for (int axis = 2; axis < flow.velocity.ndim; ++axis) {
    voxels *= flow.velocity.shape[axis];
  }
  return voxels == 0;
}

// Some of the u_k before the last, in a contiguous stack (kept, N, d, *spatial).
struct Stages {
  Tensor fields;
  std::vector<int> kept;  // their k, ascending
};

// Memory for what is neither kept nor returned, a contiguous stack (fields, slots, d, *spatial). As
// many samples are integrated at a time as there are slots; it says so even where it has no field.
using Scratch = Tensor;

// Writes exp(v) to out and, where inverse has data, exp(-v) to it, both contiguous, as are all
// fields here. stages receives the listed u_k, first those of exp(v), then those of exp(-v).
// scratch: one field, or two with inverse, needed unless all of the u_k are kept.
void exponential_forward(const Flow& flow, const Tensor& out, const Tensor& inverse,
                         const Stages& stages, const Scratch& scratch);

// From the last kept stage on: writes exp(v). scratch: one field.
void exponential_resume(const Flow& flow, const Tensor& out, const Stages& stages,
                        const Scratch& scratch);

// The gradient to the velocity. Stages that are not kept are computed again, in the memory of
// grad_velocity and scratch: the more fields, the fewer are computed more than once. Needed are,
// with steps + 1 - first_stage = c gradients to form: none for c = 1, one for c = 2 or where all
// stages are kept, else two; with rk4 four.
void exponential_backward(const Flow& flow, const Tensor& grad_out, const Stages& stages,
                          const Tensor& grad_velocity, const Scratch& scratch);

// The greatest Euclidean norm of a voxel's velocity; voxels where it is not finite do not count.
double exponential_peak(const Tensor& velocity, int threads);

}  // namespace plasticine
