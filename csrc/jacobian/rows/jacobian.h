// The vectorised inner loops of the Jacobian determinant, over rows.
#pragma once

#include <cstdint>

#include "core/cpu/simd.h"
#include "core/types.h"

namespace plasticine {

// A row with those beside it. du_i / dx_j is, on all axes but the last, across[j] * scale[i] *
// (upper[i][j] - lower[i][j]); on the last it is the scheme's difference along centre[i], times
// scale[i].
template <typename T>
struct DifferenceRows {
  int ndim;
  Scheme scheme;
  std::int64_t columns;
  const T* centre[3];
  const T* lower[3][2];
  const T* upper[3][2];
  T across[2];
  T scale[3];
};

template <typename T>
struct JacobianRows {
  void (*determinant)(const DifferenceRows<T>& rows, T* out);
  // out[i * ndim + j][x] = grad[x] * cofactor[i][j].
  void (*cofactors)(const DifferenceRows<T>& rows, const T* grad, T* const* out);
  // out[n] = sum over terms of weights[term] * values[term][n], in the order of the terms.
  void (*combine)(const T* const* values, const T* weights, int terms, int n, T* out);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T> const JacobianRows<T>& jacobian_rows();)

namespace plasticine {

template <typename T>
const JacobianRows<T>& select_jacobian_rows() {
  return PLASTICINE_SELECT_SIMD(jacobian_rows<T>)();
}

}  // namespace plasticine
