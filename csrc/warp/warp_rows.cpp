// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "warp_rows.h"

#include "../common/half.h"
#include "warp_cell.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

constexpr int kPart = 64;  // voxels whose corner values are held at a time

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

template <Padding padding, bool slopes, typename T, typename Index>
void locate_axis(const T* PLASTICINE_RESTRICT coordinate, Index size, Index stride, int n, int axis,
                 Cells<T, Index>* PLASTICINE_RESTRICT cells) {
  for (int j = 0; j < n; ++j) {
    const AxisCell<T, Index> cell = axis_cell<padding>(coordinate[j], size);
    cells->base[j] += cell.base * stride;
    cells->position[axis][j] = cell.base;
    cells->weight[axis][0][j] = cell.weight_first;
    cells->weight[axis][1][j] = cell.weight_second;
    if constexpr (slopes) {
      cells->slope[axis][0][j] = cell.slope_first;
      cells->slope[axis][1][j] = cell.slope_second;
    }
  }
}

template <Padding padding, typename T, typename Index>
void locate_axes(const T* coordinates, const ImageShape& shape, int n, bool slopes,
                 Cells<T, Index>* cells) {
  start_bases(cells->base, n);
  for (int axis = 0; axis < shape.ndim; ++axis) {
    const T* coordinate = coordinates + axis * kBlock;
    const Index size = static_cast<Index>(shape.size[axis]);
    const Index stride = static_cast<Index>(shape.stride[axis]);
    if (slopes) {
      locate_axis<padding, true>(coordinate, size, stride, n, axis, cells);
    } else {
      locate_axis<padding, false>(coordinate, size, stride, n, axis, cells);
    }
  }
}

template <typename T, typename Index>
void locate(const T* coordinates, const ImageShape& shape, Padding padding, int n, bool slopes,
            CellStorage<T>* storage) {
  Cells<T, Index>* cells = &cells_of<T, Index>(storage);
  switch (padding) {
    case Padding::zeros:
      return locate_axes<Padding::zeros>(coordinates, shape, n, slopes, cells);
    case Padding::border:
      return locate_axes<Padding::border>(coordinates, shape, n, slopes, cells);
    case Padding::reflection:
      return locate_axes<Padding::reflection>(coordinates, shape, n, slopes, cells);
  }
}

// The values of up to kPart cells: per line of the cell (a pair along the last axis), the pairs one
// after the other. Two neighbours are copied at once: on today's CPUs that is faster than gather
// instructions, and no slower on those where gathers are penalised.
template <int D, typename T>
struct Corners {
  alignas(64) T pair[1 << (D - 1)][2 * kPart];
};

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

template <typename Stored, typename T>
void convert_pairs(const Stored* PLASTICINE_RESTRICT raw, int n, T* PLASTICINE_RESTRICT pairs) {
  for (int j = 0; j < n; ++j) {
    pairs[j] = load(raw[j]);
  }
}

template <int D, bool adjacent, typename Stored, typename Index>
void copy_pairs(const Stored* image, const Index* PLASTICINE_RESTRICT base, const Steps<D>& steps,
                int n, Stored (*PLASTICINE_RESTRICT pair)[2 * kPart]) {
  constexpr int kLines = 1 << (D - 1);
  std::int64_t offset[kLines];
  for (int line = 0; line < kLines; ++line) {
    offset[line] = steps.line(line);
  }
  const std::int64_t next = steps.axis[D - 1];
  for (int j = 0; j < n; ++j) {
    const Stored* first = image + base[j];
    for (int line = 0; line < kLines; ++line) {
      if constexpr (adjacent) {
        __builtin_memcpy(&pair[line][2 * j], first + offset[line], 2 * sizeof(Stored));
      } else {
        pair[line][2 * j] = first[offset[line]];
        pair[line][2 * j + 1] = first[offset[line] + next];
      }
    }
  }
}

template <int D, typename Stored, typename Index>
void fill_corners(const Stored* image, const Index* base, const Steps<D>& steps, int n,
                  Corners<D, accumulator_t<Stored>>* corners) {
  using T = accumulator_t<Stored>;
  constexpr int kLines = 1 << (D - 1);
  if constexpr (sizeof(Stored) == sizeof(T)) {
    if (steps.axis[D - 1] == 1) {
      copy_pairs<D, true>(image, base, steps, n, corners->pair);
    } else {
      copy_pairs<D, false>(image, base, steps, n, corners->pair);
    }
  } else {
    Stored raw[kLines][2 * kPart];
    if (steps.axis[D - 1] == 1) {
      copy_pairs<D, true>(image, base, steps, n, raw);
    } else {
      copy_pairs<D, false>(image, base, steps, n, raw);
    }
    for (int line = 0; line < kLines; ++line) {
      convert_pairs(raw[line], 2 * n, corners->pair[line]);
    }
  }
}

