// Rows of a displacement of any type and strides, as the finite differences of a row need them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/convert_rows.h"
#include "../common/tensor.h"
#include "jacobian_math.h"
#include "jacobian_rows.h"

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

// The rows of the neighbourhood of one row, for every component. In place where they lie in memory
// as T, otherwise converted into a buffer.
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
      buffer_.resize(kNeighbours * shape_.ndim * shape_.size[2]);
    }
  }

  T scale(int component) const { return scale_[component]; }

  // Component `component` of a row, valid until the same slot is asked for again.
  const T* row(std::int64_t sample, int component, std::int64_t plane, std::int64_t row, int slot) {
    const std::int64_t* strides = field_.strides + field_.ndim - 3;
    std::int64_t offset = sample * field_.strides[0] + component * field_.strides[1];
    offset += row * strides[1] + (shape_.ndim == 3 ? plane * strides[0] : 0);
    if (direct_) {
      return field_.as<T>() + offset;
    }
    T* target = buffer_.data() + (component * kNeighbours + slot) * shape_.size[2];
    const char* source =
        static_cast<const char*>(field_.data) + offset * element_size(field_.dtype);
    const auto load = select_convert_rows<T>().load[static_cast<int>(field_.dtype)];
    const std::int64_t step = strides[2] * element_size(field_.dtype);
    for_each_part(0, shape_.size[2], [&](std::int64_t start, int n) {
      load(source + start * step, strides[2], n, target + start);
    });
    return target;
  }

  // Points at the neighbourhood of a row.
  void move_to(std::int64_t sample, std::int64_t plane, std::int64_t row_index) {
    const int first = 3 - shape_.ndim;
    const std::int64_t position[2] = {plane, row_index};
    for (int i = 0; i < shape_.ndim; ++i) {
      centre_[i] = row(sample, i, plane, row_index, 0);
      int slot = 1;
      for (int axis = first; axis < 2; ++axis) {
        const auto difference =
            difference_at<T, std::int64_t>(scheme_, position[axis], shape_.size[axis]);
        for (int side = 0; side < 2; ++side) {
          const std::int64_t index = side == 0 ? difference.lower : difference.upper;
          const std::int64_t at[2] = {axis == 0 ? index : plane, axis == 1 ? index : row_index};
          neighbour_[i][axis][side] =
              index == position[axis] ? centre_[i] : row(sample, i, at[0], at[1], slot++);
        }
        weight_[axis] = difference.weight;
      }
    }
  }

  // Calls visit(start, n, rows) for the pieces of the current row.
  template <typename Visit>
  void for_each_piece(const Visit& visit) const {
    const std::int64_t columns = shape_.size[2];
    visit_piece(0, 1, visit);
    for_each_part(1, columns - 1, [&](std::int64_t start, int n) { visit_piece(start, n, visit); });
    if (columns > 1) {
      visit_piece(columns - 1, 1, visit);
    }
  }

 private:
  static constexpr int kNeighbours = 5;

  template <typename Visit>
  void visit_piece(std::int64_t start, int n, const Visit& visit) const {
    DifferenceRows<T> rows;
    rows.ndim = shape_.ndim;
    const int first = 3 - shape_.ndim;
    const auto along = difference_at<T, std::int64_t>(scheme_, start, shape_.size[2]);
    for (int i = 0; i < shape_.ndim; ++i) {
      for (int axis = first; axis < 2; ++axis) {
        rows.lower[i][axis - first] = neighbour_[i][axis][0] + start;
        rows.upper[i][axis - first] = neighbour_[i][axis][1] + start;
        rows.weight[i][axis - first] = weight_[axis] * scale_[i];
      }
      const int last = shape_.ndim - 1;
      rows.lower[i][last] = centre_[i] + along.lower;
      rows.upper[i][last] = centre_[i] + along.upper;
      rows.weight[i][last] = along.weight * scale_[i];
    }
    visit(start, n, rows);
  }

  const Tensor field_;
  const FieldShape shape_;
  const Scheme scheme_;
  T scale_[3];
  bool direct_;
  std::vector<T> buffer_;
  const T* centre_[3];
  const T* neighbour_[3][2][2];
  T weight_[2];
};

}  // namespace plasticine
