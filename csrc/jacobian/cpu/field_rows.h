// Rows of a displacement of any type and strides, as the finite differences of a row need them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/rows/convert.h"
#include "core/tensor.h"
#include "jacobian/math/jacobian.h"
#include "jacobian/rows/jacobian.h"

namespace plasticine {

// A field seen as planes of rows: size = (planes, rows, columns), one plane in 2D.
struct FieldShape {
  int ndim;
  std::int64_t samples;
  std::int64_t size[3];

  explicit FieldShape(const Tensor& field)
      : ndim(field.ndim - 2), samples(field.shape[0]), size{1, 1, 1} {
    for (int axis = 0; axis < ndim; ++axis) {
      size[axis + 3 - ndim] = field.shape[axis + 2];
    }
  }
};

// Calls visit(start, n) for pieces of [first, last) whose length an int holds, as the inner loops
// count.
template <typename Visit>
void for_each_part(std::int64_t first, std::int64_t last, const Visit& visit) {
  constexpr std::int64_t kLongest = std::int64_t{1} << 30;
  for (std::int64_t start = first; start < last; start += kLongest) {
    visit(start, static_cast<int>(std::min(kLongest, last - start)));
  }
}

// A part of a field that one task goes through, plane by plane and row by row. Of few rows, so that
// what three planes of them hold stays in a core's own cache.
struct Tile {
  static constexpr std::int64_t kRows = 16;
  static constexpr std::int64_t kPlanes = 32;

  std::int64_t sample;
  std::int64_t plane[2];  // first, and the one after the last
  std::int64_t row[2];

  static std::int64_t count(const FieldShape& shape) {  // per sample
    return divide_up(shape.size[0], kPlanes) * divide_up(shape.size[1], kRows);
  }

  Tile(const FieldShape& shape, std::int64_t sample_index, std::int64_t index)
      : sample(sample_index) {
    const std::int64_t tiles = divide_up(shape.size[1], kRows);
    plane[0] = index / tiles * kPlanes;
    plane[1] = std::min(plane[0] + kPlanes, shape.size[0]);
    row[0] = index % tiles * kRows;
    row[1] = std::min(row[0] + kRows, shape.size[1]);
  }

  // Calls visit(plane, row).
  template <typename Visit>
  void for_each_row(const Visit& visit) const {
    for (std::int64_t p = plane[0]; p < plane[1]; ++p) {
      for (std::int64_t r = row[0]; r < row[1]; ++r) {
        visit(p, r);
      }
    }
  }
};

// The rows of the neighbourhood of one row, for every component. In place where they lie in memory
// as T, otherwise converted, and kept while a tile is gone through.
template <typename T>
class FieldRows {
 public:
  // spacing scales component i by 1 / spacing[i]: det(I + du_i / (h_j dx_j)) is the same as with
  // u_i / h_i in place of u_i / h_j, the two matrices being similar.
  FieldRows(const Tensor& field, Scheme scheme, const double* spacing)
      : field_(field), shape_(field), scheme_(scheme) {
    for (int i = 0; i < shape_.ndim; ++i) {
      scale_[i] = T(1) / static_cast<T>(spacing[i]);
    }
    const DType native = sizeof(T) == sizeof(double) ? DType::float64 : DType::float32;
    direct_ = field.dtype == native && field.strides[field.ndim - 1] == 1;
    if (!direct_) {
      kept_planes_ = std::min(kMostPlanes, shape_.size[0]);
      const std::int64_t slots = kept_planes_ * kKeptRows * shape_.ndim;
      buffer_.reset(new T[static_cast<std::size_t>(slots * shape_.size[2])]);
      kept_.resize(static_cast<std::size_t>(slots), {-1, -1, -1});
    }
  }

  T scale(int component) const { return scale_[component]; }

