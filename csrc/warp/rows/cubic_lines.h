// The lines of voxels, four along the last axis, that a cubic cell reads or adds to.
#pragma once

#include "core/half.h"
#include "warp/math/cubic.h"
#include "warp/rows/cubic.h"

#if defined(__F16C__) || defined(__SSE4_1__)
#include <immintrin.h>
#endif

PLASTICINE_NAMESPACE_BEGIN

// Four values that one register holds. Passed by reference only: how a vector is passed by value
// depends on the instruction set.
template <typename T>
struct Quad {
  typedef T type __attribute__((vector_size(4 * sizeof(T))));
};
template <typename T>
using quad_t = typename Quad<T>::type;

// Four consecutive values.
template <typename T>
PLASTICINE_INLINE void load_quad(const T* source, quad_t<T>& quad) {
  __builtin_memcpy(&quad, source, sizeof quad);
}

PLASTICINE_INLINE void load_quad(const Half* source, quad_t<float>& quad) {
#if defined(__F16C__)
  const __m128 values = _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source)));
  __builtin_memcpy(&quad, &values, sizeof quad);
#else
  for (int k = 0; k < kTaps; ++k) {
    quad[k] = load(source[k]);
  }
#endif
}

PLASTICINE_INLINE void load_quad(const BFloat16* source, quad_t<float>& quad) {
#if defined(__SSE4_1__)
  const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(source));
  const __m128i words = _mm_slli_epi32(_mm_cvtepu16_epi32(bits), 16);
  __builtin_memcpy(&quad, &words, sizeof quad);
#else
  for (int k = 0; k < kTaps; ++k) {
    quad[k] = load(source[k]);
  }
#endif
}

// One voxel's taps on an axis: those that are voxels, [first, last), and the offset of each.
struct AxisTaps {
  int first;
  int last;
  std::int64_t index[kTaps];
  std::int64_t offset[kTaps];

  void set(std::int64_t position, std::int64_t size, std::int64_t stride, Padding padding) {
    first = 0;
    last = kTaps;
    for (int k = 0; k < kTaps; ++k) {
      index[k] = tap_index(padding, position + k, size - 1);
      offset[k] = index[k] * stride;
      if (index[k] < 0) {
        first = k + 1;
      } else if (index[k] >= size && k < last) {
        last = k;
      }
    }
  }
};

// The lines of a cell that lies inside the image. Line (i, k) is at i along the first axis and, in
// 3D, at k along the second.
template <int D, bool adjacent, typename Stored>
struct InsideLines {
  const Stored* row[kTaps];
  const std::int64_t* stride;

  // One pointer after the other: sixteen offsets kept ready would not fit the registers.
  PLASTICINE_INLINE InsideLines(const Stored* cell, const std::int64_t* strides)
      : row{cell}, stride(strides) {
    for (int i = 1; i < kTaps; ++i) {
      row[i] = row[i - 1] + stride[0];
    }
  }

  static constexpr int first(int) { return 0; }
  static constexpr int last(int) { return kTaps; }

  template <typename Quad>
  PLASTICINE_INLINE void read(int i, int k, Quad& quad) const {
    const Stored* line = row[i] + (D == 3 ? k * stride[1] : 0);
    if constexpr (adjacent) {
      load_quad(line, quad);
    } else {
      for (int x = 0; x < kTaps; ++x) {
        quad[x] = load(line[x * stride[D - 1]]);
      }
    }
  }
};

// The taps of a cell at the edge.
template <int D>
struct EdgeTaps {
  AxisTaps axis[D];

  template <typename Cells>
  EdgeTaps(const Cells& cells, const ImageShape& shape, Padding padding, int j) {
    for (int a = 0; a < D; ++a) {
      axis[a].set(cells.position[a][j], shape.size[a], shape.stride[a], padding);
    }
  }

  int first(int a) const { return axis[a].first; }
  int last(int a) const { return axis[a].last; }
  std::int64_t line(int i, int k) const {
    return axis[0].offset[i] + (D == 3 ? axis[1].offset[k] : 0);
  }
};

// Its lines; what is no voxel reads as zero.
template <int D, typename Stored>
struct EdgeLines : EdgeTaps<D> {
  const Stored* image;

  template <typename Cells>
  EdgeLines(const Stored* source, const Cells& cells, const ImageShape& shape, Padding padding,
            int j)
      : EdgeTaps<D>(cells, shape, padding, j), image(source) {}

  template <typename Quad>
  void read(int i, int k, Quad& quad) const {
    const Stored* line = image + this->line(i, k);
    const AxisTaps& last = this->axis[D - 1];
    quad = Quad{};
    for (int x = last.first; x < last.last; ++x) {
      quad[x] = load(line[last.offset[x]]);
    }
  }
};

PLASTICINE_NAMESPACE_END
