// Host/device qualifiers and the namespace in which shared inline code lives.
#pragma once

#if defined(__CUDACC__)
#define PLASTICINE_HOST_DEVICE __host__ __device__
#else
#define PLASTICINE_HOST_DEVICE
#endif

#if defined(__CUDACC__)
#define PLASTICINE_INLINE PLASTICINE_HOST_DEVICE __forceinline__
#elif defined(__GNUC__)
#define PLASTICINE_INLINE inline __attribute__((always_inline))
#else
#define PLASTICINE_INLINE inline
#endif

// For what is rare: inlined, it would take registers from the loop around it.
#if defined(__GNUC__)
#define PLASTICINE_NOINLINE __attribute__((noinline))
#else
#define PLASTICINE_NOINLINE
#endif

#if defined(__GNUC__)
#define PLASTICINE_INLINE_LAMBDA __attribute__((always_inline))
#else
#define PLASTICINE_INLINE_LAMBDA
#endif

#if defined(__GNUC__)
#define PLASTICINE_RESTRICT __restrict__
#else
#define PLASTICINE_RESTRICT
#endif

// Before a loop: no iteration reads what another writes.
#if defined(__clang__)
#define PLASTICINE_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define PLASTICINE_INDEPENDENT _Pragma("GCC ivdep")
#else
#define PLASTICINE_INDEPENDENT
#endif

// The row kernels are compiled once per instruction set. Everything inline that they include sits
// in a namespace named after that set: otherwise the linker, free to keep any one copy of an inline
// function, could hand AVX-512 code to the part that runs on every CPU.
#if !defined(PLASTICINE_SIMD)
#define PLASTICINE_SIMD common
#endif
#define PLASTICINE_NAMESPACE_BEGIN \
  namespace plasticine {           \
  namespace PLASTICINE_SIMD {}     \
  using namespace PLASTICINE_SIMD; \
  namespace PLASTICINE_SIMD {
#define PLASTICINE_NAMESPACE_END \
  }                              \
  }
