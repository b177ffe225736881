// Image values at cubic cells, and their derivatives.
//
// Voxel by voxel, the lines of a cell are summed as quads, four values along the last axis at once:
// on today's CPUs one load of four neighbours is several times faster than gathering them. The last
// axis' weights come in when the quads of a block are there, again vectorised over its voxels.
#pragma once

#include "core/avx512/lanes.h"
#include "warp/rows/cubic_lines.h"
#include "warp/rows/cubic_locate.h"

PLASTICINE_NAMESPACE_BEGIN

// The quads of a block, one after the other.
template <typename T>
struct QuadRow {
  alignas(64) T value[kTaps * kBlock];

  void set(int j, const quad_t<T>& quad) {
    __builtin_memcpy(value + kTaps * j, &quad, sizeof quad);
  }
  // Their sums, each weighted.
  PLASTICINE_INLINE T dot(const T (&weight)[kTaps][kBlock], int j) const {
    const T* quad = value + kTaps * j;
    return (weight[0][j] * quad[0] + weight[1][j] * quad[1]) +
           (weight[2][j] * quad[2] + weight[3][j] * quad[3]);
  }
};

// The sum of a cell's lines, weighted along all axes but the last. With `derivatives`, also the
// sums in which one axis' weights are replaced by their derivatives.
template <int D, bool derivatives, typename T, typename Index, typename Lines>
PLASTICINE_INLINE void sum_lines(const Lines& lines, const CubicCells<T, Index>& cells, int j,
                                 quad_t<T>& total, quad_t<T> (&derivative)[D - 1]) {
  total = quad_t<T>{};
  for (int a = 0; a < D - 1; ++a) {
    derivative[a] = quad_t<T>{};
  }
  for (int i = lines.first(0); i < lines.last(0); ++i) {
    quad_t<T> row;
    if constexpr (D == 2) {
      lines.read(i, 0, row);
    } else {
      row = quad_t<T>{};
      quad_t<T> row_derivative = {};
      for (int k = lines.first(1); k < lines.last(1); ++k) {
        quad_t<T> values;
        lines.read(i, k, values);
        row += cells.weight[1][k][j] * values;
        if constexpr (derivatives) {
          row_derivative += cells.derivative[1][k][j] * values;
        }
      }
      if constexpr (derivatives) {
        derivative[1] += cells.weight[0][i][j] * row_derivative;
      }
    }
    total += cells.weight[0][i][j] * row;
    if constexpr (derivatives) {
      derivative[0] += cells.derivative[0][i][j] * row;
    }
  }
}

// The same for a cell that is not inside.
template <int D, bool derivatives, typename Stored, typename T, typename Index>
PLASTICINE_NOINLINE void sum_edge_lines(const Stored* image, const ImageShape& shape,
                                        Padding padding, const CubicCells<T, Index>& cells, int j,
                                        quad_t<T>& total, quad_t<T> (&derivative)[D - 1]) {
  if (cells.kind[j] == static_cast<Index>(CellKind::edge)) {
    const EdgeLines<D, Stored> lines(image, cells, shape, padding, j);
    sum_lines<D, derivatives>(lines, cells, j, total, derivative);
  } else {
    total = quad_t<T>{} + static_cast<T>(__builtin_nan(""));
    for (int a = 0; a < D - 1; ++a) {
      derivative[a] = total;
    }
  }
}

// sums[0] receives the totals, sums[1 + a] with `derivatives` the derivatives on axis a.
template <int D, bool derivatives, typename T>
PLASTICINE_INLINE void set_quads(int j, const quad_t<T>& total,
                                 const quad_t<T> (&derivative)[D - 1], QuadRow<T>* sums) {
  sums[0].set(j, total);
  for (int a = 0; derivatives && a < D - 1; ++a) {
    sums[1 + a].set(j, derivative[a]);
  }
}

// Every cell as if it were inside, which needs four voxels on every axis to be safe. Not inlined,
// so that all registers are its own.
template <int D, bool derivatives, bool adjacent, typename Stored, typename T, typename Index>
PLASTICINE_NOINLINE void sum_inside_cells(const Stored* image, const ImageShape& shape,
                                          const CubicCells<T, Index>& cells, int n,
                                          QuadRow<T>* PLASTICINE_RESTRICT sums) {
  std::int64_t stride[D];
  for (int a = 0; a < D; ++a) {
    stride[a] = shape.stride[a];
  }
  for (int j = 0; j < n; ++j) {
    quad_t<T> total;
    quad_t<T> derivative[D - 1];
    const InsideLines<D, adjacent, Stored> lines(image + cells.base[j], stride);
    sum_lines<D, derivatives>(lines, cells, j, total, derivative);
    set_quads<D, derivatives>(j, total, derivative, sums);
  }
}

