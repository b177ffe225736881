// The equation that the inverse of a displacement solves at one voxel, and its linearisation.
//
// With r(w) = w + u(p + w), the inverse w satisfies r(w) = 0. r has the derivative M = I + grad u
// at p + w, u being interpolated: Newton's step is -M^-1 r, and the adjoint of "from u to w" needs
// M^-T.
#pragma once

#include "warp/math/cell.h"

PLASTICINE_NAMESPACE_BEGIN

// Multilinear interpolation of the corner values, and its derivative along every axis. The weights
// and their derivatives are those of AxisCell, [axis][first or second voxel].
template <int D, typename T>
PLASTICINE_INLINE T interpolate_and_differentiate(const T (&weight)[D][2],
                                                  const T (&derivative_weight)[D][2],
                                                  const T (&corner)[corner_count<D>],
                                                  T (&derivative)[D]) {
  constexpr int kLines = corner_count<D> / 2;
  T value[kLines];
  T along[kLines];
  for (int line = 0; line < kLines; ++line) {
    const T first = corner[2 * line];
    const T second = corner[2 * line + 1];
    value[line] = weight[D - 1][0] * first + weight[D - 1][1] * second;
    along[line] = derivative_weight[D - 1][0] * first + derivative_weight[D - 1][1] * second;
  }
  if constexpr (D == 2) {
    derivative[0] = derivative_weight[0][0] * value[0] + derivative_weight[0][1] * value[1];
    derivative[1] = weight[0][0] * along[0] + weight[0][1] * along[1];
    return weight[0][0] * value[0] + weight[0][1] * value[1];
  } else {
    T plane[2];
    T across[2];
    T last[2];
    for (int side = 0; side < 2; ++side) {
      const T first = value[2 * side];
      const T second = value[2 * side + 1];
      plane[side] = weight[1][0] * first + weight[1][1] * second;
      across[side] = derivative_weight[1][0] * first + derivative_weight[1][1] * second;
      last[side] = weight[1][0] * along[2 * side] + weight[1][1] * along[2 * side + 1];
    }
    derivative[0] = derivative_weight[0][0] * plane[0] + derivative_weight[0][1] * plane[1];
    derivative[1] = weight[0][0] * across[0] + weight[0][1] * across[1];
    derivative[2] = weight[0][0] * last[0] + weight[0][1] * last[1];
    return weight[0][0] * plane[0] + weight[0][1] * plane[1];
  }
}

// Solves M x = right, or with `transposed` M^T x = right, where M = I + gradient; gradient[i][a] is
// the derivative of component i along axis a. Infinite or NaN where M is singular.
template <int D, bool transposed, typename T>
PLASTICINE_INLINE void solve_moved(const T (&gradient)[D][D], const T (&right)[D], T (&x)[D]) {
  T m[D][D];
  for (int i = 0; i < D; ++i) {
    for (int a = 0; a < D; ++a) {
      m[i][a] = gradient[i][a] + (i == a ? T(1) : T(0));
    }
  }
  T cofactor[D][D];
  if constexpr (D == 2) {
    cofactor[0][0] = m[1][1];
    cofactor[0][1] = -m[1][0];
    cofactor[1][0] = -m[0][1];
    cofactor[1][1] = m[0][0];
  } else {
    for (int i = 0; i < 3; ++i) {
      const int i1 = (i + 1) % 3;
      const int i2 = (i + 2) % 3;
      for (int a = 0; a < 3; ++a) {
        const int a1 = (a + 1) % 3;
        const int a2 = (a + 2) % 3;
        cofactor[i][a] = m[i1][a1] * m[i2][a2] - m[i1][a2] * m[i2][a1];
      }
    }
  }
  T determinant = T(0);
  for (int a = 0; a < D; ++a) {
    determinant += m[0][a] * cofactor[0][a];
  }
  const T inverse = T(1) / determinant;
  for (int row = 0; row < D; ++row) {
    T sum = T(0);
    for (int column = 0; column < D; ++column) {
      sum += (transposed ? cofactor[row][column] : cofactor[column][row]) * right[column];
    }
    x[row] = sum * inverse;
  }
}

// The next step from a residual. Newton's, unless it is not asked for or M is so nearly singular,
// as in a fold, that it leads far away: then the fixed point's, -r.
template <int D, typename T>
PLASTICINE_INLINE void inversion_step(const T (&gradient)[D][D], const T (&residual)[D],
                                      T squared_residual, bool newton, T (&step)[D]) {
  constexpr T kFarthest = T(4);  // times the residual
  solve_moved<D, false>(gradient, residual, step);
  T squared_step = T(0);
  for (int axis = 0; axis < D; ++axis) {
    squared_step += step[axis] * step[axis];
  }
  const bool near = newton && squared_step <= kFarthest * kFarthest * squared_residual;
  for (int axis = 0; axis < D; ++axis) {
    step[axis] = near ? -step[axis] : -residual[axis];
  }
}

// Newton's steps before as many of the fixed point's, in turn: each gets out of what stops the
// other.
constexpr int kStepsInTurn = 12;

PLASTICINE_INLINE bool is_newton_step(int iteration) { return iteration / kStepsInTurn % 2 == 0; }

// How much of the next step is taken: twice as much as of the last, 1 at most, where the residual
// has shrunk, half as much where it has not.
template <typename T>
PLASTICINE_INLINE T next_relaxation(T relaxation, T squared_residual, T squared_before) {
  const T halved = T(0.5) * relaxation;
  const T doubled = relaxation < T(0.5) ? T(2) * relaxation : T(1);
  return squared_residual < squared_before ? doubled : halved;
}

PLASTICINE_NAMESPACE_END
