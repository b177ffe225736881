// Gradients added to the image at cubic cells. Part of warp_cubic_rows.cpp, which is compiled once
// per instruction set.
#pragma once

#include "warp_cubic_cells.h"
#include "warp_cubic_lines.h"

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

// Where the lines of a cell are; those that are not owned go to a place of no account.
template <int D, typename T>
PLASTICINE_NOINLINE void find_lines(T* cell, const std::int64_t* stride,
                                    const bool (&owned)[kTaps], int owner_axis, T* elsewhere,
                                    T* (&lines)[kTaps][kTaps]) {
  for (int i = 0; i < kTaps; ++i, cell += stride[0]) {
    for (int k = 0; k < (D == 3 ? kTaps : 1); ++k) {
      lines[i][k] =
          owned[owner_axis == 0 ? i : k] ? cell + (D == 3 ? k * stride[1] : 0) : elsewhere;
    }
  }
}

// whole: every line is owned, and `lines` is not read. Both forms do the same arithmetic, to the
// bit: no branch may part a multiplication from its addition, or the compiler would fuse the two
// in one form and not in the other.
template <int D, bool whole, typename T>
PLASTICINE_INLINE void add_inside(T* cell, const std::int64_t* stride, const T (&first)[kTaps],
                                  const T (&second)[kTaps], const quad_t<T>& spread,
                                  T* const (&lines)[kTaps][kTaps]) {
  for (int i = 0; i < kTaps; ++i, cell += stride[0]) {
    const quad_t<T> row = first[i] * spread;
    for (int k = 0; k < (D == 3 ? kTaps : 1); ++k) {
      T* line = whole ? cell + (D == 3 ? k * stride[1] : 0) : lines[i][k];
      quad_t<T> sum;
      __builtin_memcpy(&sum, line, sizeof sum);
      if constexpr (D == 3) {
        sum += second[k] * row;
      } else {
        sum += row;
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
      T* lines[kTaps][kTaps];
      if (whole != 0) {
        add_inside<D, true>(cell, stride, first, second, quad, lines);
      } else {
        T elsewhere[kTaps] = {};
        find_lines<D>(cell, stride, inside, owned.axis, elsewhere, lines);
        add_inside<D, false>(cell, stride, first, second, quad, lines);
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
