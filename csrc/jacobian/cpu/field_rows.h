// Rows of a displacement as the finite differences of a row need them.
#pragma once

#include <cstdint>

#include "core/cpu/kept_rows.h"
#include "jacobian/math/jacobian.h"
#include "jacobian/rows/jacobian.h"

namespace plasticine {

// The rows of the neighbourhood of one row, for every component.
template <typename T>
class FieldRows : public KeptRows<T> {
 public:
  // spacing scales component i by 1 / spacing[i]: det(I + du_i / (h_j dx_j)) is the same as with
  // u_i / h_i in place of u_i / h_j, the two matrices being similar.
  FieldRows(const Tensor& field, Scheme scheme, const double* spacing)
      : KeptRows<T>(field), scheme_(scheme) {
    for (int i = 0; i < this->shape().ndim; ++i) {
      scale_[i] = T(1) / static_cast<T>(spacing[i]);
    }
  }

  T scale(int component) const { return scale_[component]; }

  // A row with its neighbours.
  DifferenceRows<T> at(std::int64_t sample, std::int64_t plane, std::int64_t row_index) {
    const FieldShape& shape = this->shape();
    DifferenceRows<T> rows;
    rows.ndim = shape.ndim;
    rows.scheme = scheme_;
    rows.columns = shape.size[2];
    const int first = 3 - shape.ndim;
    const std::int64_t position[2] = {plane, row_index};
    for (int i = 0; i < shape.ndim; ++i) {
      rows.centre[i] = this->row(sample, i, plane, row_index);
      rows.scale[i] = scale_[i];
    }
    for (int axis = first; axis < 2; ++axis) {
      const auto difference =
          difference_at<T, std::int64_t>(scheme_, position[axis], shape.size[axis]);
      rows.across[axis - first] = difference.weight;
      const auto neighbour = [&](int i, std::int64_t index) {
        return index == position[axis]
                   ? rows.centre[i]
                   : this->row(sample, i, axis == 0 ? index : plane, axis == 1 ? index : row_index);
      };
      for (int i = 0; i < shape.ndim; ++i) {
        rows.lower[i][axis - first] = neighbour(i, difference.lower);
        rows.upper[i][axis - first] = neighbour(i, difference.upper);
      }
    }
    return rows;
  }

 private:
  const Scheme scheme_;
  T scale_[3];
};

}  // namespace plasticine
