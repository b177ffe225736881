// The CUDA inversion as the bindings call it. Nothing here needs a CUDA header.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace plasticine::cuda {

struct Invert {
  Tensor displacement;  // u, (N, d, *spatial)
  Tensor out;           // w, the same, contiguous
  // Per block of kInvertThreads voxels, contiguous (N, blocks): the largest |w(p) + u(p + w(p))|^2,
  // in the accumulator's type, NaN where any is; and the most steps that a voxel took, int64.
  Tensor squared_residual;
  Tensor iterations;
  double tolerance = 0;  // of the residual, in voxels
  int limit = 0;         // the most steps
  Padding padding = Padding::border;
};

constexpr int kInvertThreads = 128;

// Each voxel is solved for by a thread of its own, from -u(p), as on the CPU: Newton's steps and
// the fixed point's in turn, with relaxation. A voxel is NaN where its search meets no finite
// number. Launched on the stream; raises std::runtime_error with CUDA's message.
void invert_forward(const Invert& call, int device, std::uintptr_t stream);

// adjoint = -M^-T grad, M = I + grad u at p + w(p): contiguous, (N, d, *spatial), in the
// accumulator's type. What it scatters to u is the warp's backward.
void invert_adjoint(const Tensor& grad, const Tensor& displacement, const Tensor& inverse,
                    const Tensor& adjoint, Padding padding, int device, std::uintptr_t stream);

}  // namespace plasticine::cuda
