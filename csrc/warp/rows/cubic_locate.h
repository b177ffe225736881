// From coordinates to cubic cells.
#pragma once

#include "core/rows/dispatch.h"
#include "warp/math/cubic.h"
#include "warp/rows/cubic.h"

PLASTICINE_NAMESPACE_BEGIN

template <typename T, typename Index>
const CubicCells<T, Index>& cubic_cells_of(const CubicCellStorage<T>& storage) {
  return *reinterpret_cast<const CubicCells<T, Index>*>(storage.bytes);
}

template <Mode mode, Padding padding, bool derivatives, typename T, typename Index>
void locate_cubic_axis(const T* PLASTICINE_RESTRICT coordinate, Index size, int n, int axis,
                       CubicCells<T, Index>* PLASTICINE_RESTRICT cells) {
  const T last = static_cast<T>(size - 1);
  for (int j = 0; j < n; ++j) {
    const PaddedCoordinate<T> padded = pad_cubic_coordinate<mode, padding>(coordinate[j], last);
    // NaN, too, becomes an index. Floor is made of truncation, which every instruction set
    // vectorises.
    const T bounded = padded.value > T(-3) ? padded.value : T(-3);
    Index index = static_cast<Index>(bounded);
    index -= static_cast<T>(index) > bounded ? 1 : 0;
    if constexpr (pads_location(mode, padding)) {
      index = padded_index<padding>(index, size);
    }
    const T t = padded.value - static_cast<T>(index);
    T value[kTaps];
    cubic_weights<mode>(t, value);
    for (int k = 0; k < kTaps; ++k) {
      cells->weight[axis][k][j] = value[k];
    }
    if constexpr (derivatives) {
      cubic_derivatives<mode>(t, value);
      for (int k = 0; k < kTaps; ++k) {
        cells->derivative[axis][k][j] = padded.derivative * value[k];
      }
    }
    const Index first = index - 1;
    cells->position[axis][j] = first;
    cells->kind[j] |= t == t ? 0 : static_cast<Index>(CellKind::nowhere);
  }
}

template <typename Index>
PLASTICINE_INLINE Index is_beyond(Index first, Index size) {
  return (first < 0 ? 1 : 0) | (first > size - kTaps ? 1 : 0);
}

// Moves a tap's weight to the voxel that it reads, one of the four from `base` on; the weight of a
// tap that reads none is dropped.
template <Padding padding, typename T, typename Index>
PLASTICINE_INLINE void fold_weights(Index first, Index base, Index last, int j,
                                    T (*weight)[kBlock]) {
  T folded[kTaps] = {};
  for (int k = 0; k < kTaps; ++k) {
    const Index lane = tap_index<Index>(padding, first + k, last) - base;
    for (int x = 0; x < kTaps; ++x) {
      folded[x] += lane == x ? weight[k][j] : T(0);
    }
  }
  for (int x = 0; x < kTaps; ++x) {
    weight[x][j] = folded[x];
  }
}

// Moves the cells that reach beyond the image into it, on an axis of at least four voxels.
template <Padding padding, bool derivatives, typename T, typename Index>
void fold_axis(Index size, int n, int axis, CubicCells<T, Index>* PLASTICINE_RESTRICT cells) {
  constexpr int kChunk = 16;
  Index* position = cells->position[axis];
  for (int start = 0; start < n; start += kChunk) {
    const int end = start + kChunk < n ? start + kChunk : n;
    Index any = 0;
    for (int j = start; j < end; ++j) {
      any |= is_beyond(position[j], size);
    }
    if (any == 0) {
      continue;
    }
    for (int j = start; j < end; ++j) {
      const Index first = position[j];
      const Index raised = first < 0 ? 0 : first;
      const Index base = raised > size - kTaps ? size - kTaps : raised;
      fold_weights<padding>(first, base, size - 1, j, cells->weight[axis]);
      if constexpr (derivatives) {
        fold_weights<padding>(first, base, size - 1, j, cells->derivative[axis]);
      }
      position[j] = base;
    }
  }
}

// The offsets of the cells inside, and the kinds of all.
template <typename T, typename Index>
void finish_axis(Index size, Index stride, int n, int axis,
                 CubicCells<T, Index>* PLASTICINE_RESTRICT cells) {
  for (int j = 0; j < n; ++j) {
    const Index first = cells->position[axis][j];
    const Index beyond = is_beyond(first, size);
    cells->base[j] += (beyond ? 0 : first) * stride;
    cells->kind[j] |= beyond;
  }
}

template <Mode mode, Padding padding, bool derivatives, typename T, typename Index>
void locate_cubic_axes(const T* coordinates, const ImageShape& shape, bool fold, int n,
                       CubicCells<T, Index>* cells) {
  for (int j = 0; j < n; ++j) {
    cells->base[j] = 0;
    cells->kind[j] = 0;
  }
  for (int axis = 0; axis < shape.ndim; ++axis) {
    const Index size = static_cast<Index>(shape.size[axis]);
    const Index stride = static_cast<Index>(shape.stride[axis]);
    locate_cubic_axis<mode, padding, derivatives>(coordinates + axis * kBlock, size, n, axis,
                                                  cells);
    if (fold && size >= kTaps) {
      fold_axis<padding, derivatives>(size, n, axis, cells);
    }
    finish_axis(size, stride, n, axis, cells);
  }
}

template <typename T, typename Index>
void locate_cubic(const T* coordinates, const ImageShape& shape, Mode mode, Padding padding,
                  bool fold, int n, bool derivatives, CubicCellStorage<T>* storage) {
  auto* cells = reinterpret_cast<CubicCells<T, Index>*>(storage->bytes);
  const auto with_mode = [&](auto m) {
    with_padding(padding, [&](auto p) {
      const auto run = derivatives ? locate_cubic_axes<m.value, p.value, true, T, Index>
                                   : locate_cubic_axes<m.value, p.value, false, T, Index>;
      run(coordinates, shape, fold, n, cells);
    });
  };
  mode == Mode::bspline ? with_mode(Constant<Mode, Mode::bspline>())
                        : with_mode(Constant<Mode, Mode::cubic>());
}

PLASTICINE_NAMESPACE_END
