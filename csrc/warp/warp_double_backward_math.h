// Second derivatives of multilinear interpolation (warp_math.h has the first ones).
#pragma once

#include "warp_math.h"

PLASTICINE_NAMESPACE_BEGIN

// The pairs of different axes, in the order (0, 1), (0, 2), (1, 2).
template <int D>
constexpr int axis_pairs = D * (D - 1) / 2;

// The derivatives of interpolate with respect to the locations on both axes of each pair; along one
// axis alone it is linear.
template <int D, typename T>
PLASTICINE_INLINE void mixed_derivatives(const T (&lower)[D], const T (&upper)[D],
                                         const T (&corner)[corner_count<D>],
                                         T (&mixed)[axis_pairs<D>]) {
  static_assert(D == 2 || D == 3, "2D and 3D only");
  if constexpr (D == 2) {
    mixed[0] = (corner[3] - corner[2]) - (corner[1] - corner[0]);
  } else {
    const T a = corner[1] - corner[0];
    const T b = corner[3] - corner[2];
    const T c = corner[5] - corner[4];
    const T d = corner[7] - corner[6];
    mixed[0] = lower[2] * ((corner[6] - corner[4]) - (corner[2] - corner[0])) +
               upper[2] * ((corner[7] - corner[5]) - (corner[3] - corner[1]));
    mixed[1] = lower[1] * (c - a) + upper[1] * (d - b);
    mixed[2] = lower[0] * (b - a) + upper[0] * (d - c);
  }
}

// Adds scale * (the derivative, with respect to each axis' location, of interpolate's derivative
// along a direction) to gradient.
template <int D, typename T>
PLASTICINE_INLINE void add_directed_gradient(const T (&mixed)[axis_pairs<D>],
                                             const T (&direction)[D], T scale, T (&gradient)[D]) {
  if constexpr (D == 2) {
    gradient[0] += scale * (direction[1] * mixed[0]);
    gradient[1] += scale * (direction[0] * mixed[0]);
  } else {
    gradient[0] += scale * (direction[1] * mixed[0] + direction[2] * mixed[1]);
    gradient[1] += scale * (direction[0] * mixed[0] + direction[2] * mixed[2]);
    gradient[2] += scale * (direction[0] * mixed[1] + direction[1] * mixed[2]);
  }
}

// The derivative of corner_weight along a direction.
template <int D, typename T>
PLASTICINE_INLINE T directed_corner_weight(const T (&lower)[D], const T (&upper)[D],
                                           const T (&direction)[D], int c) {
  T sum = T(0);
  for (int along = 0; along < D; ++along) {
    T weight = (c >> (D - 1 - along)) & 1 ? direction[along] : -direction[along];
    for (int axis = 0; axis < D; ++axis) {
      if (axis != along) {
        weight *= (c >> (D - 1 - axis)) & 1 ? upper[axis] : lower[axis];
      }
    }
    sum += weight;
  }
  return sum;
}

PLASTICINE_NAMESPACE_END
