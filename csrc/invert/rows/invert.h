// The vectorised inner loops of the inversion, over voxels that are iterated together.
#pragma once

#include <cstdint>

#include "warp/rows/linear.h"

namespace plasticine {

// The voxels being iterated; rows of kBlock per axis.
template <typename T>
struct Iterates {
  alignas(64) T position[3 * kBlock];
  alignas(64) T inverse[3 * kBlock];
  alignas(64) T squared_residual[kBlock];  // of the iterate before; infinite at the start
  alignas(64) T relaxation[kBlock];        // the share of a step that is taken; 1 at the start
};

// How many voxels an iteration leaves above the tolerance, and how many had no finite residual.
struct Remaining {
  int open;
  int undefined;
};

// field holds the displacement's components; T is its accumulator type.
template <typename T>
struct InvertRows {
  // Evaluates the residual of n iterates, and moves those above the tolerance by their next step.
  // What is not finite stays where it is.
  Remaining (*advance)(const void* const* field, const ImageShape& shape, Padding padding, int n,
                       T squared_tolerance, bool newton, Iterates<T>* iterates);
  // The same without a step.
  Remaining (*evaluate)(const void* const* field, const ImageShape& shape, Padding padding, int n,
                        T squared_tolerance, Iterates<T>* iterates);
  // out = -M^-T grad at the coordinates; rows of kBlock per axis.
  void (*solve_adjoint)(const void* const* field, const ImageShape& shape, Padding padding,
                        const T* coordinates, int n, const T* grad, T* out);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T>
                        const InvertRows<T>& invert_rows(DType field, bool wide);)

namespace plasticine {

// wide: offsets within the field need 64 bits.
template <typename T>
const InvertRows<T>& select_invert_rows(DType field, bool wide) {
  return wide ? baseline::invert_rows<T>(field, true)
              : PLASTICINE_SELECT_SIMD(invert_rows<T>)(field, false);
}

}  // namespace plasticine
