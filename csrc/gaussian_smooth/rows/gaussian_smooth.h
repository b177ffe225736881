// The vectorised inner loops of Gaussian smoothing: sums over rows, and along one.
#pragma once

#include <cstdint>

#include "core/cpu/simd.h"

namespace plasticine {

// So many rows of results are made at once, of sources that most of them share.
constexpr int kGaussianRows = 4;

template <typename T>
struct GaussianRows {
  // out[r][x] is the sum of weights[k] * sources[r + k][x] over `taps` weights, for `count` rows r,
  // from 1 to kGaussianRows. No row that is written is read.
  void (*across)(const T* const* sources, const T* weights, int taps, int count, std::int64_t n,
                 T* const* out);
  // out[x] is the sum of weights[k] * values[x + k].
  void (*along)(const T* values, const T* weights, int taps, std::int64_t n, T* out);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T> const GaussianRows<T>& gaussian_rows();)

namespace plasticine {

template <typename T>
const GaussianRows<T>& select_gaussian_rows() {
  return PLASTICINE_SELECT_SIMD(gaussian_rows<T>)();
}

}  // namespace plasticine
