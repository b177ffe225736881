// The Jacobian determinant's adjoint, for whatever multiplies the determinants.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/cpu/parallel.h"
#include "jacobian/cpu/field_rows.h"

namespace plasticine {

// The adjoint over a tile of rows: the cofactors, times what each determinant is multiplied by, of
// three planes at a time are held, and each voxel gathers from those of its neighbours, in an order
// that no sharing out of tiles changes.
template <typename T, typename Shares>
class BackwardTile {
 public:
  BackwardTile(const Shares& shares, const Tensor& displacement, const Tensor& grad_displacement,
               Scheme scheme, const double* spacing, const Tile& tile)
      : shares_(shares),
        out_(grad_displacement),
        scheme_(scheme),
        shape_(displacement),
        field_(displacement, scheme, spacing),
        share_(shape_.size[2]),
        result_(shape_.size[2]),
        cofactors_(3 * (Tile::kRows + 2) * shape_.ndim * shape_.ndim * shape_.size[2]),
        tile_(tile) {}

  void run() {
    std::int64_t filled = std::max<std::int64_t>(tile_.plane[0] - 1, 0);
    for (std::int64_t plane = tile_.plane[0]; plane < tile_.plane[1]; ++plane) {
      for (; filled < std::min(plane + 2, shape_.size[0]); ++filled) {
        fill_plane(filled);
      }
      for (std::int64_t row = tile_.row[0]; row < tile_.row[1]; ++row) {
        gather_row(plane, row);
      }
    }
  }

 private:
  T* cofactor(int i, int j, std::int64_t plane, std::int64_t row) {
    const std::int64_t slot = plane % 3 * (Tile::kRows + 2) + (row - tile_.row[0] + 1);
    return cofactors_.data() + ((slot * shape_.ndim + i) * shape_.ndim + j) * shape_.size[2];
  }

  bool* has_cofactors(std::int64_t plane, std::int64_t row) {
    return &has_cofactors_[plane % 3][row - tile_.row[0] + 1];
  }

  void fill_plane(std::int64_t plane) {
    const auto& rows = select_jacobian_rows<T>();
    const std::int64_t end = std::min(tile_.row[1] + 1, shape_.size[1]);
    for (std::int64_t row = std::max<std::int64_t>(tile_.row[0] - 1, 0); row < end; ++row) {
      const DifferenceRows<T> differences = field_.at(tile_.sample, plane, row);
      bool* const has_any = has_cofactors(plane, row);
      *has_any = shares_.fill(differences, tile_.sample, plane, row, share_.data());
      if (*has_any) {
        T* targets[9];
        for (int i = 0; i < shape_.ndim; ++i) {
          for (int j = 0; j < shape_.ndim; ++j) {
            targets[i * shape_.ndim + j] = cofactor(i, j, plane, row);
          }
        }
        rows.cofactors(differences, share_.data(), targets);
      }
    }
  }

  // Whether any of the rows that a row gathers from has cofactors.
  bool has_any_around(std::int64_t plane, std::int64_t row) {
    return *has_cofactors(plane, row) || (plane > 0 && *has_cofactors(plane - 1, row)) ||
           (plane + 1 < shape_.size[0] && *has_cofactors(plane + 1, row)) ||
           (row > 0 && *has_cofactors(plane, row - 1)) ||
           (row + 1 < shape_.size[1] && *has_cofactors(plane, row + 1));
  }

  void gather_row(std::int64_t plane, std::int64_t row) {
    const std::int64_t columns = shape_.size[2];
    const auto store = select_convert_rows<T>().store[static_cast<int>(out_.dtype)];
    const bool has_any = has_any_around(plane, row);
    if (!has_any) {
      std::fill(result_.begin(), result_.end(), T(0));
    }
    for (int i = 0; i < shape_.ndim; ++i) {
      if (has_any) {
        gather_component(i, plane, row);
      }
      const std::int64_t offset =
          (((tile_.sample * shape_.ndim + i) * shape_.size[0] + plane) * shape_.size[1] + row) *
          columns;
      for_each_part(0, columns, [&](std::int64_t start, int n) {
        store(result_.data() + start, n, mutable_element(out_, offset + start));
      });
    }
  }

  void gather_component(int component, std::int64_t plane, std::int64_t row) {
    // Two columns at either end have coefficients of their own.
    const std::int64_t columns = shape_.size[2];
    const std::int64_t edge = std::min<std::int64_t>(2, columns);
    for (std::int64_t x = 0; x < edge; ++x) {
      gather_piece(component, plane, row, x, 1);
    }
    for_each_part(2, columns - 2,
                  [&](std::int64_t x, int n) { gather_piece(component, plane, row, x, n); });
    for (std::int64_t x = std::max(edge, columns - 2); x < columns; ++x) {
      gather_piece(component, plane, row, x, 1);
    }
  }

  void gather_piece(int component, std::int64_t plane, std::int64_t row, std::int64_t x, int n) {
    const T* values[9];
    T weights[9];
    int terms = 0;
    const std::int64_t position[3] = {plane, row, x};
    const int first = 3 - shape_.ndim;
    for (int axis = first; axis < 3; ++axis) {
      for (int step = -1; step <= 1; ++step) {
        const std::int64_t at = position[axis] + step;
        if (at < 0 || at >= shape_.size[axis]) {
          continue;
        }
        const T weight =
            difference_coefficient<T, std::int64_t>(scheme_, at, position[axis], shape_.size[axis]);
        const std::int64_t line[2] = {axis == 0 ? at : plane, axis == 1 ? at : row};
        if (weight == T(0) || !*has_cofactors(line[0], line[1])) {
          continue;
        }
        const T* source = cofactor(component, axis - first, line[0], line[1]);
        values[terms] = source + (axis == 2 ? at : x);
        weights[terms++] = weight * field_.scale(component);
      }
    }
    select_jacobian_rows<T>().combine(values, weights, terms, n, result_.data() + x);
  }

  const Shares& shares_;
  const Tensor out_;
  const Scheme scheme_;
  const FieldShape shape_;
  FieldRows<T> field_;
  std::vector<T> share_;
  std::vector<T> result_;
  std::vector<T> cofactors_;
  bool has_cofactors_[3][Tile::kRows + 2];
  const Tile tile_;
};

// The gradient of a sum over all voxels of share times Jacobian determinant, as far as it goes
// through the determinants. shares.fill(rows, sample, plane, row, values) writes the shares of a
// row, or says that all are 0: what no determinant pulls at costs no more than finding that out.
template <typename T, typename Shares>
void gather_jacobian(const Shares& shares, const Tensor& displacement,
                     const Tensor& grad_displacement, Scheme scheme, const double* spacing,
                     int threads) {
  const FieldShape shape(displacement);
  if (shape.size[2] == 0) {
    return;
  }
  const std::int64_t tiles = Tile::count(shape);
  parallel_for(shape.samples * tiles, 1, threads, [&](std::int64_t task) {
    const Tile tile(shape, task / tiles, task % tiles);
    BackwardTile<T, Shares>(shares, displacement, grad_displacement, scheme, spacing, tile).run();
  });
}

}  // namespace plasticine
