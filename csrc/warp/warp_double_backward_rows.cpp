// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "warp_double_backward_rows.h"

#include "../common/half.h"
#include "warp_cell.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

template <Padding padding, typename Index, typename T>
void locate_axis(const T* PLASTICINE_RESTRICT coordinate, std::int64_t size, int n, int axis,
                 SlopedCells<T>* PLASTICINE_RESTRICT cells) {
  for (int j = 0; j < n; ++j) {
    const AxisCell<T, Index> cell = axis_cell<padding>(coordinate[j], static_cast<Index>(size));
    cells->position[axis][j] = cell.base;
    cells->weight[axis][0][j] = cell.weight_first;
    cells->weight[axis][1][j] = cell.weight_second;
    cells->slope[axis][0][j] = cell.slope_first;
    cells->slope[axis][1][j] = cell.slope_second;
  }
}

template <Padding padding, typename T>
void locate_axes(const T* coordinates, const ImageShape& shape, int n, SlopedCells<T>* cells) {
  // Indices are one or two beyond the size before they are bounded.
  constexpr std::int64_t kWide = (std::int64_t{1} << 31) - 4;
  for (int axis = 0; axis < shape.ndim; ++axis) {
    const T* coordinate = coordinates + axis * kBlock;
    if (shape.size[axis] >= kWide) {
      locate_axis<padding, std::int64_t>(coordinate, shape.size[axis], n, axis, cells);
    } else {
      locate_axis<padding, std::int32_t>(coordinate, shape.size[axis], n, axis, cells);
    }
  }
}

template <typename T>
void locate(const T* coordinates, const ImageShape& shape, Padding padding, int n,
            SlopedCells<T>* cells) {
  switch (padding) {
    case Padding::zeros:
      return locate_axes<Padding::zeros>(coordinates, shape, n, cells);
    case Padding::border:
      return locate_axes<Padding::border>(coordinates, shape, n, cells);
    default:
      return locate_axes<Padding::reflection>(coordinates, shape, n, cells);
  }
}

// The distance from a cell's first voxel to each corner; none along an axis with one voxel, whose
// second neighbour has weight zero.
template <int D>
struct CornerOffsets {
  std::int64_t corner[1 << D];

  explicit CornerOffsets(const ImageShape& shape) {
    for (int c = 0; c < 1 << D; ++c) {
      corner[c] = 0;
      for (int axis = 0; axis < D; ++axis) {
        const bool up = (c >> (D - 1 - axis)) & 1;
        corner[c] += up && shape.size[axis] > 1 ? shape.stride[axis] : 0;
      }
    }
  }
};

template <int D, typename T>
PLASTICINE_INLINE std::int64_t cell_offset(const SlopedCells<T>& cells, const ImageShape& shape,
                                           int j) {
  std::int64_t offset = 0;
  for (int axis = 0; axis < D; ++axis) {
    offset += cells.position[axis][j] * shape.stride[axis];
  }
  return offset;
}

constexpr int kPart = 64;  // voxels whose corner values are held at a time

template <int D, typename T>
struct CornerRows {
  alignas(64) T corner[1 << D][kPart];
};

template <int D, typename Stored, typename T>
void load_corners(const Stored* image, const ImageShape& shape, const SlopedCells<T>& cells,
                  int start, int count, CornerRows<D, T>* PLASTICINE_RESTRICT rows) {
  const CornerOffsets<D> offsets(shape);
  for (int j = 0; j < count; ++j) {
    const Stored* cell = image + cell_offset<D>(cells, shape, start + j);
    for (int c = 0; c < 1 << D; ++c) {
      rows->corner[c][j] = load(cell[offsets.corner[c]]);
    }
  }
}

// Contracts the last axis that is left of corner values: Count pairs to Count values.
template <int Count, typename T>
PLASTICINE_INLINE void contract(const T (&pairs)[2 * Count], T first, T second, T (&out)[Count]) {
  for (int i = 0; i < Count; ++i) {
    out[i] = first * pairs[2 * i] + second * pairs[2 * i + 1];
  }
}

// One cell's value with its first and mixed second derivatives. The pure second derivatives of a
// multilinear function are zero.
template <int D, typename T>
struct Derivatives {
  T value;
  T first[D];
  T mixed[3];  // 2D: (01); 3D: (01), (02), (12)

