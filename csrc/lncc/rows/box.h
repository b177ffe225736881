// Windows whose voxels count alike, at a cost that does not grow with them: moments of parts of a
// window are merged (Chan, Golub, LeVeque 1979), and never subtracted. What merges are kept as sums
// of squared differences from means, in place of variances.
#pragma once

#include <cstdint>

#include "core/cpu/simd.h"

namespace plasticine {

// Windows along a row of n results double: from 1 value to `size`, in so many passes.
inline int lncc_doublings(int size) {
  int count = 0;
  for (; size > 1; size /= 2) {
    ++count;
  }
  return count;
}

template <typename T>
struct LnccBox {
  int size;
  int n;
  std::int64_t padded;  // of rows of what is given: n + size + kLnccLanes, or more
  T* merges;            // four rows for each doubling
  const T* scale;       // of the sums along a row; null: 1
  T* buffer;            // five rows
};

// How two parts merge: with counts a and b of a + b.
template <typename T>
struct LnccMerge {
  T share;          // b / (a + b)
  T spread;         // a * b / (a + b)
  T scale;          // of the sums that result
  bool has_counts;  // each value has its own; only where not, are the above looked at
  bool normalise;   // with counts: scale by the inverse of that which results
};

template <typename T>
struct LnccBoxRows {
  // Writes box.merges. counts: of what windows along a row hold.
  void (*count)(const LnccBox<T>& box, const T* weight, T* counts);
  // Moments but the count. Element 0 of the sources is the first window's first.
  void (*along)(const LnccBox<T>& box, const T* x, const T* y, T* const* moments);
  // Of rows of moments that are `stride` apart; `to` may be either.
  void (*merge)(const LnccMerge<T>& merge, const T* a, const T* b, std::int64_t stride, int n,
                T* to);
  void (*sum_along)(const LnccBox<T>& box, const T* values, T* sums);
  void (*add)(const T* a, const T* b, std::int64_t n, T* to);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T> const LnccBoxRows<T>& lncc_box_rows();)

namespace plasticine {

template <typename T>
const LnccBoxRows<T>& select_lncc_box_rows() {
  return PLASTICINE_SELECT_SIMD(lncc_box_rows<T>)();
}

}  // namespace plasticine
