// Gradients added to the image at cells.
//
// In a smooth field most cells begin one voxel after the cell before them: such a run of cells adds
// a contiguous piece of every line that it touches, once the share that a cell has in the voxel of
// the next is added to the next cell's own. What is left of each run, the share in the voxel after
// its last cell, follows when all runs are done: a voxel written a moment ago is slow to read.
//
// The order of all multiplications and additions depends on the cells alone, not on the axis and
// range that are owned: the result must not depend on how the image is shared out.
#pragma once

#include "core/avx512/lanes.h"
#include "warp/rows/locate.h"

PLASTICINE_NAMESPACE_BEGIN

// What a block adds to the image, line by line: first[line][j] to the cell's first voxel on that
// line, second[line][j] to the one after it.
template <int D, typename T>
struct Shares {
  static constexpr int kLines = 1 << (D - 1);
  alignas(64) T first[kLines][kBlock];
  alignas(64) T second[kLines][kBlock];
};

// The cells, but the first, that begin a run: bit j % 64 of word j / 64.
struct Runs {
  int cells;
  std::uint64_t begins[kBlock / 64] = {};

  // Calls visit(first cell, cell after the last) for every run.
  template <typename Visit>
  PLASTICINE_INLINE void for_each(const Visit& visit) const {
    int start = 0;
    for (int word = 0; word < kBlock / 64; ++word) {
      for (std::uint64_t bits = begins[word]; bits != 0; bits &= bits - 1) {
        const int end = 64 * word + __builtin_ctzll(bits);
        visit(start, end);
        start = end;
      }
    }
    visit(start, cells);
  }
};

// Where a block's cells are: their offset in the image, and their index on the owned axis.
template <typename Index>
struct RunCells {
  const Index* base;
  const Index* position;
};

// line[j] += values[j].
template <typename T>
PLASTICINE_INLINE void add_to_line(T* PLASTICINE_RESTRICT line, const T* PLASTICINE_RESTRICT values,
                                   int n) {
  for (int j = 0; j < n; ++j) {
    line[j] += values[j];
  }
}

// cell[offset[line] + j] += values[line][start + j] for every line of a run of n cells.
template <int kLines, typename T>
PLASTICINE_INLINE void add_run(T* cell, const std::int64_t (&offset)[kLines],
                               const T (&values)[kLines][kBlock], int start, int n) {
  for (int line = 0; line < kLines; ++line) {
    add_to_line(cell + offset[line], values[line] + start, n);
  }
}

#if defined(PLASTICINE_SIMD_AVX512)
template <int kLines>
PLASTICINE_INLINE void add_run(float* cell, const std::int64_t (&offset)[kLines],
                               const float (&values)[kLines][kBlock], int start, int n) {
  // Where the field is rough, most runs are of one or two.
  if (n <= 2) {
    for (int line = 0; line < kLines; ++line) {
      float* target = cell + offset[line];
      target[0] += values[line][start];
      if (n == 2) {
        target[1] += values[line][start + 1];
      }
    }
    return;
  }
  for (int j = 0; j < n; j += kLanes) {
    const unsigned live = first_bits(n - j < kLanes ? n - j : kLanes);
    for (int line = 0; line < kLines; ++line) {
      float* target = cell + offset[line] + j;
      store_lanes(load_lanes(target, live) + load_lanes(values[line] + start + j, live), live,
                  target);
    }
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
  runs.for_each([&](int start, int end) PLASTICINE_INLINE_LAMBDA {
    T* cell = image + cells.base[start];
    if constexpr (whole) {
      add_run(cell, offset, shares.first, start, end - start);
    } else {
      for (int line = 0; line < kLines; ++line) {
        if (owns(start, line)) {
          add_to_line(cell + offset[line], shares.first[line] + start, end - start);
        }
      }
    }
  });
  const std::int64_t next = steps.axis[D - 1];
  runs.for_each([&](int, int end) PLASTICINE_INLINE_LAMBDA {
    const int last = end - 1;
    for (int line = 0; line < kLines; ++line) {
      if (owns(last, line)) {
        image[cells.base[last] + offset[line] + next] += shares.second[line][last];
      }
    }
  });
}

template <int D, typename T, typename Index>
void add_runs(T* image, const Steps<D>& steps, const RunCells<Index>& cells, const Runs& runs,
              const Shares<D, T>& shares, const OwnedRange& owned) {
  const Index first = static_cast<Index>(owned.first);
  const Index last = static_cast<Index>(owned.last - 1);
  int outside = 0;
  for (int j = 0; j < runs.cells; ++j) {
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
  runs->cells = n;
  for (int j = 1; j < n; ++j) {
    runs->begins[j / 64] |= static_cast<std::uint64_t>(follows[j] == T(0)) << j % 64;
  }
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
  add_runs<D>(image, steps, run_cells, runs, shares, owned);
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
