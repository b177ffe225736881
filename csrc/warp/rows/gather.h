// Image values at cells, and their derivatives.
#pragma once

#include "core/avx512/lanes.h"
#include "warp/rows/locate.h"

PLASTICINE_NAMESPACE_BEGIN

constexpr int kPart = 64;  // voxels whose corner values are held at a time

// The values of up to kPart cells: per line of the cell (a pair along the last axis), the pairs one
// after the other. Two neighbours are copied at once: on today's CPUs that is faster than gather
// instructions, and no slower on those where gathers are penalised.
template <int D, typename T>
struct Corners {
  alignas(64) T pair[1 << (D - 1)][2 * kPart];
};

template <typename Stored, typename T>
void convert_pairs(const Stored* PLASTICINE_RESTRICT raw, int n, T* PLASTICINE_RESTRICT pairs) {
  for (int j = 0; j < n; ++j) {
    pairs[j] = load(raw[j]);
  }
}

#if defined(PLASTICINE_SIMD_AVX512)
// By the conversion instruction, which the compiler does not find in the arithmetic of half.h.
template <>
PLASTICINE_INLINE void convert_pairs(const Half* PLASTICINE_RESTRICT raw, int n,
                                     float* PLASTICINE_RESTRICT pairs) {
  for (int j = 0; j < n; j += kLanes) {
    const unsigned live = first_bits(n - j < kLanes ? n - j : kLanes);
    store_lanes(load_lanes(raw + j, live), live, pairs + j);
  }
}
#endif

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
    alignas(64) T values[kPart];
    fill_corners<D>(image, cells.base + start, steps, count, &corners);
    if (add != nullptr) {
      for (int j = 0; j < count; ++j) {
        const CellView<D, T, Index> cell(cells, corners, start, j);
        const T value =
            scale *
            (interpolate<D>(cell.weight_first, cell.weight_second, cell.corner) + add[start + j]);
        nan_count |= value == value ? 0 : 1;
        values[j] = value;
      }
    } else {
      for (int j = 0; j < count; ++j) {
        const CellView<D, T, Index> cell(cells, corners, start, j);
        const T value = scale * interpolate<D>(cell.weight_first, cell.weight_second, cell.corner);
        nan_count |= value == value ? 0 : 1;
        values[j] = value;
      }
    }
    store_values(values, count, out + start);
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
        // The derivative of a multilinear function: the axis' weights become their derivatives.
        const T first = cell.weight_first[axis];
        const T second = cell.weight_second[axis];
        cell.weight_first[axis] = cells.derivative[axis][0][start + j];
        cell.weight_second[axis] = cells.derivative[axis][1][start + j];
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

PLASTICINE_NAMESPACE_END
