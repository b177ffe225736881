// The inverse of a displacement, w(p) = -u(p + w(p)), and its adjoint.
#pragma once

#include "core/tensor.h"

namespace plasticine {

struct Invert {
  Tensor displacement;   // u, (N, d, *spatial)
  Tensor out;            // w, the same, contiguous
  Tensor residual;       // (N,), of the accumulator type: the largest |w(p) + u(p + w(p))|
  Tensor iterations;     // (N,) int64: the most steps that a voxel took
  double tolerance = 0;  // of the residual, in voxels
  int limit = 0;         // the most steps
  Padding padding = Padding::border;
  int threads = 1;
};

// Each voxel is solved for by itself, a block of them at a time in cache. A voxel is NaN, and so is
// the residual, where the search meets no finite number.
void invert_forward(const Invert& call);

struct InvertBackward {
  Tensor grad_out;
  Tensor displacement;
  Tensor inverse;            // w, as invert_forward gave it
  Tensor adjoint;            // scratch like w, of the accumulator type, contiguous
  Tensor grad_displacement;  // contiguous
  Padding padding = Padding::border;
  int threads = 1;
};

// Of w as a function of u, by the implicit function theorem: grad u = -splat(M^-T grad w, w), where
// M = I + grad u at p + w(p).
void invert_backward(const InvertBackward& call);

}  // namespace plasticine
