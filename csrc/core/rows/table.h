// Which table of row kernels serves a stored type. Compiled once per instruction set; see macros.h.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/types.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

// The table of a stored type; `Tables::value<Stored, Index>` is the table itself. wide: offsets
// need 64 bits, which is rare and served by the baseline alone.
template <typename Tables, typename Stored>
const auto& table_of(bool wide) {
#if defined(PLASTICINE_SIMD_BASELINE)
  if (wide) {
    return Tables::template value<Stored, std::int64_t>;
  }
#endif
  (void)wide;
  return Tables::template value<Stored, std::int32_t>;
}

// The same of a type known at run time, whose arithmetic is in T.
template <typename Tables, typename T>
const auto& table_of(DType stored, bool wide) {
  if constexpr (sizeof(T) == sizeof(double)) {
    return table_of<Tables, double>(wide);
  } else {
    switch (stored) {
      case DType::float16:
        return table_of<Tables, Half>(wide);
      case DType::bfloat16:
        return table_of<Tables, BFloat16>(wide);
      default:
        return table_of<Tables, float>(wide);
    }
  }
}

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
