// The correlation in one window, and what the gradients are made of. One source for host and
// device.
#pragma once

#include "core/macros.h"
#include "lncc/types.h"

PLASTICINE_NAMESPACE_BEGIN

PLASTICINE_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
PLASTICINE_INLINE double square_root(double x) { return __builtin_sqrt(x); }

// Of a window: means and variances of the images less their shifts, as weighted means, and the sum
// of the weights.
template <typename T>
struct LnccMoments {
  T mean_x;
  T mean_y;
  T variance_x;
  T variance_y;
  T covariance;
  T count;
};

// What is the same for all windows of a channel.
template <typename T>
struct LnccConstants {
  T shift_x;  // what has been subtracted from the images
  T shift_y;
  T epsilon;
  T numerator;
};

// With S the sum of a term over all windows that hold a voxel, the gradient of the sum of all
// values is S[by_cross] y + S[by_x] x - S[rest_x] with respect to x, and S[by_cross] x + S[by_y] y
// - S[rest_y] to y, of the images less their shifts.
template <typename T>
struct LnccTerms {
  T value;
  T by_cross;
  T by_x;
  T by_y;
  T rest_x;
  T rest_y;
};

// Without branches, so that rows vectorise.
template <LnccStabiliser stabiliser, bool squared, typename T>
PLASTICINE_INLINE LnccTerms<T> lncc_terms(const LnccMoments<T>& window,
                                          const LnccConstants<T>& constants) {
  const T half = T(squared ? 1 : 0.5);
  T value;
  T by_cross;
  T by_x;  // by the variances, here
  T by_y;
  if constexpr (stabiliser == LnccStabiliser::flat) {
    const T raw_x = window.mean_x + constants.shift_x;
    const T raw_y = window.mean_y + constants.shift_y;
    const T flat = T(kLnccFlat);
    const T least = T(kLnccLeast);
    const T both = window.variance_x + window.variance_y;
    // A NaN stays one.
    const bool is_flat_x = (window.variance_x <= flat * (window.variance_x + raw_x * raw_x)) |
                           (window.variance_x <= least);
    const bool is_flat_y = (window.variance_y <= flat * (window.variance_y + raw_y * raw_y)) |
                           (window.variance_y <= least);
    const bool is_flat = ((is_flat_x | is_flat_y) & (both == both)) | (window.count == T(0));
    const T inverse_x = T(1) / (is_flat ? T(1) : window.variance_x);
    const T inverse_y = T(1) / (is_flat ? T(1) : window.variance_y);
    const T inverse_count = T(1) / (is_flat ? T(1) : window.count);
    const T cross = is_flat ? T(0) : window.covariance;
    if constexpr (squared) {
      value = (cross * inverse_x) * (cross * inverse_y);
      by_cross = T(2) * (cross * inverse_x) * inverse_y * inverse_count;
    } else {
      const T root_x = square_root(inverse_x);
      const T root_y = square_root(inverse_y);
      value = (cross * root_x) * root_y;
      by_cross = is_flat ? T(0) : root_x * root_y * inverse_count;
    }
    by_x = -half * value * inverse_x * inverse_count;
    by_y = -half * value * inverse_y * inverse_count;
  } else {
    const T cross = window.covariance * window.count;
    const T sum_x = window.variance_x * window.count;
    const T sum_y = window.variance_y * window.count;
    if constexpr (stabiliser == LnccStabiliser::floor) {
      const bool low_x = sum_x < constants.epsilon;
      const bool low_y = sum_y < constants.epsilon;
      const T inverse_x = T(1) / (low_x ? constants.epsilon : sum_x);
      const T inverse_y = T(1) / (low_y ? constants.epsilon : sum_y);
      if constexpr (squared) {
        value =
            (cross * inverse_x) * (cross * inverse_y) + constants.numerator * inverse_x * inverse_y;
        by_cross = T(2) * (cross * inverse_x) * inverse_y;
      } else {
        by_cross = square_root(inverse_x) * square_root(inverse_y);
        value = cross * by_cross;
      }
      by_x = low_x ? T(0) : -half * value * inverse_x;
      by_y = low_y ? T(0) : -half * value * inverse_y;
    } else {
      const T inverse = T(1) / (sum_x * sum_y + constants.epsilon);
      if constexpr (squared) {
        value = (cross * cross + constants.numerator) * inverse;
        by_cross = T(2) * cross * inverse;
      } else {
        by_cross = square_root(inverse);
        value = cross * by_cross;
      }
      by_x = -half * value * sum_y * inverse;
      by_y = -half * value * sum_x * inverse;
    }
  }
  by_x *= T(2);  // the derivative of a variance by a voxel is twice its difference from the mean
  by_y *= T(2);
  return {value,
          by_cross,
          by_x,
          by_y,
          by_cross * window.mean_y + by_x * window.mean_x,
          by_cross * window.mean_x + by_y * window.mean_y};
}

PLASTICINE_NAMESPACE_END
