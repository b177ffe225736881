// Conversion of rows between their stored type and the accumulator type, and sums over rows.
#pragma once

#include <cstdint>

#include "core/cpu/simd.h"
#include "core/types.h"

namespace plasticine {

// T is the accumulator type. An entry is null where that dtype is not computed in T.
template <typename T>
struct ConvertRows {
  using Load = void (*)(const void* source, std::int64_t stride, int n, T* out);
  using Store = void (*)(const T* values, int n, void* out);
  Load load[4];    // by DType: out[j] = source[j * stride]
  Store store[4];  // by DType: out[j] = values[j], contiguous

  // out[j] = start + step * j + scale * values[j]; out may be values.
  void (*ramp)(const T* values, T scale, T start, T step, int n, T* out);
  // Adds the sum of values to sums[0] and that of j * values[j] to sums[1], in an order that
  // depends on n alone.
  void (*moments)(const T* values, int n, double* sums);
  // The least and the greatest value that is not NaN; +inf and -inf when there is none.
  void (*range)(const T* values, int n, T* lowest, T* highest);
  bool (*has_nan)(const T* values, int n);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T> const ConvertRows<T>& convert_rows();)

namespace plasticine {

template <typename T>
const ConvertRows<T>& select_convert_rows() {
  return PLASTICINE_SELECT_SIMD(convert_rows<T>)();
}

}  // namespace plasticine
