// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "core/rows/convert.h"

#include "core/avx512/lanes.h"
#include "core/half.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

// Rows are read in turn from several places, each too briefly for the hardware to run ahead.
template <typename Stored>
PLASTICINE_INLINE void fetch_ahead(const Stored* row, int n) {
  for (int j = 0; j < n; j += 64 / static_cast<int>(sizeof(Stored))) {
    __builtin_prefetch(row + 2 * n + j);
  }
}

template <typename Stored, typename T>
void load_row(const void* source, std::int64_t stride, int n, T* out) {
  const Stored* PLASTICINE_RESTRICT values = static_cast<const Stored*>(source);
  if (stride == 1) {
    fetch_ahead(values, n);
    for (int j = 0; j < n; ++j) {
      out[j] = load(values[j]);
    }
  } else {
    for (int j = 0; j < n; ++j) {
      out[j] = load(values[j * stride]);
    }
  }
}

template <typename Stored, typename T>
void store_row(const T* PLASTICINE_RESTRICT values, int n, void* out) {
  store_values(values, n, static_cast<Stored*>(out));
}

#if defined(PLASTICINE_SIMD_AVX512)
// The conversion instruction, which the compiler does not find in the arithmetic of half.h.
template <>
void load_row<Half, float>(const void* source, std::int64_t stride, int n, float* out) {
  const Half* values = static_cast<const Half*>(source);
  if (stride != 1) {
    for (int j = 0; j < n; ++j) {
      out[j] = load(values[j * stride]);
    }
    return;
  }
  fetch_ahead(values, n);
  for (int j = 0; j < n; j += kLanes) {
    const unsigned live = first_bits(n - j < kLanes ? n - j : kLanes);
    store_lanes(load_lanes(values + j, live), live, out + j);
  }
}
#endif

template <typename T>
void ramp(const T* values, T scale, T start, T step, int n, T* out) {
  for (int j = 0; j < n; ++j) {
    out[j] = start + step * static_cast<T>(j) + scale * values[j];
  }
}

template <typename T>
void moments(const T* values, int n, double* sums) {
  constexpr int kLanes = 16;
  double sum[kLanes] = {};
  double weighted[kLanes] = {};
  int j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double value = static_cast<double>(values[j + lane]);
      sum[lane] += value;
      weighted[lane] += value * static_cast<double>(j + lane);
    }
  }
  for (int lane = 0; j + lane < n; ++lane) {
    const double value = static_cast<double>(values[j + lane]);
    sum[lane] += value;
    weighted[lane] += value * static_cast<double>(j + lane);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    sums[0] += sum[lane];
    sums[1] += weighted[lane];
  }
}

// By halving: as a reduction, a minimum that passes over NaN would not vectorise.
template <typename T>
void range(const T* values, int n, T* lowest, T* highest) {
  constexpr int kPart = 64;
  alignas(64) T low[kPart];
  alignas(64) T high[kPart];
  for (int j = 0; j < kPart; ++j) {
    low[j] = static_cast<T>(__builtin_inf());
    high[j] = static_cast<T>(-__builtin_inf());
  }
  for (int start = 0; start < n; start += kPart) {
    const int count = n - start < kPart ? n - start : kPart;
    for (int j = 0; j < count; ++j) {
      const T value = values[start + j];
      low[j] = value < low[j] ? value : low[j];
      high[j] = value > high[j] ? value : high[j];
    }
  }
  for (int half = kPart / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) {
      low[j] = low[j + half] < low[j] ? low[j + half] : low[j];
      high[j] = high[j + half] > high[j] ? high[j + half] : high[j];
    }
  }
  *lowest = low[0];
  *highest = high[0];
}

template <typename T>
bool has_nan(const T* values, int n) {
  int count = 0;
  for (int j = 0; j < n; ++j) {
    count |= values[j] == values[j] ? 0 : 1;
  }
  return count != 0;
}

}  // namespace

template <typename T>
const ConvertRows<T>& convert_rows();

template <>
const ConvertRows<float>& convert_rows<float>() {
  static constexpr ConvertRows<float> kTable = {
      {load_row<float>, nullptr, load_row<Half>, load_row<BFloat16>},
      {store_row<float>, nullptr, store_row<Half>, store_row<BFloat16>},
      ramp<float>,
      moments<float>,
      range<float>,
      has_nan<float>};
  return kTable;
}

template <>
const ConvertRows<double>& convert_rows<double>() {
  static constexpr ConvertRows<double> kTable = {{nullptr, load_row<double>, nullptr, nullptr},
                                                 {nullptr, store_row<double>, nullptr, nullptr},
                                                 ramp<double>,
                                                 moments<double>,
                                                 range<double>,
                                                 has_nan<double>};
  return kTable;
}

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
