// Which copy of the row kernels this CPU runs.
#pragma once

namespace plasticine {

enum class SimdLevel : int { baseline = 0, avx2 = 1, avx512 = 2 };

// The widest instruction set that was compiled in and that the CPU has. The environment variable
// PLASTICINE_SIMD (baseline, avx2, avx512), read once, can lower it, never raise it.
SimdLevel simd_level();
const char* simd_name();

}  // namespace plasticine

// SELECT_SIMD(name): the copy of function `name` for this CPU; DECLARE_SIMD(declaration): declares
// all copies.
#if defined(PLASTICINE_HAS_AVX512)
#define PLASTICINE_IF_AVX512(...) __VA_ARGS__
#else
#define PLASTICINE_IF_AVX512(...)
#endif
#if defined(PLASTICINE_HAS_AVX2)
#define PLASTICINE_IF_AVX2(...) __VA_ARGS__
#else
#define PLASTICINE_IF_AVX2(...)
#endif
#define PLASTICINE_DECLARE_SIMD(...)                  \
  namespace plasticine {                              \
  namespace baseline {                                \
  __VA_ARGS__                                         \
  }                                                   \
  PLASTICINE_IF_AVX2(namespace avx2{__VA_ARGS__})     \
  PLASTICINE_IF_AVX512(namespace avx512{__VA_ARGS__}) \
  }
#define PLASTICINE_SELECT_SIMD(name)                                        \
  (PLASTICINE_IF_AVX512(simd_level() == SimdLevel::avx512 ? avx512::name :) \
       PLASTICINE_IF_AVX2(simd_level() == SimdLevel::avx2 ? avx2::name :) baseline::name)
