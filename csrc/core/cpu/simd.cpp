#include "core/cpu/simd.h"

#include <cstdlib>
#include <cstring>

namespace plasticine {

namespace {

SimdLevel detect() {
#if defined(PLASTICINE_HAS_AVX2)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  const bool avx2 = false;
#endif
#if defined(PLASTICINE_HAS_AVX512)
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
#else
  const bool avx512 = false;
#endif
  const char* limit = std::getenv("PLASTICINE_SIMD");
  const bool at_most_baseline = limit != nullptr && std::strcmp(limit, "baseline") == 0;
  const bool at_most_avx2 = limit != nullptr && std::strcmp(limit, "avx2") == 0;
  if (at_most_baseline || !avx2) {
    return SimdLevel::baseline;
  }
  return avx512 && !at_most_avx2 ? SimdLevel::avx512 : SimdLevel::avx2;
}

}  // namespace

SimdLevel simd_level() {
  static const SimdLevel level = detect();
  return level;
}

const char* simd_name() {
  switch (simd_level()) {
    case SimdLevel::avx512:
      return "avx512";
    case SimdLevel::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

}  // namespace plasticine