template <int D, typename T, typename Index>
struct CellView {
  T weight_first[D];
  T weight_second[D];
  T corner[1 << D];

  PLASTICINE_INLINE CellView(const Cells<T, Index>& cells, const Corners<D, T>& corners, int start,
                             int j) {
    for (int axis = 0; axis < D; ++axis) {
      weight_first[axis] = cells.weight[axis][0][start + j];
      weight_second[axis] = cells.weight[axis][1][start + j];
    }
    for (int line = 0; line < 1 << (D - 1); ++line) {
      corner[2 * line] = corners.pair[line][2 * j];
      corner[2 * line + 1] = corners.pair[line][2 * j + 1];
    }
  }
};

template <int D, typename Stored, typename Index>
bool gather_cells(const Stored* image, const ImageShape& shape,
                  const Cells<accumulator_t<Stored>, Index>& cells, int n,
                  accumulator_t<Stored> scale, const accumulator_t<Stored>* add,
                  Stored* PLASTICINE_RESTRICT out) {
  using T = accumulator_t<Stored>;
  const Steps<D> steps(shape);
  Corners<D, T> corners;
  int nan_count = 0;
  for (int start = 0; start < n; start += kPart) {
    const int count = n - start < kPart ? n - start : kPart;
    fill_corners<D>(image, cells.base + start, steps, count, &corners);
    if (add != nullptr) {
      for (int j = 0; j < count; ++j) {
        const CellView<D, T, Index> cell(cells, corners, start, j);
        const T value =
            scale *
            (interpolate<D>(cell.weight_first, cell.weight_second, cell.corner) + add[start + j]);
        nan_count |= value == value ? 0 : 1;
        out[start + j] = store<Stored>(value);
      }
    } else {
      for (int j = 0; j < count; ++j) {
        const CellView<D, T, Index> cell(cells, corners, start, j);
        const T value = scale * interpolate<D>(cell.weight_first, cell.weight_second, cell.corner);
        nan_count |= value == value ? 0 : 1;
        out[start + j] = store<Stored>(value);
      }
    }
  }
  return nan_count == 0;
}

template <typename Stored, typename Index>
bool gather(const void* image, const ImageShape& shape,
            const CellStorage<accumulator_t<Stored>>& storage, int n, accumulator_t<Stored> scale,
            const accumulator_t<Stored>* add, void* out) {
  const auto& cells = cells_of<accumulator_t<Stored>, Index>(storage);
  const Stored* values = static_cast<const Stored*>(image);
  Stored* results = static_cast<Stored*>(out);
  return shape.ndim == 2 ? gather_cells<2>(values, shape, cells, n, scale, add, results)
                         : gather_cells<3>(values, shape, cells, n, scale, add, results);
}

template <int D, typename Stored, typename Index>
void gradient_cells(const Stored* image, const ImageShape& shape,
                    const Cells<accumulator_t<Stored>, Index>& cells, int n,
                    const accumulator_t<Stored>* PLASTICINE_RESTRICT grad,
                    accumulator_t<Stored>* PLASTICINE_RESTRICT gradient) {
  using T = accumulator_t<Stored>;
  const Steps<D> steps(shape);
  Corners<D, T> corners;
  for (int start = 0; start < n; start += kPart) {
    const int count = n - start < kPart ? n - start : kPart;
    fill_corners<D>(image, cells.base + start, steps, count, &corners);
    for (int j = 0; j < count; ++j) {
      CellView<D, T, Index> cell(cells, corners, start, j);
      for (int axis = 0; axis < D; ++axis) {
        // The derivative of a multilinear function: the axis' weights become their slopes.
        const T first = cell.weight_first[axis];
        const T second = cell.weight_second[axis];
        cell.weight_first[axis] = cells.slope[axis][0][start + j];
        cell.weight_second[axis] = cells.slope[axis][1][start + j];
        gradient[axis * kBlock + start + j] +=
            grad[start + j] * interpolate<D>(cell.weight_first, cell.weight_second, cell.corner);
        cell.weight_first[axis] = first;
        cell.weight_second[axis] = second;
      }
    }
  }
}

