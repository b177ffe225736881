// The vectorised inner loops of the Jacobian determinant, over pieces of rows along which the
// finite difference is the same.
#pragma once

#include "../common/simd.h"
#include "../common/types.h"

namespace plasticine {

// du_i / dx_j of voxel n of the piece is weight[i][j] * (upper[i][j][n] - lower[i][j][n]).
template <typename T>
struct DifferenceRows {
  int ndim;
  const T* lower[3][3];
  const T* upper[3][3];
  T weight[3][3];
};

template <typename T>
struct JacobianRows {
  void (*determinant)(const DifferenceRows<T>& rows, int n, T* out);
  // out[i * ndim + j][n] = grad[n] * cofactor[i][j].
  void (*cofactors)(const DifferenceRows<T>& rows, const T* grad, int n, T* const* out);
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