  PLASTICINE_INLINE Derivatives(const T (&corner)[1 << D], const SlopedCells<T>& cells, int j) {
    T weighted[1 << (D - 1)];
    T sloped[1 << (D - 1)];
    const auto& weight = cells.weight;
    const auto& slope = cells.slope;
    contract(corner, weight[D - 1][0][j], weight[D - 1][1][j], weighted);
    contract(corner, slope[D - 1][0][j], slope[D - 1][1][j], sloped);
    if constexpr (D == 2) {
      value = weight[0][0][j] * weighted[0] + weight[0][1][j] * weighted[1];
      first[0] = slope[0][0][j] * weighted[0] + slope[0][1][j] * weighted[1];
      first[1] = weight[0][0][j] * sloped[0] + weight[0][1][j] * sloped[1];
      mixed[0] = slope[0][0][j] * sloped[0] + slope[0][1][j] * sloped[1];
    } else {
      T plain[2];   // neither axis 1 nor axis 2 differentiated
      T middle[2];  // axis 1
      T last[2];    // axis 2
      T both[2];
      contract(weighted, weight[1][0][j], weight[1][1][j], plain);
      contract(weighted, slope[1][0][j], slope[1][1][j], middle);
      contract(sloped, weight[1][0][j], weight[1][1][j], last);
      contract(sloped, slope[1][0][j], slope[1][1][j], both);
      value = weight[0][0][j] * plain[0] + weight[0][1][j] * plain[1];
      first[0] = slope[0][0][j] * plain[0] + slope[0][1][j] * plain[1];
      first[1] = weight[0][0][j] * middle[0] + weight[0][1][j] * middle[1];
      first[2] = weight[0][0][j] * last[0] + weight[0][1][j] * last[1];
      mixed[0] = slope[0][0][j] * middle[0] + slope[0][1][j] * middle[1];
      mixed[1] = slope[0][0][j] * last[0] + slope[0][1][j] * last[1];
      mixed[2] = weight[0][0][j] * both[0] + weight[0][1][j] * both[1];
    }
  }
};

template <int D, bool second, typename Stored, typename T>
void differentiate(const Stored* image, const ImageShape& shape, const SlopedCells<T>& cells, int n,
                   const T* PLASTICINE_RESTRICT grad, const T* PLASTICINE_RESTRICT direction,
                   T* PLASTICINE_RESTRICT value, T* PLASTICINE_RESTRICT gradient) {
  CornerRows<D, T> rows;
  for (int start = 0; start < n; start += kPart) {
    const int count = n - start < kPart ? n - start : kPart;
    load_corners<D>(image, shape, cells, start, count, &rows);
    for (int i = 0; i < count; ++i) {
      const int j = start + i;
      T corner[1 << D];
      for (int c = 0; c < 1 << D; ++c) {
        corner[c] = rows.corner[c][i];
      }
      const Derivatives<D, T> at(corner, cells, j);
      if constexpr (!second) {
        value[j] += at.value;
        for (int axis = 0; axis < D; ++axis) {
          gradient[axis * kBlock + j] += grad[j] * at.first[axis];
        }
      } else if constexpr (D == 2) {
        const T along0 = direction[j];
        const T along1 = direction[kBlock + j];
        value[j] += along0 * at.first[0] + along1 * at.first[1];
        gradient[j] += grad[j] * (along1 * at.mixed[0]);
        gradient[kBlock + j] += grad[j] * (along0 * at.mixed[0]);
      } else {
        const T along0 = direction[j];
        const T along1 = direction[kBlock + j];
        const T along2 = direction[2 * kBlock + j];
        value[j] += along0 * at.first[0] + along1 * at.first[1] + along2 * at.first[2];
        gradient[j] += grad[j] * (along1 * at.mixed[0] + along2 * at.mixed[1]);
        gradient[kBlock + j] += grad[j] * (along0 * at.mixed[0] + along2 * at.mixed[2]);
        gradient[2 * kBlock + j] += grad[j] * (along0 * at.mixed[1] + along1 * at.mixed[2]);
      }
    }
  }
}

template <typename Stored>
void first_order(const void* image, const ImageShape& shape,
                 const SlopedCells<accumulator_t<Stored>>& cells, int n,
                 const accumulator_t<Stored>* grad, accumulator_t<Stored>* value,
                 accumulator_t<Stored>* gradient) {
  const Stored* values = static_cast<const Stored*>(image);
  const accumulator_t<Stored>* none = nullptr;
  if (shape.ndim == 2) {
    differentiate<2, false>(values, shape, cells, n, grad, none, value, gradient);
  } else {
    differentiate<3, false>(values, shape, cells, n, grad, none, value, gradient);
  }
}

