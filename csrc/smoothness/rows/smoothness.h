// The vectorised inner loops of the smoothness energies, over rows of one component.
#pragma once

#include <cstdint>

#include "core/cpu/simd.h"
#include "core/types.h"
#include "smoothness/math/smoothness.h"

namespace plasticine {

constexpr int kSmoothnessLanes = 16;  // at most

// Sums of squared differences. Their order depends on the rows alone.
struct SmoothnessSums {
  double lanes[kSmoothnessTerms][kSmoothnessLanes] = {};
};

// A row with those around it.
template <typename T>
struct EnergyRows {
  int ndim;
  int order;
  Scheme scheme;
  std::int64_t columns;
  bool exists[kSmoothnessTerms];  // as far as z and y say
  const T* row[3][3];             // [1 + planes][1 + rows] further; what no term reads may be null
};

// The rows that a row of the gradient is made of: the sum of weight * (row - centre) and, of the
// row R of the sums of along * (row - centre), the differences R(x +- reach) - R(x). Those with
// both come first.
template <typename T>
struct GradientRows {
  static constexpr int kMost = 12;

  int order;
  Scheme scheme;
  std::int64_t columns;
  const T* centre;
  int count;
  int turned;  // how many have both
  const T* row[kMost];
  T weight[kMost];
  T inner[kMost];  // weight - 2 along: of a column that has both sides
  T along[kMost];
  bool has_own;  // whether the derivatives along the row itself count, and by what
  T own;
};

template <typename T>
struct SmoothnessRows {
  void (*add_energy)(const EnergyRows<T>& rows, SmoothnessSums* sums);
  void (*gradient)(const GradientRows<T>& rows, T* out);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T> const SmoothnessRows<T>& smoothness_rows();)

namespace plasticine {

template <typename T>
const SmoothnessRows<T>& select_smoothness_rows() {
  return PLASTICINE_SELECT_SIMD(smoothness_rows<T>)();
}

}  // namespace plasticine
