// Gradients added to the image at cells. Part of warp_rows.cpp, which is compiled once per
// instruction set.
//
// In a smooth field most cells begin one voxel after the cell before them: such a run of cells adds
// a contiguous piece of every line that it touches, once the share that a cell has in the voxel of
// the next is added to the next cell's own. What is left of each run, the share in the voxel after
// its last cell, follows when all runs are done: a voxel written a moment ago is slow to read.
//
// The order of all multiplications and additions depends on the cells alone, not on the axis and
// range that are owned: the result must not depend on how the image is shared out.
#pragma once

#include "../common/lanes.h"
#include "warp_locate_rows.h"

PLASTICINE_NAMESPACE_BEGIN

// What a block adds to the image, line by line: first[line][j] to the cell's first voxel on that
// line, second[line][j] to the one after it.
template <int D, typename T>
struct Shares {
  static constexpr int kLines = 1 << (D - 1);
  alignas(64) T first[kLines][kBlock];
  alignas(64) T second[kLines][kBlock];
};

// Where runs end: the index after their last cell.
struct Runs {
  int count = 0;
  int end[kBlock];
};

// Where a block's cells are: their offset in the image, and their index on the owned axis.
template <typename Index>
struct RunCells {
  const Index* base;
  const Index* position;
};

// line[j] += values[j].
template <typename T>
PLASTICINE_INLINE void add_to_line(T* PLASTICINE_RESTRICT line,
                                   const T* PLASTICINE_RESTRICT values, int n) {
  for (int j = 0; j < n; ++j) {
    line[j] += values[j];
  }
}

#if defined(PLASTICINE_SIMD_AVX512)
template <>
PLASTICINE_INLINE void add_to_line(float* PLASTICINE_RESTRICT line,
                                   const float* PLASTICINE_RESTRICT values, int n) {
  if (n <= 2) {
    line[0] += values[0];
    if (n == 2) {
      line[1] += values[1];
    }
    return;
  }
  for (int j = 0; j < n; j += kLanes) {
    const unsigned live = first_bits(n - j < kLanes ? n - j : kLanes);
    store_lanes(load_lanes(line + j, live) + load_lanes(values + j, live), live, line + j);
  }
}
#endif

// whole: all cells are within the owned range.
template <int D, bool whole, typename T, typename Index>
void add_runs(T* image, const Steps<D>& steps, const RunCells<Index>& cells, const Runs& runs,
              const Shares<D, T>& shares, const OwnedRange& owned) {
  constexpr int kLines = Shares<D, T>::kLines;
  std::int64_t offset[kLines];
  for (int line = 0; line < kLines; ++line) {
    offset[line] = steps.line(line);
  }
  // All cells of a run are on one row.
  const auto owns = [&](int j, int line) {
    const int side = D == 3 && owned.axis == 0 ? line >> 1 : line & 1;
    const std::int64_t position = static_cast<std::int64_t>(cells.position[j]) + side;
    return whole || (position >= owned.first && position < owned.last);
  };
  int start = 0;
  for (int run = 0; run < runs.count; ++run) {
    const int end = runs.end[run];
    for (int line = 0; line < kLines; ++line) {
      if (owns(start, line)) {
        add_to_line(image + cells.base[start] + offset[line], shares.first[line] + start,
                    end - start);
      }
    }
    start = end;
  }
  const std::int64_t next = steps.axis[D - 1];
  for (int run = 0; run < runs.count; ++run) {
    const int last = runs.end[run] - 1;
    for (int line = 0; line < kLines; ++line) {
      if (owns(last, line)) {
        image[cells.base[last] + offset[line] + next] += shares.second[line][last];
      }
    }
  }
}

template <int D, typename T, typename Index>
void add_runs(T* image, const Steps<D>& steps, const RunCells<Index>& cells, int n,
              const Runs& runs, const Shares<D, T>& shares, const OwnedRange& owned) {
  const Index first = static_cast<Index>(owned.first);
  const Index last = static_cast<Index>(owned.last - 1);
  int outside = 0;
  for (int j = 0; j < n; ++j) {
    outside |= (cells.position[j] < first ? 1 : 0) | (cells.position[j] >= last ? 1 : 0);
  }
  if (outside == 0) {
    add_runs<D, true>(image, steps, cells, runs, shares, owned);
  } else {
    add_runs<D, false>(image, steps, cells, runs, shares, owned);
  }
}