// sum_lines for every cell of a block.
template <int D, bool derivatives, typename Stored, typename T, typename Index>
void sum_cells(const Stored* image, const ImageShape& shape, Padding padding,
               const CubicCells<T, Index>& cells, int n, QuadRow<T>* sums) {
  bool thin = false;
  for (int a = 0; a < D; ++a) {
    thin = thin || shape.size[a] < kTaps;
  }
  if (!thin && shape.stride[D - 1] == 1) {
    sum_inside_cells<D, derivatives, true>(image, shape, cells, n, sums);
  } else if (!thin) {
    sum_inside_cells<D, derivatives, false>(image, shape, cells, n, sums);
  }
  Index others = 0;
  for (int j = 0; j < n; ++j) {
    others |= cells.kind[j];
  }
  for (int j = 0; others != 0 && j < n; ++j) {
    if (cells.kind[j] != static_cast<Index>(CellKind::inside)) {
      quad_t<T> total;
      quad_t<T> derivative[D - 1];
      sum_edge_lines<D, derivatives>(image, shape, padding, cells, j, total, derivative);
      set_quads<D, derivatives>(j, total, derivative, sums);
    }
  }
}

template <int D, typename Stored, typename Index>
bool gather_cubic_cells(const Stored* image, const ImageShape& shape, Padding padding,
                        const CubicCells<accumulator_t<Stored>, Index>& cells, int n,
                        Stored* PLASTICINE_RESTRICT out) {
  using T = accumulator_t<Stored>;
  QuadRow<T> totals;
  sum_cells<D, false>(image, shape, padding, cells, n, &totals);
  int nan_count = 0;
  alignas(64) T values[kBlock];
  for (int j = 0; j < n; ++j) {
    values[j] = totals.dot(cells.weight[D - 1], j);
    nan_count |= values[j] == values[j] ? 0 : 1;
  }
  store_values(values, n, out);
  return nan_count == 0;
}

template <typename Stored, typename Index>
bool gather_cubic(const void* image, const ImageShape& shape, Padding padding,
                  const CubicCellStorage<accumulator_t<Stored>>& storage, int n, void* out) {
  const auto& cells = cubic_cells_of<accumulator_t<Stored>, Index>(storage);
  const Stored* values = static_cast<const Stored*>(image);
  Stored* results = static_cast<Stored*>(out);
  return shape.ndim == 2 ? gather_cubic_cells<2>(values, shape, padding, cells, n, results)
                         : gather_cubic_cells<3>(values, shape, padding, cells, n, results);
}

template <int D, typename Stored, typename Index>
void cubic_gradient_cells(const Stored* image, const ImageShape& shape, Padding padding,
                          const CubicCells<accumulator_t<Stored>, Index>& cells, int n,
                          const accumulator_t<Stored>* PLASTICINE_RESTRICT grad,
                          accumulator_t<Stored>* PLASTICINE_RESTRICT gradient) {
  using T = accumulator_t<Stored>;
  QuadRow<T> sums[D];
  sum_cells<D, true>(image, shape, padding, cells, n, sums);
  for (int a = 0; a < D - 1; ++a) {
    for (int j = 0; j < n; ++j) {
      gradient[a * kBlock + j] += grad[j] * sums[1 + a].dot(cells.weight[D - 1], j);
    }
  }
  for (int j = 0; j < n; ++j) {
    gradient[(D - 1) * kBlock + j] += grad[j] * sums[0].dot(cells.derivative[D - 1], j);
  }
}

template <typename Stored, typename Index>
void cubic_gradient(const void* image, const ImageShape& shape, Padding padding,
                    const CubicCellStorage<accumulator_t<Stored>>& storage, int n,
                    const accumulator_t<Stored>* grad, accumulator_t<Stored>* out) {
  const auto& cells = cubic_cells_of<accumulator_t<Stored>, Index>(storage);
  const Stored* values = static_cast<const Stored*>(image);
  if (shape.ndim == 2) {
    cubic_gradient_cells<2>(values, shape, padding, cells, n, grad, out);
  } else {
    cubic_gradient_cells<3>(values, shape, padding, cells, n, grad, out);
  }
}

PLASTICINE_NAMESPACE_END
