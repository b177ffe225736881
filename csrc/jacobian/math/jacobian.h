// Finite differences of a displacement and the determinant of I + du/dx, with their adjoints. One
// source for host and device.
#pragma once

#include "core/macros.h"
#include "core/types.h"

PLASTICINE_NAMESPACE_BEGIN

// A derivative along one axis is weight * (u[upper] - u[lower]); on an axis of one voxel it is 0.
template <typename T, typename Index>
struct Difference {
  Index lower;
  Index upper;
  T weight;
};

template <typename T, typename Index>
PLASTICINE_INLINE Difference<T, Index> difference_at(Scheme scheme, Index index, Index size) {
  const Index last = size - 1;
  Index lower = scheme == Scheme::forward ? index : index - 1;
  Index upper = scheme == Scheme::backward ? index : index + 1;
  // At the ends the other side stands in; the central difference becomes one-sided.
  if (index == 0) {
    lower = 0;
    upper = last > 0 ? 1 : 0;
  } else if (index == last) {
    lower = last - 1;
    upper = last;
  }
  const T weight = upper > lower ? T(1) / static_cast<T>(upper - lower) : T(0);
  return {lower, upper, weight};
}

// The coefficient of u[index] in the derivative at voxel `at`.
template <typename T, typename Index>
PLASTICINE_INLINE T difference_coefficient(Scheme scheme, Index at, Index index, Index size) {
  const Difference<T, Index> difference = difference_at<T>(scheme, at, size);
  return (difference.upper == index ? difference.weight : T(0)) -
         (difference.lower == index ? difference.weight : T(0));
}

// gradient[i][j] = du_i / dx_j, in voxels.
template <int D, typename T>
PLASTICINE_INLINE T jacobian_of(const T (&gradient)[D][D]) {
  static_assert(D == 2 || D == 3, "2D and 3D only");
  if constexpr (D == 2) {
    return (T(1) + gradient[0][0]) * (T(1) + gradient[1][1]) - gradient[0][1] * gradient[1][0];
  } else {
    const T a = T(1) + gradient[0][0];
    const T e = T(1) + gradient[1][1];
    const T i = T(1) + gradient[2][2];
    return a * (e * i - gradient[1][2] * gradient[2][1]) -
           gradient[0][1] * (gradient[1][0] * i - gradient[1][2] * gradient[2][0]) +
           gradient[0][2] * (gradient[1][0] * gradient[2][1] - e * gradient[2][0]);
  }
}

// cofactor[i][j] = d jacobian_of / d gradient[i][j].
template <int D, typename T>
PLASTICINE_INLINE void jacobian_cofactors(const T (&gradient)[D][D], T (&cofactor)[D][D]) {
  static_assert(D == 2 || D == 3, "2D and 3D only");
  if constexpr (D == 2) {
    cofactor[0][0] = T(1) + gradient[1][1];
    cofactor[0][1] = -gradient[1][0];
    cofactor[1][0] = -gradient[0][1];
    cofactor[1][1] = T(1) + gradient[0][0];
  } else {
    const T a = T(1) + gradient[0][0];
    const T b = gradient[0][1];
    const T c = gradient[0][2];
    const T d = gradient[1][0];
    const T e = T(1) + gradient[1][1];
    const T f = gradient[1][2];
    const T g = gradient[2][0];
    const T h = gradient[2][1];
    const T i = T(1) + gradient[2][2];
    cofactor[0][0] = e * i - f * h;
    cofactor[0][1] = f * g - d * i;
    cofactor[0][2] = d * h - e * g;
    cofactor[1][0] = c * h - b * i;
    cofactor[1][1] = a * i - c * g;
    cofactor[1][2] = b * g - a * h;
    cofactor[2][0] = b * f - c * e;
    cofactor[2][1] = c * d - a * f;
    cofactor[2][2] = a * e - b * d;
  }
}

PLASTICINE_NAMESPACE_END
