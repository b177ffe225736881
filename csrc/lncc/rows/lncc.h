// The vectorised inner loops of local normalised cross-correlation, over rows of channels.
#pragma once

#include <cstdint>

#include "core/cpu/simd.h"
#include "lncc/math/lncc.h"

namespace plasticine {

// The means, variances and covariance of LnccMoments, and with a mask the count.
constexpr int kLnccMoments = 6;
// Rows that windows are taken over are multiples of this many values long, and start on a multiple.
constexpr std::int64_t kLnccLanes = 16;

// A window of weighted values. out: n values each, where a whole number of lanes is written.
template <typename T>
struct LnccWindow {
  const T* taps;
  int size;          // of the taps
  const T* inverse;  // of the sum of the weights at each value; null: with a mask
  int n;
  int whole[2];  // along a row without a mask: where the weights are 1 at every tap, and the end
};

template <typename T>
struct LnccRows {
  // Values less a shift; 0, whatever the value, where the weight is 0.
  void (*prepare)(const T* weight, T shift, int n, T* values);
  // Moments along a row. Element 0 of the sources is the first tap's at the first result.
  void (*along)(const LnccWindow<T>& window, const T* weight, const T* x, const T* y,
                T* const* moments);
  // Moments across rows of moments, one row for each tap, whose moments are `stride` apart.
  // inverse: one value for all.
  void (*across)(const LnccWindow<T>& window, const T* const* rows, std::int64_t stride,
                 T* const* moments);
  // Weighted sums along a row, and across rows.
  void (*sum_along)(const LnccWindow<T>& window, const T* values, T* sums);
  void (*sum_across)(const LnccWindow<T>& window, const T* const* rows, T* sums);
  // The sum of weight * value over a row of windows, whose counts the moments hold.
  double (*value)(LnccStabiliser stabiliser, bool squared, const LnccConstants<T>& constants,
                  const T* const* moments, const T* weight, int n);
  // terms: by_cross, by_x, rest_x, by_y, rest_y, times weight; no target may be null.
  void (*terms)(LnccStabiliser stabiliser, bool squared, const LnccConstants<T>& constants,
                const T* const* moments, const T* weight, int n, T* const* terms);
  // out = scale * weight * (cross * other + by_own * own - rest); 0 where the weight is 0.
  void (*gradient)(T scale, const T* weight, const T* cross, const T* other, const T* by_own,
                   const T* own, const T* rest, int n, T* out);
  double (*sum)(const T* values, int n);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T> const LnccRows<T>& lncc_rows();)

namespace plasticine {

template <typename T>
const LnccRows<T>& select_lncc_rows() {
  return PLASTICINE_SELECT_SIMD(lncc_rows<T>)();
}

}  // namespace plasticine
