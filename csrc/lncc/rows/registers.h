// A register's worth of values. Sums over a window stay in registers: in loops over rows they would
// go through memory for every tap.
#pragma once

#include "core/macros.h"

PLASTICINE_NAMESPACE_BEGIN

#if defined(PLASTICINE_SIMD_AVX512)
constexpr int kRegister = 64;
#elif defined(PLASTICINE_SIMD_AVX2)
constexpr int kRegister = 32;
#else
constexpr int kRegister = 16;
#endif

template <typename T>
struct Lanes {
  typedef T type __attribute__((vector_size(kRegister)));
  static constexpr int kCount = kRegister / static_cast<int>(sizeof(T));
};
template <typename T>
using lanes_t = typename Lanes<T>::type;

template <typename T>
PLASTICINE_INLINE lanes_t<T> load_lanes(const T* values) {
  lanes_t<T> lanes;
  __builtin_memcpy(&lanes, values, sizeof lanes);
  return lanes;
}

template <typename T>
PLASTICINE_INLINE void store_lanes(const lanes_t<T>& lanes, T* values) {
  __builtin_memcpy(values, &lanes, sizeof lanes);
}

// Of 0 by 0, 0.
template <typename T>
PLASTICINE_INLINE lanes_t<T> quotient(const lanes_t<T>& part, const lanes_t<T>& whole) {
  const lanes_t<T> one = lanes_t<T>{} + T(1);
  return whole != T(0) ? part / (whole != T(0) ? whole : one) : whole;
}

PLASTICINE_NAMESPACE_END
