// Corner values of 16 cells at a time on AVX-512.
//
// Neighbouring output voxels mostly sample one row of the image within a few voxels of each other:
// a window of 32 contiguous voxels then holds what 16 cells need of a line, and two permutations
// (one, of 16-bit voxels) pick it out, where 16 loads of a pair each would be bound by the load
// units.
#pragma once

#include "core/avx512/lanes.h"
#include "warp/rows/locate.h"

#if defined(PLASTICINE_SIMD_AVX512)

PLASTICINE_NAMESPACE_BEGIN

constexpr int kWindow = 2 * kLanes;

// A part of an image line: voxels [0, 16) in low, [16, 32) in high.
struct Window {
  __m512 low;
  __m512 high;

  // Voxel index[lane], at most 31, for every lane.
  PLASTICINE_INLINE FloatLanes at(IndexLanes index) const {
    return _mm512_permutex2var_ps(low, as_integers(index), high);
  }
};

// Reads what `valid` marks, and nothing else.
PLASTICINE_INLINE Window load_window(const float* line, unsigned valid) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(valid), line),
          _mm512_maskz_loadu_ps(static_cast<__mmask16>(valid >> kLanes), line + kLanes)};
}

// Eight pairs of voxels from a line, each at its own offset: by single loads, which on today's CPUs
// take less time than a gather instruction.
PLASTICINE_INLINE __m512 load_pairs(const float* line, const std::int32_t* offset) {
  const auto two = [&](int j) PLASTICINE_INLINE_LAMBDA {
    const __m128 first =
        _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(line + offset[j])));
    return _mm_loadh_pi(first, reinterpret_cast<const __m64*>(line + offset[j + 1]));
  };
  const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(two(0)), two(2), 1);
  const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(two(4)), two(6), 1);
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

// The pairs of voxels that begin at line[offset[lane]].
PLASTICINE_INLINE void gather_pairs(const float* line, IndexLanes offset, FloatLanes* first,
                                    FloatLanes* second) {
  alignas(64) std::int32_t offsets[kLanes];
  _mm512_store_si512(offsets, as_integers(offset));
  const Window pairs = {load_pairs(line, offsets), load_pairs(line, offsets + 8)};
  *first = pairs.at(lane_numbers() * 2);
  *second = pairs.at(lane_numbers() * 2 + 1);
}

// The 32 bits at line[offset[lane]]: a voxel, or two of 16 bits with the first in the lower half.
template <typename Stored>
PLASTICINE_INLINE __m512i load_words(const Stored* line, IndexLanes offset) {
  alignas(64) std::int32_t offsets[kLanes];
  _mm512_store_si512(offsets, as_integers(offset));
  const auto word = [&](int j)
                        PLASTICINE_INLINE_LAMBDA { return _mm_loadu_si32(line + offsets[j]); };
  const auto four = [&](int j) PLASTICINE_INLINE_LAMBDA {
    return _mm_unpacklo_epi64(_mm_unpacklo_epi32(word(j), word(j + 1)),
                              _mm_unpacklo_epi32(word(j + 2), word(j + 3)));
  };
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(four(0)), four(4), 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(four(8)), four(12), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// How 16 pairs of 16-bit voxels lie in a register where they are to be widened, from a pair a lane.
template <typename Stored>
struct HalfPairs;

// float16: all first voxels before all second ones, as the conversion takes 16 in a row.
template <>
struct HalfPairs<Half> {
  PLASTICINE_INLINE static __m512i arranged(__m512i pairs) {
    const __m512i order =
        _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1,  //
                         30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutexvar_epi16(order, pairs);
  }
  PLASTICINE_INLINE static void widen(__m512i words, FloatLanes* first, FloatLanes* second) {
    *first = _mm512_cvtph_ps(_mm512_castsi512_si256(words));
    *second = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(words, 1));
  }
};

// bfloat16: as they are, for they are the upper halves of the values.
template <>
struct HalfPairs<BFloat16> {
  PLASTICINE_INLINE static __m512i arranged(__m512i pairs) { return pairs; }
  PLASTICINE_INLINE static void widen(__m512i words, FloatLanes* first, FloatLanes* second) {
    *first = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
    *second = _mm512_castsi512_ps(_mm512_andnot_si512(_mm512_set1_epi32(0xffff), words));
  }
};

template <typename Stored>
PLASTICINE_INLINE void gather_pairs(const Stored* line, IndexLanes offset, FloatLanes* first,
                                    FloatLanes* second) {
  HalfPairs<Stored>::widen(HalfPairs<Stored>::arranged(load_words(line, offset)), first, second);
}

// Picks pairs of voxels out of windows.
template <typename Stored>
class PairPicker {
 public:
  // The pairs begin at voxel index[lane] of the window, at most 30.
  PLASTICINE_INLINE explicit PairPicker(IndexLanes index)
      : words_(HalfPairs<Stored>::arranged(
            _mm512_or_si512(_mm512_slli_epi32(as_integers(index + 1), 16), as_integers(index)))) {}

  // Reads what `valid` marks, and nothing else.
  PLASTICINE_INLINE void pick(const Stored* line, unsigned valid, FloatLanes* first,
                              FloatLanes* second) const {
    const __m512i window = _mm512_maskz_loadu_epi16(valid, line);
    HalfPairs<Stored>::widen(_mm512_permutexvar_epi16(words_, window), first, second);
  }

