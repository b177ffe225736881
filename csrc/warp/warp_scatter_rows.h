// Gradients added to the image at cells. Part of warp_rows.cpp, which is compiled once per
// instruction set.
#pragma once

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

// Whether cell j begins one voxel after the cell before it, on the same line. Offsets alone do not
// tell where the target holds only the owned range: outside of it they mean nothing.
template <typename T, typename Index>
PLASTICINE_INLINE bool follows(const Cells<T, Index>& cells, int owner_axis, int j) {
  const Index* position = cells.position[owner_axis];
  return (cells.base[j] - cells.base[j - 1] == 1) & (position[j] == position[j - 1]);
}

// Where a cell begins one voxel after the cell before it, as most do in a smooth field, it shares a
// voxel with it: the two shares are added here, so that memory is touched once. False where a
// gradient or a weight is not finite.
template <int D, typename T, typename Index>
bool fill_shares(const Cells<T, Index>& cells, bool adjacent, int owner_axis, int n,
                 const T* PLASTICINE_RESTRICT grad, Shares<D, T>* PLASTICINE_RESTRICT shares) {
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
  if (bad != 0) {
    return false;
  }
  for (int line = 0; adjacent && line < Shares<D, T>::kLines; ++line) {
    for (int j = 1; j < n; ++j) {
      shares->first[line][j] += follows(cells, owner_axis, j) ? shares->second[line][j - 1] : T(0);
    }
  }
  return true;
}

// whole: all cells are within the owned range. The order of multiplications and additions is the
// same whichever axis and range is owned: the result must not depend on how the image is shared
// out.
template <int D, bool whole, typename T, typename Index>
void add_cells(T* image, const Steps<D>& steps, const Cells<T, Index>& cells, int n,
               const Shares<D, T>& shares, const OwnedRange& owned) {
  constexpr int kLines = 1 << (D - 1);
  std::int64_t offset[kLines];
  bool inside[kLines];
  for (int line = 0; line < kLines; ++line) {
    offset[line] = steps.line(line);
    inside[line] = true;
  }
  const std::int64_t next = steps.axis[D - 1];
  for (int j = 0; j < n; ++j) {
    if constexpr (!whole) {
      for (int line = 0; line < kLines; ++line) {
        const int side = D == 3 && owned.axis == 0 ? line >> 1 : line & 1;
        const std::int64_t position = cells.position[owned.axis][j] + side;
        inside[line] = position >= owned.first && position < owned.last;
      }
    }
    T* cell = image + cells.base[j];
    for (int line = 0; line < kLines; ++line) {
      if (inside[line]) {
        cell[offset[line]] += shares.first[line][j];
      }
    }
    if (j + 1 == n || next != 1 || !follows(cells, owned.axis, j + 1)) {
      for (int line = 0; line < kLines; ++line) {
        if (inside[line]) {
          cell[offset[line] + next] += shares.second[line][j];
        }
      }
    }
  }
}

template <int D, typename T, typename Index>
bool scatter_cells(T* image, const ImageShape& shape, const Cells<T, Index>& cells, int n,
                   const T* grad, const OwnedRange& owned) {
  const Steps<D> steps(shape);
  Shares<D, T> shares;
  if (!fill_shares(cells, steps.axis[D - 1] == 1, owned.axis, n, grad, &shares)) {
    return false;
  }
  const Index first = static_cast<Index>(owned.first);
  const Index last = static_cast<Index>(owned.last - 1);
  const Index* position = cells.position[owned.axis];
  int outside = 0;
  for (int j = 0; j < n; ++j) {
    outside |= (position[j] < first ? 1 : 0) | (position[j] >= last ? 1 : 0);
  }
  if (outside == 0) {
    add_cells<D, true>(image, steps, cells, n, shares, owned);
  } else {
    add_cells<D, false>(image, steps, cells, n, shares, owned);
  }
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
