// As many values as a register of the instruction set holds, as the compiler's own vector types:
// for loops that it does not vectorise itself, as sums. Compiled once per instruction set; see
// macros.h.
#pragma once

#include "core/macros.h"

PLASTICINE_NAMESPACE_BEGIN

#if defined(PLASTICINE_SIMD_AVX512)
constexpr int kVectorBytes = 64;
#elif defined(PLASTICINE_SIMD_AVX2)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

// A vector, or one value, from where it is not aligned.
template <typename Value, typename T>
PLASTICINE_INLINE Value load_vector(const T* source) {
  Value value;
  __builtin_memcpy(&value, source, sizeof value);
  return value;
}

template <typename Value, typename T>
PLASTICINE_INLINE void store_vector(const Value& value, T* target) {
  __builtin_memcpy(target, &value, sizeof value);
}

// Calls work(x, Value()) so that every column of [first, last) is met, some maybe twice: in
// vectors, the last of which overlaps, or one by one where there are fewer columns than a vector
// has.
template <typename T, typename Work>
PLASTICINE_INLINE void for_each_vector(std::int64_t first, std::int64_t last, const Work& work) {
  constexpr int kLanes = VectorOf<T>::kLanes;
  if (last - first < kLanes) {
    for (std::int64_t x = first; x < last; ++x) {
      work(x, T());
    }
    return;
  }
  std::int64_t x = first;
  for (; x + kLanes <= last; x += kLanes) {
    work(x, Vector<T>());
  }
  if (x < last) {
    work(last - kLanes, Vector<T>());
  }
}

PLASTICINE_NAMESPACE_END
