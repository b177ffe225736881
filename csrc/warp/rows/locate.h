// From coordinates to cells.
#pragma once

#include "core/rows/dispatch.h"
#include "warp/math/cell.h"
#include "warp/rows/linear.h"

PLASTICINE_NAMESPACE_BEGIN

template <typename T, typename Index>
const Cells<T, Index>& cells_of(const CellStorage<T>& storage) {
  return *reinterpret_cast<const Cells<T, Index>*>(storage.bytes);
}

template <typename T, typename Index>
Cells<T, Index>& cells_of(CellStorage<T>* storage) {
  return *reinterpret_cast<Cells<T, Index>*>(storage->bytes);
}

template <typename Index>
void start_bases(Index* PLASTICINE_RESTRICT base, int n) {
  for (int j = 0; j < n; ++j) {
    base[j] = 0;
  }
}

template <Padding padding, bool derivatives, typename T, typename Index>
void locate_axis(const T* PLASTICINE_RESTRICT coordinate, Index size, Index stride, int n, int axis,
                 Cells<T, Index>* PLASTICINE_RESTRICT cells) {
  for (int j = 0; j < n; ++j) {
    const AxisCell<T, Index> cell = axis_cell<padding>(coordinate[j], size);
    cells->base[j] += cell.base * stride;
    cells->position[axis][j] = cell.base;
    cells->weight[axis][0][j] = cell.weight_first;
    cells->weight[axis][1][j] = cell.weight_second;
    if constexpr (derivatives) {
      cells->derivative[axis][0][j] = cell.derivative_first;
      cells->derivative[axis][1][j] = cell.derivative_second;
    }
  }
}

// Calls work(coordinates, size, stride, axis, padding) for every axis.
template <typename Index, typename T, typename Work>
PLASTICINE_INLINE void for_each_axis(const T* coordinates, const ImageShape& shape, Padding padding,
                                     const Work& work) {
  for (int axis = 0; axis < shape.ndim; ++axis) {
    with_padding(padding, [&](auto p) {
      work(coordinates + axis * kBlock, static_cast<Index>(shape.size[axis]),
           static_cast<Index>(shape.stride[axis]), axis, p);
    });
  }
}

template <typename T, typename Index>
void locate(const T* coordinates, const ImageShape& shape, Padding padding, int n, bool derivatives,
            CellStorage<T>* storage) {
  Cells<T, Index>* cells = &cells_of<T, Index>(storage);
  start_bases(cells->base, n);
  for_each_axis<Index>(coordinates, shape, padding,
                       [&](const T* coordinate, Index size, Index stride, int axis, auto p) {
                         const auto run = derivatives ? locate_axis<p.value, true, T, Index>
                                                      : locate_axis<p.value, false, T, Index>;
                         run(coordinate, size, stride, n, axis, cells);
                       });
}

// In nearest mode, weight[0][0] is 1 inside, 0 outside, NaN where there is no location.
template <Padding padding, typename T, typename Index>
void locate_nearest_axis(const T* PLASTICINE_RESTRICT coordinate, Index size, Index stride, int n,
                         int axis, Cells<T, Index>* PLASTICINE_RESTRICT cells) {
  for (int j = 0; j < n; ++j) {
    const NearestSample<Index> sample = nearest_axis<padding>(coordinate[j], size);
    cells->base[j] += sample.index * stride;
    cells->position[axis][j] = sample.index;
    const T outside = sample.is_nan ? static_cast<T>(__builtin_nanf("")) : T(0);
    cells->weight[0][0][j] *= sample.inside ? T(1) : outside;
  }
}

template <typename T, typename Index>
void locate_nearest(const T* coordinates, const ImageShape& shape, Padding padding, int n,
                    CellStorage<T>* storage) {
  Cells<T, Index>* cells = &cells_of<T, Index>(storage);
  start_bases(cells->base, n);
  for (int j = 0; j < n; ++j) {
    cells->weight[0][0][j] = T(1);
  }
  for_each_axis<Index>(coordinates, shape, padding,
                       [&](const T* coordinate, Index size, Index stride, int axis, auto p) {
                         locate_nearest_axis<p.value>(coordinate, size, stride, n, axis, cells);
                       });
}

// The distance from one voxel to the next on each axis; zero on an axis with one voxel, whose
// second neighbour has weight zero.
template <int D>
struct Steps {
  std::int64_t axis[D];
  explicit Steps(const ImageShape& shape) {
    for (int a = 0; a < D; ++a) {
      axis[a] = shape.size[a] > 1 ? shape.stride[a] : 0;
    }
  }
  std::int64_t line(int index) const {
    if constexpr (D == 2) {
      return index == 0 ? 0 : axis[0];
    } else {
      return (index & 2 ? axis[0] : 0) + (index & 1 ? axis[1] : 0);
    }
  }
};

PLASTICINE_NAMESPACE_END