  // Component `component` of a row; it stays valid while no row further away is asked for than the
  // tile's height and one.
  const T* row(std::int64_t sample, int component, std::int64_t plane, std::int64_t row) {
    const std::int64_t* strides = field_.strides + field_.ndim - 3;
    std::int64_t offset = sample * field_.strides[0] + component * field_.strides[1];
    offset += row * strides[1] + (shape_.ndim == 3 ? plane * strides[0] : 0);
    if (direct_) {
      return field_.as<T>() + offset;
    }
    const std::int64_t slot =
        (plane % kept_planes_ * kKeptRows + row % kKeptRows) * shape_.ndim + component;
    T* target = buffer_.get() + slot * shape_.size[2];
    const RowName name = {sample, plane, row};
    if (!(kept_[static_cast<std::size_t>(slot)] == name)) {
      kept_[static_cast<std::size_t>(slot)] = name;
      convert(offset, target);
    }
    return target;
  }

  // Asks for what the next plane of a tile will be the first to read: a tile's rows are too few for
  // the hardware to see them coming.
  void prefetch(std::int64_t sample, std::int64_t plane, std::int64_t row) const {
    if (!direct_ || shape_.ndim == 2 || plane >= shape_.size[0]) {
      return;
    }
    constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
    const std::int64_t* strides = field_.strides + field_.ndim - 3;
    const T* at =
        field_.as<T>() + sample * field_.strides[0] + plane * strides[0] + row * strides[1];
    for (int i = 0; i < shape_.ndim; ++i, at += field_.strides[1]) {
      for (std::int64_t x = 0; x < shape_.size[2]; x += kLine) {
        __builtin_prefetch(at + x);
      }
    }
  }

  // A row with its neighbours.
  DifferenceRows<T> at(std::int64_t sample, std::int64_t plane, std::int64_t row_index) {
    DifferenceRows<T> rows;
    rows.ndim = shape_.ndim;
    rows.scheme = scheme_;
    rows.columns = shape_.size[2];
    const int first = 3 - shape_.ndim;
    const std::int64_t position[2] = {plane, row_index};
    for (int i = 0; i < shape_.ndim; ++i) {
      rows.centre[i] = row(sample, i, plane, row_index);
      rows.scale[i] = scale_[i];
    }
    for (int axis = first; axis < 2; ++axis) {
      const auto difference =
          difference_at<T, std::int64_t>(scheme_, position[axis], shape_.size[axis]);
      rows.across[axis - first] = difference.weight;
      const auto neighbour = [&](int i, std::int64_t index) {
        return index == position[axis]
                   ? rows.centre[i]
                   : row(sample, i, axis == 0 ? index : plane, axis == 1 ? index : row_index);
      };
      for (int i = 0; i < shape_.ndim; ++i) {
        rows.lower[i][axis - first] = neighbour(i, difference.lower);
        rows.upper[i][axis - first] = neighbour(i, difference.upper);
      }
    }
    return rows;
  }

 private:
  // A tile with one row more on either side, in the plane before, at and after.
  static constexpr std::int64_t kMostPlanes = 3;
  static constexpr std::int64_t kKeptRows = Tile::kRows + 2;

  struct RowName {
    std::int64_t sample;
    std::int64_t plane;
    std::int64_t row;
    bool operator==(const RowName& other) const {
      return sample == other.sample && plane == other.plane && row == other.row;
    }
  };

  void convert(std::int64_t offset, T* target) const {
    const std::int64_t stride = field_.strides[field_.ndim - 1];
    const auto load = select_convert_rows<T>().load[static_cast<int>(field_.dtype)];
    for_each_part(0, shape_.size[2], [&](std::int64_t start, int n) {
      load(element(field_, offset + start * stride), stride, n, target + start);
    });
  }

  const Tensor field_;
  const FieldShape shape_;
  const Scheme scheme_;
  T scale_[3];
  bool direct_;
  std::int64_t kept_planes_ = 0;
  std::unique_ptr<T[]> buffer_;  // not zeroed: a tile is small
  std::vector<RowName> kept_;
};

}  // namespace plasticine
