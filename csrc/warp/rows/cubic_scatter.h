// Gradients added to the image at cubic cells.
#pragma once

#include "warp/rows/cubic_lines.h"
#include "warp/rows/cubic_locate.h"

PLASTICINE_NAMESPACE_BEGIN

// What each voxel of a block adds along the last axis, still to be weighted along the others.
template <int D, typename T, typename Index>
void fill_spreads(const CubicCells<T, Index>& cells, int n, const T* PLASTICINE_RESTRICT grad,
                  T* PLASTICINE_RESTRICT spread) {
  for (int j = 0; j < n; ++j) {
    for (int x = 0; x < kTaps; ++x) {
      spread[kTaps * j + x] = grad[j] * cells.weight[D - 1][x][j];
    }
  }
}

// sum += weight * quad, fused wherever the instruction set can: left to itself the compiler fuses
// in one place and not in another, and a voxel's sum would depend on how the image is shared out.
template <typename T>
PLASTICINE_INLINE void add_product(T weight, const quad_t<T>& quad, quad_t<T>& sum) {
#if defined(__FMA__)
  if constexpr (sizeof(T) == sizeof(float)) {
    __m128 a, b;
    __builtin_memcpy(&a, &quad, sizeof a);
    __builtin_memcpy(&b, &sum, sizeof b);
    a = _mm_fmadd_ps(_mm_set1_ps(static_cast<float>(weight)), a, b);
    __builtin_memcpy(&sum, &a, sizeof a);
  } else {
    __m256d a, b;
    __builtin_memcpy(&a, &quad, sizeof a);
    __builtin_memcpy(&b, &sum, sizeof b);
    a = _mm256_fmadd_pd(_mm256_set1_pd(static_cast<double>(weight)), a, b);
    __builtin_memcpy(&sum, &a, sizeof a);
  }
#elif defined(__FP_FAST_FMA) && defined(__FP_FAST_FMAF)
  for (int x = 0; x < kTaps; ++x) {
    sum[x] = sizeof(T) == sizeof(float) ? __builtin_fmaf(weight, quad[x], sum[x])
                                        : __builtin_fma(weight, quad[x], sum[x]);
  }
#else
  sum += weight * quad;
#endif
}

// whole: every line is owned. The lines that are not go to a place of no account, so that both
// forms do the same arithmetic.
template <int D, bool whole, typename T>
PLASTICINE_INLINE void add_inside(T* cell, const std::int64_t* stride, const T (&first)[kTaps],
                                  const T (&second)[kTaps], const quad_t<T>& spread,
                                  const bool (&owned)[kTaps], int owner_axis) {
  T elsewhere[kTaps] = {};
  for (int i = 0; i < kTaps; ++i, cell += stride[0]) {
    quad_t<T> row;
    if constexpr (D == 3) {
      row = first[i] * spread;
    }
    for (int k = 0; k < (D == 3 ? kTaps : 1); ++k) {
      T* line = cell + (D == 3 ? k * stride[1] : 0);
      if constexpr (!whole) {
        line = owned[owner_axis == 0 ? i : k] ? line : elsewhere;
      }
      quad_t<T> sum;
      __builtin_memcpy(&sum, line, sizeof sum);
      if constexpr (D == 3) {
        add_product<T>(second[k], row, sum);
      } else {
        add_product<T>(first[i], spread, sum);
      }
      __builtin_memcpy(line, &sum, sizeof sum);
    }
  }
}

template <int D, typename T, typename Index>
PLASTICINE_NOINLINE void add_edge(T* image, const ImageShape& shape, Padding padding,
                                  const CubicCells<T, Index>& cells, int j, const T* spread,
                                  const OwnedRange& owned) {
  const EdgeTaps<D> taps(cells, shape, padding, j);
  const AxisTaps& owner = taps.axis[owned.axis];
  const AxisTaps& last = taps.axis[D - 1];
  for (int i = taps.first(0); i < taps.last(0); ++i) {
    for (int k = D == 3 ? taps.first(1) : 0; k < (D == 3 ? taps.last(1) : 1); ++k) {
      const std::int64_t position = owner.index[owned.axis == 0 ? i : k];
      if (position < owned.first || position >= owned.last) {
        continue;
      }
      T weight = cells.weight[0][i][j];
      if constexpr (D == 3) {
        weight *= cells.weight[1][k][j];
      }
      T* line = image + taps.line(i, k);
      for (int x = last.first; x < last.last; ++x) {
        line[last.offset[x]] += weight * spread[x];
      }
    }
  }
}

// The image is contiguous along its last axis. The order of multiplications and additions is the
// same whichever axis and range is owned: the result must not depend on how the image is shared
// out.
template <int D, typename T, typename Index>
void scatter_cubic_cells(T* image, const ImageShape& shape, Padding padding,
                         const CubicCells<T, Index>& cells, int n, const T* grad,
                         const OwnedRange& owned) {
  alignas(64) T spread[kTaps * kBlock];
  fill_spreads<D>(cells, n, grad, spread);
  std::int64_t stride[D];
  for (int a = 0; a < D; ++a) {
    stride[a] = shape.stride[a];
  }
  for (int j = 0; j < n; ++j) {
    if (cells.kind[j] == static_cast<Index>(CellKind::edge)) {
      add_edge<D>(image, shape, padding, cells, j, spread + kTaps * j, owned);
    } else if (cells.kind[j] == static_cast<Index>(CellKind::inside)) {
      T first[kTaps];
      T second[kTaps];
      bool inside[kTaps];
      int whole = 1;
      const std::int64_t position = cells.position[owned.axis][j];
      for (int k = 0; k < kTaps; ++k) {
        first[k] = cells.weight[0][k][j];
        second[k] = cells.weight[1][k][j];
        inside[k] = position + k >= owned.first && position + k < owned.last;
        whole &= inside[k] ? 1 : 0;
      }
      quad_t<T> quad;
      __builtin_memcpy(&quad, spread + kTaps * j, sizeof quad);
      T* cell = image + cells.base[j];
      if (whole != 0) {
        add_inside<D, true>(cell, stride, first, second, quad, inside, owned.axis);
      } else {
        add_inside<D, false>(cell, stride, first, second, quad, inside, owned.axis);
      }
    }
  }
}

template <typename T, typename Index>
void scatter_cubic(T* image, const ImageShape& shape, Padding padding,
                   const CubicCellStorage<T>& storage, int n, const T* grad,
                   const OwnedRange& owned) {
  const auto& cells = cubic_cells_of<T, Index>(storage);
  if (shape.ndim == 2) {
    scatter_cubic_cells<2>(image, shape, padding, cells, n, grad, owned);
  } else {
    scatter_cubic_cells<3>(image, shape, padding, cells, n, grad, owned);
  }
}

PLASTICINE_NAMESPACE_END
