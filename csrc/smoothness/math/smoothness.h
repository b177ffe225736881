// The finite differences of the smoothness energies: where they are taken, how much each counts,
// and their adjoints. One source for host and device. Axes are (z, y, x); in 2D z has one voxel.
//
// An energy is a sum of squared differences of terms, each along one axis (first, or twice) or
// along two. With D the difference along an axis, the gradient of a term is a product over the axes
// of D^T D, and of which voxels count along those where nothing is derived. D^T D of a first
// difference takes the voxels `reach` away alone:
//   (D^T D v)(p) = -square * sum over both sides of (v(p +- reach) - v(p)), as far as they exist.
// All is written in differences from v(p): sums of products with v itself would lose them in v.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/types.h"

PLASTICINE_NAMESPACE_BEGIN

template <typename Index>
PLASTICINE_INLINE bool is_inner(Index index, Index size) {
  return index > 0 && index < size - 1;
}

// Whether a place counts along an axis on which nothing is derived: central differences are taken
// where there are neighbours on all sides, but for axes too short to have any.
template <typename Index>
PLASTICINE_INLINE bool is_counted(Scheme scheme, Index index, Index size) {
  return scheme != Scheme::central || size < 3 || is_inner(index, size);
}

PLASTICINE_INLINE int first_reach(Scheme scheme) { return scheme == Scheme::central ? 2 : 1; }

PLASTICINE_INLINE double first_square(Scheme scheme) {
  return scheme == Scheme::central ? 0.25 : 1.0;
}

// Of [1, -2, 1] and its adjoint: the coefficient at `index` of v(index + step), step being 1 or 2
// to either side; 0 where that is outside.
template <typename Index>
PLASTICINE_INLINE int second_coefficient(Index index, int step, Index size) {
  const Index at = index + step;
  if (at < 0 || at >= size) {
    return 0;
  }
  if (step == 2 || step == -2) {
    return 1;
  }
  return -2 * (static_cast<int>(is_inner(index, size)) + static_cast<int>(is_inner(at, size)));
}

// The terms are along z, y, x (once or, of second order, twice), then along z and y, z and x, y and
// x.
constexpr int kSmoothnessTerms = 6;
PLASTICINE_INLINE constexpr int first_axis(int term) { return term < 3 ? term : term == 5 ? 1 : 0; }
PLASTICINE_INLINE constexpr int second_axis(int term) {
  return term < 3 ? term : term == 3 ? 1 : 2;
}

// What the sum of the squared differences of a term is multiplied by, in the energy of a component;
// 0 where there are none.
struct SmoothnessWeights {
  double of[kSmoothnessTerms];

  PLASTICINE_INLINE SmoothnessWeights(const std::int64_t (&size)[3], const double (&spacing)[3],
                                      int order, Scheme scheme) {
    for (int term = 0; term < kSmoothnessTerms; ++term) {
      const int first = first_axis(term);
      const int second = order == 2 ? second_axis(term) : -1;
      const double unit = spacing[first] * (second < 0 ? 1.0 : spacing[second]);
      const double places = count(size, scheme, first, second);
      const bool is_taken = places > 0 && (order == 2 || term < 3);
      of[term] = is_taken ? (term < 3 ? 1 : 2) / (unit * unit * places) : 0;
    }
  }

 private:
  // Places of the difference along an axis and, where it is one, a second.
  PLASTICINE_INLINE static double count(const std::int64_t (&size)[3], Scheme scheme, int first,
                                        int second) {
    double places = 1;
    for (int axis = 0; axis < 3; ++axis) {
      const int derived = (axis == first ? 1 : 0) + (axis == second ? 1 : 0);
      const bool both_sides = scheme == Scheme::central && (derived > 0 || size[axis] > 2);
      const std::int64_t left = size[axis] - (both_sides ? 2 : derived);
      places *= left > 0 ? static_cast<double>(left) : 0.0;
    }
    return places;
  }
};

PLASTICINE_NAMESPACE_END