template <typename Stored>
void second_order(const void* image, const ImageShape& shape,
                  const SlopedCells<accumulator_t<Stored>>& cells, int n,
                  const accumulator_t<Stored>* grad, const accumulator_t<Stored>* direction,
                  accumulator_t<Stored>* value, accumulator_t<Stored>* gradient) {
  const Stored* values = static_cast<const Stored*>(image);
  if (shape.ndim == 2) {
    differentiate<2, true>(values, shape, cells, n, grad, direction, value, gradient);
  } else {
    differentiate<3, true>(values, shape, cells, n, grad, direction, value, gradient);
  }
}

template <int D, typename T>
bool fill_corner_weights(const SlopedCells<T>& cells, int n, const T* PLASTICINE_RESTRICT direction,
                         T* PLASTICINE_RESTRICT weights) {
  int bad = 0;
  for (int c = 0; c < 1 << D; ++c) {
    for (int j = 0; j < n; ++j) {
      T sum = T(0);
      for (int along = 0; along < D; ++along) {
        T weight = direction[along * kBlock + j];
        for (int axis = 0; axis < D; ++axis) {
          const int side = (c >> (D - 1 - axis)) & 1;
          weight *= axis == along ? cells.slope[axis][side][j] : cells.weight[axis][side][j];
        }
        sum += weight;
      }
      weights[c * kBlock + j] = sum;
      bad |= sum * T(0) == T(0) ? 0 : 1;
    }
  }
  return bad == 0;
}

template <typename T>
bool corner_weights(const SlopedCells<T>& cells, int ndim, int n, const T* direction, T* weights) {
  return ndim == 2 ? fill_corner_weights<2>(cells, n, direction, weights)
                   : fill_corner_weights<3>(cells, n, direction, weights);
}

// The order of additions is the same whichever axis and range is owned.
template <int D, typename T>
void scatter_cells(T* image, const ImageShape& shape, const SlopedCells<T>& cells, int n,
                   const T* grad, const T* weights, const OwnedRange& owned) {
  const CornerOffsets<D> offsets(shape);
  const int shift = D - 1 - owned.axis;
  for (int j = 0; j < n; ++j) {
    const std::int64_t position = cells.position[owned.axis][j];
    const bool inside[2] = {position >= owned.first && position < owned.last,
                            position + 1 >= owned.first && position + 1 < owned.last};
    if (!inside[0] && !inside[1]) {
      continue;
    }
    T* cell = image + cell_offset<D>(cells, shape, j);
    for (int c = 0; c < 1 << D; ++c) {
      if (inside[(c >> shift) & 1]) {
        cell[offsets.corner[c]] += grad[j] * weights[c * kBlock + j];
      }
    }
  }
}

template <typename T>
bool scatter(T* image, const ImageShape& shape, const SlopedCells<T>& cells, int n, const T* grad,
             const T* weights, const OwnedRange& owned) {
  int bad = 0;
  for (int j = 0; j < n; ++j) {
    bad |= grad[j] * T(0) == T(0) ? 0 : 1;
  }
  if (bad != 0) {
    return false;
  }
  if (shape.ndim == 2) {
    scatter_cells<2>(image, shape, cells, n, grad, weights, owned);
  } else {
    scatter_cells<3>(image, shape, cells, n, grad, weights, owned);
  }
  return true;
}

template <typename Stored>
constexpr DoubleBackwardRows<accumulator_t<Stored>> kTable = {
    locate<accumulator_t<Stored>>,  first_order<Stored>,
    second_order<Stored>,           corner_weights<accumulator_t<Stored>>,
    scatter<accumulator_t<Stored>>,
};

}  // namespace

template <typename T>
const DoubleBackwardRows<T>& double_backward_rows(DType image);

template <>
const DoubleBackwardRows<float>& double_backward_rows<float>(DType image) {
  switch (image) {
    case DType::float16:
      return kTable<Half>;
    case DType::bfloat16:
      return kTable<BFloat16>;
    default:
      return kTable<float>;
  }
}

template <>
const DoubleBackwardRows<double>& double_backward_rows<double>(DType) {
  return kTable<double>;
}

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
