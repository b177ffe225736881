// 16 voxels at a time on AVX-512: the vector types, and loads and stores of every stored type. For
// row kernels, which are compiled once per instruction set; see macros.h.
#pragma once

#include "core/half.h"
#include "core/rows/dispatch.h"

#if defined(PLASTICINE_SIMD_AVX512)
#include <immintrin.h>

PLASTICINE_NAMESPACE_BEGIN

constexpr int kLanes = 16;

// Arithmetic, comparison and ?: are those of the compiler's vector types.
using FloatLanes = float __attribute__((vector_size(64)));
using IndexLanes = std::int32_t __attribute__((vector_size(64)));

PLASTICINE_INLINE FloatLanes all_lanes(float value) { return FloatLanes{} + value; }
PLASTICINE_INLINE IndexLanes all_lanes(std::int32_t value) { return IndexLanes{} + value; }

PLASTICINE_INLINE IndexLanes lane_numbers() {
  return IndexLanes{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}

PLASTICINE_INLINE FloatLanes to_float(IndexLanes x) {
  return __builtin_convertvector(x, FloatLanes);
}

PLASTICINE_INLINE __m512i as_integers(IndexLanes x) { return reinterpret_cast<__m512i>(x); }
PLASTICINE_INLINE IndexLanes as_indices(__m512i x) { return reinterpret_cast<IndexLanes>(x); }

PLASTICINE_INLINE std::int32_t lane_0(IndexLanes x) {
  return _mm_cvtsi128_si32(_mm512_castsi512_si128(as_integers(x)));
}
PLASTICINE_INLINE std::int32_t lane_15(IndexLanes x) {
  return _mm_extract_epi32(_mm512_extracti32x4_epi32(as_integers(x), 3), 3);
}

// Lane j of the result is lane j - 1 of x; its lane 0 is lane 15 of before.
PLASTICINE_INLINE IndexLanes shifted_up(IndexLanes x, IndexLanes before) {
  return as_indices(_mm512_alignr_epi32(as_integers(x), as_integers(before), 15));
}
PLASTICINE_INLINE FloatLanes shifted_up(FloatLanes x, FloatLanes before) {
  return reinterpret_cast<FloatLanes>(
      shifted_up(reinterpret_cast<IndexLanes>(x), reinterpret_cast<IndexLanes>(before)));
}

// Bits [0, n) of a mask, n in [0, 32].
PLASTICINE_INLINE unsigned first_bits(int n) {
  return static_cast<unsigned>((std::uint64_t{1} << n) - 1);
}

PLASTICINE_INLINE unsigned nan_bits(FloatLanes x, unsigned live) {
  return _mm512_mask_cmp_ps_mask(static_cast<__mmask16>(live), x, x, _CMP_UNORD_Q);
}

// Loads read, and stores write, the lanes in `live` and nothing else; other lanes load as zero.
PLASTICINE_INLINE FloatLanes load_lanes(const float* values, unsigned live) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(live), values);
}

PLASTICINE_INLINE FloatLanes load_lanes(const Half* values, unsigned live) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(live), values));
}

// The upper halves of 32-bit words.
PLASTICINE_INLINE __m512 widen_bfloat16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

PLASTICINE_INLINE FloatLanes load_lanes(const BFloat16* values, unsigned live) {
  return widen_bfloat16(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(live), values));
}

PLASTICINE_INLINE void store_lanes(FloatLanes values, unsigned live, float* out) {
  _mm512_mask_storeu_ps(out, static_cast<__mmask16>(live), values);
}

PLASTICINE_INLINE void store_lanes(FloatLanes values, unsigned live, Half* out) {
  _mm256_mask_storeu_epi16(out, static_cast<__mmask16>(live),
                           _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}

PLASTICINE_INLINE void store_lanes(FloatLanes values, unsigned live, BFloat16* out) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i half_way = _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half_way), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  _mm256_mask_storeu_epi16(
      out, static_cast<__mmask16>(live),
      _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0))));
}

PLASTICINE_NAMESPACE_END
#endif  // defined(PLASTICINE_SIMD_AVX512)

PLASTICINE_NAMESPACE_BEGIN

// out[j] = values[j], rounded to the stored type.
template <typename Stored, typename T>
PLASTICINE_INLINE void store_values(const T* PLASTICINE_RESTRICT values, int n,
                                    Stored* PLASTICINE_RESTRICT out) {
  for (int j = 0; j < n; ++j) {
    out[j] = store<Stored>(values[j]);
  }
}

#if defined(PLASTICINE_SIMD_AVX512)
// By the conversion instruction, which the compiler does not find in the arithmetic of half.h.
PLASTICINE_INLINE void store_values(const float* PLASTICINE_RESTRICT values, int n,
                                    Half* PLASTICINE_RESTRICT out) {
  for (int j = 0; j < n; j += kLanes) {
    const unsigned live = first_bits(n - j < kLanes ? n - j : kLanes);
    store_lanes(load_lanes(values + j, live), live, out + j);
  }
}
#endif

PLASTICINE_NAMESPACE_END