 private:
  __m512i words_;  // where each voxel of the pairs is
};

template <>
class PairPicker<float> {
 public:
  PLASTICINE_INLINE explicit PairPicker(IndexLanes index) : index_(index) {}

  PLASTICINE_INLINE void pick(const float* line, unsigned valid, FloatLanes* first,
                              FloatLanes* second) const {
    const Window window = load_window(line, valid);
    *first = window.at(index_);
    *second = window.at(index_ + 1);
  }

 private:
  IndexLanes index_;
};

// A window of a row, and what is looked up in it.
template <int D>
struct RowWindow {
  static constexpr int kLines = 1 << (D - 1);

  IndexLanes index;    // of each cell's first voxel within the window
  std::int64_t first;  // offset of the window
  unsigned valid;      // which of its voxels are in the row
  __mmask16 found;     // the cells that it serves

  // row, column: the offset of each cell's row and its index on the last axis, of size `size`.
  PLASTICINE_INLINE RowWindow(IndexLanes row, IndexLanes column, int from_row, int from_column,
                              int size, unsigned wanted) {
    index = column - from_column;
    const __mmask16 on_row = _mm512_mask_cmpeq_epi32_mask(
        static_cast<__mmask16>(wanted), as_integers(row), as_integers(all_lanes(from_row)));
    found = _mm512_mask_cmple_epu32_mask(on_row, as_integers(index),
                                         as_integers(all_lanes(kWindow - 2)));
    const int length = size - from_column;
    valid = first_bits(length < kWindow ? length : kWindow);
    first = static_cast<std::int64_t>(from_row) + from_column;
  }

  // Whether the cells of `wanted` follow each other voxel by voxel, as where a field is smooth and
  // small.
  PLASTICINE_INLINE bool is_in_order(unsigned wanted) const {
    return _mm512_mask_cmpeq_epi32_mask(found, as_integers(index), as_integers(lane_numbers())) ==
           wanted;
  }

  // What look_up does for such cells: nothing is to be picked.
  template <typename Stored>
  PLASTICINE_INLINE void read(const Stored* image, const std::int64_t (&offset)[kLines],
                              FloatLanes (&corner)[1 << D]) const {
    for (int i = 0; i < kLines; ++i) {
      const Stored* line = image + first + offset[i];
      corner[2 * i] = load_lanes(line, valid);
      corner[2 * i + 1] = load_lanes(line + 1, valid >> 1);
    }
  }

  // offset: the distance of each line of a cell from its first.
  template <typename Stored>
  PLASTICINE_INLINE void look_up(const Stored* image, const std::int64_t (&offset)[kLines],
                                 FloatLanes (&corner)[1 << D]) const {
    const PairPicker<Stored> picker(index);
    for (int i = 0; i < kLines; ++i) {
      picker.pick(image + first + offset[i], valid, &corner[2 * i], &corner[2 * i + 1]);
    }
  }

  // The same for the cells that it serves alone.
  template <typename Stored>
  PLASTICINE_INLINE void add(const Stored* image, const std::int64_t (&offset)[kLines],
                             FloatLanes (&corner)[1 << D]) const {
    FloatLanes own[1 << D];
    look_up(image, offset, own);
    for (int i = 0; i < 1 << D; ++i) {
      corner[i] = _mm512_mask_mov_ps(corner[i], found, own[i]);
    }
  }
};

// Calls work(channel, corners) with the corners of 16 cells in every channel of an image whose rows
// are contiguous and hold two voxels or more.
template <int D, typename Stored, typename Work>
PLASTICINE_INLINE void for_each_corners(const Channels<const void*>& image,
                                        const std::int64_t (&offset)[1 << (D - 1)], IndexLanes row,
                                        IndexLanes column, int size, unsigned live,
                                        const Work& work) {
  const Stored* source = static_cast<const Stored*>(image.data);
  const std::int64_t stride = image.stride;
  const std::int64_t channels = image.count;
  FloatLanes corner[1 << D];
  // A window from the first cell on.
  const RowWindow<D> front(row, column, lane_0(row), lane_0(column), size, live);
  if (front.is_in_order(live)) {
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      front.read(source + channel * stride, offset, corner);
      work(channel, corner);
    }
    return;
  }
  const unsigned left = live & ~static_cast<unsigned>(front.found);
  if (left == 0) {
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      front.look_up(source + channel * stride, offset, corner);
      work(channel, corner);
    }
    return;
  }
  // Where that is not all, another that ends with the last cell.
  const int end = lane_15(column) - (kWindow - 2);
  const RowWindow<D> back(row, column, lane_15(row), end > 0 ? end : 0, size, left);
  if ((left & ~static_cast<unsigned>(back.found)) == 0) {
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      front.look_up(source + channel * stride, offset, corner);
      back.add(source + channel * stride, offset, corner);
      work(channel, corner);
    }
    return;
  }
  // A cell lies within the image even where there is no voxel: all lanes can be loaded.
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    for (int i = 0; i < 1 << (D - 1); ++i) {
      gather_pairs(source + channel * stride + offset[i], row + column, &corner[2 * i],
                   &corner[2 * i + 1]);
    }
    work(channel, corner);
  }
}

PLASTICINE_NAMESPACE_END
#endif  // defined(PLASTICINE_SIMD_AVX512)
