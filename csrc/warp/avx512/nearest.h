// The nearest voxels of rows of locations on AVX-512, from the displacement to the result.
//
// Nothing is computed with the values: voxels are copied as the bits they are stored in, so that
// the 16-bit types take half of float32's loads and no conversion.
#pragma once

#include "warp/avx512/linear.h"

#if defined(PLASTICINE_SIMD_AVX512)

PLASTICINE_NAMESPACE_BEGIN

// 16 voxels as they are stored.
PLASTICINE_INLINE __m512i stored_lanes(float value) {
  return _mm512_castps_si512(_mm512_set1_ps(value));
}
template <typename Stored>
PLASTICINE_INLINE __m256i stored_lanes(Stored value) {
  return _mm256_set1_epi16(static_cast<std::int16_t>(value.bits));
}

PLASTICINE_INLINE void store_where(unsigned wanted, __m512i values, float* out) {
  _mm512_mask_storeu_epi32(out, static_cast<__mmask16>(wanted), values);
}
template <typename Stored>
PLASTICINE_INLINE void store_where(unsigned wanted, __m256i values, Stored* out) {
  _mm256_mask_storeu_epi16(out, static_cast<__mmask16>(wanted), values);
}

// Voxels index[lane], below kWindow, of a line of which `valid` marks what may be read.
PLASTICINE_INLINE __m512i pick(const float* line, unsigned valid, IndexLanes index) {
  return reinterpret_cast<__m512i>(load_window(line, valid).at(index));
}
template <typename Stored>
PLASTICINE_INLINE __m256i pick(const Stored* line, unsigned valid, IndexLanes index) {
  const __m512i window = _mm512_maskz_loadu_epi16(valid, line);
  const __m512i wide = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(as_integers(index)));
  return _mm512_castsi512_si256(_mm512_permutexvar_epi16(wide, window));
}

// Where 16 locations have their nearest voxel.
struct NearestLanes {
  IndexLanes row;     // offset of its row
  IndexLanes column;  // its index on the last axis
  unsigned inside;
  unsigned nan;  // the locations that are none
};

template <int D, Padding padding>
PLASTICINE_INLINE NearestLanes nearest_lanes(const Locator<D, padding>& locator, int start,
                                             unsigned live) {
  NearestLanes nearest = {IndexLanes{}, IndexLanes{}, live, 0};
  for (int axis = 0; axis < D; ++axis) {
    const IndexLanes size = all_lanes(locator.size(axis));
    const FloatLanes x =
        pad_coordinate<padding>(locator.coordinate(axis, start, live), to_float(size - 1)).value;
    // Ties to even; NaN becomes the least integer.
    const __m512i rounded =
        as_integers(padded_index<padding>(as_indices(_mm512_cvtps_epi32(_mm512_roundscale_ps(
                                              x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))),
                                          size));
    nearest.inside &= _mm512_cmplt_epu32_mask(rounded, as_integers(size));
    nearest.nan |= nan_bits(x, live);
    const IndexLanes index = as_indices(
        _mm512_min_epi32(_mm512_max_epi32(rounded, _mm512_setzero_si512()), as_integers(size - 1)));
    if (axis < D - 1) {
      nearest.row += index * locator.stride(axis);
    } else {
      nearest.column = index;
    }
  }
  return nearest;
}

// The voxels at row + column, each on its own row of `size` voxels, two or more.
PLASTICINE_INLINE __m512i gather_voxels(const float* image, IndexLanes row, IndexLanes column,
                                        int) {
  return load_words(image, row + column);
}
template <typename Stored>
PLASTICINE_INLINE __m256i gather_voxels(const Stored* image, IndexLanes row, IndexLanes column,
                                        int size) {
  // Two are read: from the last voxel, the one before it, too.
  const IndexLanes first =
      as_indices(_mm512_min_epi32(as_integers(column), as_integers(all_lanes(size - 2))));
  const __m512i pairs = load_words(image, row + first);
  const __mmask16 is_second = _mm512_cmpneq_epi32_mask(as_integers(first), as_integers(column));
  return _mm512_cvtepi32_epi16(_mm512_mask_srli_epi32(pairs, is_second, pairs, 16));
}

template <int D, Padding padding, typename Stored>
void nearest_row_of(const Row<float>& row, const ImageShape& shape,
                    const Channels<const void*>& image, const Channels<void*>& out) {
  const Locator<D, padding> locator(row, shape);
  const Stored* source = static_cast<const Stored*>(image.data);
  Stored* target = static_cast<Stored*>(out.data);
  const int size = locator.size(D - 1);
  const auto nothing = stored_lanes(store<Stored>(0.0f));
  const auto nan = stored_lanes(store<Stored>(__builtin_nanf("")));
  for_each_lanes(row.n, [&](int start, unsigned live) PLASTICINE_INLINE_LAMBDA {
    const NearestLanes nearest = nearest_lanes(locator, start, live);
    const RowWindow<D> front(nearest.row, nearest.column, lane_0(nearest.row),
                             lane_0(nearest.column), size, nearest.inside);
    if (front.found == live) {
      for (std::int64_t channel = 0; channel < image.count; ++channel) {
        const Stored* line = source + channel * image.stride + front.first;
        store_where(live, pick(line, front.valid, front.index),
                    target + channel * out.stride + start);
      }
      return;
    }
    for (std::int64_t channel = 0; channel < image.count; ++channel) {
      Stored* result = target + channel * out.stride + start;
      store_where(live,
                  gather_voxels(source + channel * image.stride, nearest.row, nearest.column, size),
                  result);
      store_where(live & ~nearest.inside, nothing, result);
      store_where(nearest.nan, nan, result);
    }
  });
}

template <typename Stored>
void nearest_row(const Row<float>& row, const ImageShape& shape, Padding padding,
                 const Channels<const void*>& image, const Channels<void*>& out) {
  with_cells(shape.ndim, padding, [&](auto d, auto p) {
    nearest_row_of<d.value, p.value, Stored>(row, shape, image, out);
  });
}

PLASTICINE_NAMESPACE_END
#endif  // defined(PLASTICINE_SIMD_AVX512)
