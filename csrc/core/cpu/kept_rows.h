// Fields as the CPU's tasks go through them: planes of rows, tiles, rows of any type and strides.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/rows/convert.h"
#include "core/tensor.h"

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
// what a few planes of them hold stays in a core's own cache.
struct Tile {
  static constexpr std::int64_t kRows = 16;  // where all components are read together
  static constexpr std::int64_t kPlanes = 32;

  std::int64_t sample;
  std::int64_t plane[2];  // first, and the one after the last
  std::int64_t row[2];

  // Per sample, of so many rows.
  static std::int64_t count(const FieldShape& shape, std::int64_t rows = kRows) {
    return divide_up(shape.size[0], kPlanes) * divide_up(shape.size[1], rows);
  }

  Tile(const FieldShape& shape, std::int64_t sample_index, std::int64_t index,
       std::int64_t rows = kRows)
      : sample(sample_index) {
    const std::int64_t tiles = divide_up(shape.size[1], rows);
    plane[0] = index / tiles * kPlanes;
    plane[1] = std::min(plane[0] + kPlanes, shape.size[0]);
    row[0] = index % tiles * rows;
    row[1] = std::min(row[0] + rows, shape.size[1]);
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

// Rows of a field as T: in place where they lie in memory so, otherwise converted, and kept while a
// tile is gone through.
template <typename T>
class KeptRows {
 public:
  // reach: how many rows and planes beyond the tile's own are asked for, on either side.
  explicit KeptRows(const Tensor& field, std::int64_t reach = 1,
                    std::int64_t tile_rows = Tile::kRows)
      : field_(field), shape_(field), rows_(tile_rows + 2 * reach) {
    const DType native = sizeof(T) == sizeof(double) ? DType::float64 : DType::float32;
    direct_ = field.dtype == native && field.strides[field.ndim - 1] == 1;
    if (!direct_) {
      planes_ = std::min(2 * reach + 1, shape_.size[0]);
      const std::int64_t slots = planes_ * rows_ * shape_.ndim;
      buffer_.reset(new T[static_cast<std::size_t>(slots * shape_.size[2])]);
      kept_.resize(static_cast<std::size_t>(slots), {-1, -1, -1});
    }
  }

  const FieldShape& shape() const { return shape_; }

  // Component `component` of a row; it stays valid while no row further away is asked for than the
  // tile's height and the reach.
  const T* row(std::int64_t sample, int component, std::int64_t plane, std::int64_t row) {
    const std::int64_t* strides = field_.strides + field_.ndim - 3;
    std::int64_t offset = sample * field_.strides[0] + component * field_.strides[1];
    offset += row * strides[1] + (shape_.ndim == 3 ? plane * strides[0] : 0);
    if (direct_) {
      return field_.as<T>() + offset;
    }
    const std::int64_t slot = (plane % planes_ * rows_ + row % rows_) * shape_.ndim + component;
    T* target = buffer_.get() + slot * shape_.size[2];
    const RowName name = {sample, plane, row};
    if (!(kept_[static_cast<std::size_t>(slot)] == name)) {
      kept_[static_cast<std::size_t>(slot)] = name;
      convert(offset, target);
    }
    return target;
  }

  // Whether rows lie where they are asked for, and then how far others are from one.
  bool is_in_place() const { return direct_; }
  std::int64_t distance(std::int64_t planes, std::int64_t rows) const {
    const std::int64_t* strides = field_.strides + field_.ndim - 3;
    return rows * strides[1] + (shape_.ndim == 3 ? planes * strides[0] : 0);
  }

  // Asks for what the next plane of a tile will be the first to read: a tile's rows are too few for
  // the hardware to see them coming.
  void prefetch(std::int64_t sample, std::int64_t plane, std::int64_t row) const {
    for (int i = 0; i < shape_.ndim; ++i) {
      prefetch(sample, i, plane, row);
    }
  }

  // The same of one component.
  void prefetch(std::int64_t sample, int component, std::int64_t plane, std::int64_t row) const {
    if (!direct_ || shape_.ndim == 2 || plane >= shape_.size[0]) {
      return;
    }
    constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));
    const std::int64_t* strides = field_.strides + field_.ndim - 3;
    const T* at = field_.as<T>() + sample * field_.strides[0] + component * field_.strides[1] +
                  plane * strides[0] + row * strides[1];
    for (std::int64_t x = 0; x < shape_.size[2]; x += kLine) {
      __builtin_prefetch(at + x);
    }
  }

 private:
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
  const std::int64_t rows_;
  bool direct_;
  std::int64_t planes_ = 0;
  std::unique_ptr<T[]> buffer_;  // not zeroed: a tile is small
  std::vector<RowName> kept_;
};

}  // namespace plasticine