// False where a gradient or a weight is not finite.
template <int D, typename T, typename Index>
bool fill_shares(const Cells<T, Index>& cells, int n, const T* PLASTICINE_RESTRICT grad,
                 Shares<D, T>* PLASTICINE_RESTRICT shares) {
  int bad = 0;
  for (int j = 0; j < n; ++j) {
    T zero = grad[j] * T(0);
    for (int axis = 0; axis < D; ++axis) {
      zero += cells.weight[axis][0][j] * T(0);
    }
    bad |= zero == T(0) ? 0 : 1;
    for (int line = 0; line < Shares<D, T>::kLines; ++line) {
      T weight = grad[j] * cells.weight[0][D == 3 ? line >> 1 : line][j];
      if constexpr (D == 3) {
        weight *= cells.weight[1][line & 1][j];
      }
      shares->first[line][j] = weight * cells.weight[D - 1][0][j];
      shares->second[line][j] = weight * cells.weight[D - 1][1][j];
    }
  }
  return bad == 0;
}

// Finds the runs, and adds the share in the voxel of the next cell of a run to the next cell's. A
// cell follows another where it begins one voxel after it, on the same line: offsets alone do not
// tell where the image holds only the owned range, outside of which they mean nothing.
template <int D, typename T, typename Index>
void join_runs(const RunCells<Index>& cells, bool adjacent, int n, Shares<D, T>* shares,
               Runs* runs) {
  alignas(64) T follows[kBlock];
  follows[0] = T(0);
  for (int j = 1; j < n; ++j) {
    const bool one_on = (cells.base[j] - cells.base[j - 1] == 1) &
                        (cells.position[j] == cells.position[j - 1]) & adjacent;
    follows[j] = one_on ? T(1) : T(0);
  }
  for (int line = 0; line < Shares<D, T>::kLines; ++line) {
    for (int j = 1; j < n; ++j) {
      shares->first[line][j] += follows[j] * shares->second[line][j - 1];
    }
  }
  runs->count = 0;
  for (int j = 1; j < n; ++j) {
    runs->end[runs->count] = j;
    runs->count += follows[j] == T(0) ? 1 : 0;
  }
  runs->end[runs->count++] = n;
}

template <int D, typename T, typename Index>
bool scatter_cells(T* image, const ImageShape& shape, const Cells<T, Index>& cells, int n,
                   const T* grad, const OwnedRange& owned) {
  const Steps<D> steps(shape);
  Shares<D, T> shares;
  if (!fill_shares(cells, n, grad, &shares)) {
    return false;
  }
  Runs runs;
  const RunCells<Index> run_cells = {cells.base, cells.position[owned.axis]};
  join_runs(run_cells, steps.axis[D - 1] == 1, n, &shares, &runs);
  add_runs<D>(image, steps, run_cells, n, runs, shares, owned);
  return true;
}

template <typename T, typename Index>
bool scatter(T* image, const ImageShape& shape, const CellStorage<T>& storage, int n, const T* grad,
             const OwnedRange& owned) {
  const auto& cells = cells_of<T, Index>(storage);
  return shape.ndim == 2 ? scatter_cells<2>(image, shape, cells, n, grad, owned)
                         : scatter_cells<3>(image, shape, cells, n, grad, owned);
}

template <typename T, typename Index>
void scatter_nearest(T* image, const CellStorage<T>& storage, int n, const T* grad,
                     const OwnedRange& owned) {
  const auto& cells = cells_of<T, Index>(storage);
  for (int j = 0; j < n; ++j) {
    const std::int64_t position = cells.position[owned.axis][j];
    if (cells.weight[0][0][j] == T(1) && position >= owned.first && position < owned.last) {
      image[cells.base[j]] += grad[j];
    }
  }
}

PLASTICINE_NAMESPACE_END
