// The vectorised inner loops of the folding statistics.
#pragma once

#include "core/cpu/simd.h"
#include "core/types.h"

namespace plasticine {

// Sums over a set of voxels. Their order depends on the set alone.
struct FoldingSums {
  double folds = 0;
  double minimum = 0;
  double maximum = 0;
  double nan = 0;
  double log_sum = 0;  // of log(max(J, 1e-9)) - shift
  double log_squares = 0;
};

template <typename T>
struct FoldingRows {
  // Adds a row of Jacobians. minimum and maximum must start at +inf and -inf.
  void (*add_jacobians)(const T* jacobian, int n, T log_shift, FoldingSums* sums);
  // The log that the shift is to be taken from.
  double (*log_jacobian)(T jacobian);
  // Adds the non-diffeomorphic volume of n cells along a row. corner[i][c] is component i at the
  // first of the two corners on line c of the cell: (0, 1) in 2D, (00, 01, 10, 11) in 3D; scale
  // turns component i into voxels.
  void (*add_cells)(int ndim, const T* const (*corner)[4], const T* scale, int n, double* volume);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T> const FoldingRows<T>& folding_rows();)

namespace plasticine {

template <typename T>
const FoldingRows<T>& select_folding_rows() {
  return PLASTICINE_SELECT_SIMD(folding_rows<T>)();
}

}  // namespace plasticine