template <typename Stored, typename Index>
void gradient(const void* image, const ImageShape& shape,
              const CellStorage<accumulator_t<Stored>>& storage, int n,
              const accumulator_t<Stored>* grad, accumulator_t<Stored>* out) {
  const auto& cells = cells_of<accumulator_t<Stored>, Index>(storage);
  const Stored* values = static_cast<const Stored*>(image);
  if (shape.ndim == 2) {
    gradient_cells<2>(values, shape, cells, n, grad, out);
  } else {
    gradient_cells<3>(values, shape, cells, n, grad, out);
  }
}

// What a block adds to the image, line by line: first[line][j] to the cell's first voxel on that
// line, second[line][j] to the one after it.
template <int D, typename T>
struct Shares {
  static constexpr int kLines = 1 << (D - 1);
  alignas(64) T first[kLines][kBlock];
  alignas(64) T second[kLines][kBlock];
};

// Where a cell begins one voxel after the cell before it, as most do in a smooth field, it shares a
// voxel with it: the two shares are added here, so that memory is touched once. False where a
// gradient or a weight is not finite.
template <int D, typename T, typename Index>
bool fill_shares(const Cells<T, Index>& cells, bool adjacent, int n,
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
  const Index step = adjacent ? 1 : -1;
  for (int line = 0; adjacent && line < Shares<D, T>::kLines; ++line) {
    for (int j = 1; j < n; ++j) {
      const bool follows = cells.base[j] - cells.base[j - 1] == step;
      shares->first[line][j] += follows ? shares->second[line][j - 1] : T(0);
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
    if (j + 1 == n || next != 1 || cells.base[j + 1] - cells.base[j] != 1) {
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
  if (!fill_shares(cells, steps.axis[D - 1] == 1, n, grad, &shares)) {
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
  for (int axis = 0; axis < shape.ndim; ++axis) {
    const T* coordinate = coordinates + axis * kBlock;
    const Index size = static_cast<Index>(shape.size[axis]);
    const Index stride = static_cast<Index>(shape.stride[axis]);
    switch (padding) {
      case Padding::zeros:
        locate_nearest_axis<Padding::zeros>(coordinate, size, stride, n, axis, cells);
        break;
      case Padding::border:
        locate_nearest_axis<Padding::border>(coordinate, size, stride, n, axis, cells);
        break;
      case Padding::reflection:
        locate_nearest_axis<Padding::reflection>(coordinate, size, stride, n, axis, cells);
        break;
    }
  }
}

template <typename Stored, typename Index>
void gather_nearest(const void* image, const CellStorage<accumulator_t<Stored>>& storage, int n,
                    void* out) {
  using T = accumulator_t<Stored>;
  const auto& cells = cells_of<T, Index>(storage);
  const Stored* values = static_cast<const Stored*>(image);
  Stored* PLASTICINE_RESTRICT results = static_cast<Stored*>(out);
  for (int j = 0; j < n; ++j) {
    const T weight = cells.weight[0][0][j];
    const Stored value = values[cells.base[j]];
    results[j] = weight == T(1) ? value : store<Stored>(weight);
  }
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

template <typename Stored, typename Index>
constexpr WarpRows<accumulator_t<Stored>> kTable = {
    locate<accumulator_t<Stored>, Index>,
    gather<Stored, Index>,
    gradient<Stored, Index>,
    scatter<accumulator_t<Stored>, Index>,
    locate_nearest<accumulator_t<Stored>, Index>,
    gather_nearest<Stored, Index>,
    scatter_nearest<accumulator_t<Stored>, Index>,
};

template <typename Stored>
const WarpRows<accumulator_t<Stored>>& table(bool wide) {
#if defined(PLASTICINE_SIMD_BASELINE)
  if (wide) {
    return kTable<Stored, std::int64_t>;
  }
#endif
  (void)wide;
  return kTable<Stored, std::int32_t>;
}

}  // namespace

template <typename T>
const WarpRows<T>& warp_rows(DType image, bool wide);

template <>
const WarpRows<float>& warp_rows<float>(DType image, bool wide) {
  switch (image) {
    case DType::float16:
      return table<Half>(wide);
    case DType::bfloat16:
      return table<BFloat16>(wide);
    default:
      return table<float>(wide);
  }
}

template <>
const WarpRows<double>& warp_rows<double>(DType, bool wide) {
  return table<double>(wide);
}

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
