#include "jacobian/cpu/jacobian.h"

#include <vector>

#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
#include "jacobian/cpu/field_rows.h"

namespace plasticine {

namespace {

template <typename T>
void forward(const Tensor& displacement, const Tensor& out, Scheme scheme, const double* spacing,
             int threads) {
  const FieldShape shape(displacement);
  const std::int64_t columns = shape.size[2];
  if (columns == 0) {
    return;
  }
  const auto& rows = select_jacobian_rows<T>();
  const auto store = select_convert_rows<T>().store[static_cast<int>(out.dtype)];
  const bool in_place = element_size(out.dtype) == static_cast<std::int64_t>(sizeof(T));
  const std::int64_t tiles = Tile::count(shape);
  parallel_for(shape.samples * tiles, 1, threads, [&](std::int64_t task) {
    FieldRows<T> field(displacement, scheme, spacing);
    std::vector<T> buffer(static_cast<std::size_t>(in_place ? 0 : columns));
    const Tile tile(shape, task / tiles, task % tiles);
    tile.for_each_row([&](std::int64_t plane, std::int64_t row) {
      const std::int64_t line = (tile.sample * shape.size[0] + plane) * shape.size[1] + row;
      T* result = in_place ? out.as<T>() + line * columns : buffer.data();
      field.prefetch(tile.sample, plane + 2, row);
      rows.determinant(field.at(tile.sample, plane, row), result);
      if (!in_place) {
        for_each_part(0, columns, [&](std::int64_t start, int n) {
          store(result + start, n, mutable_element(out, line * columns + start));
        });
      }
    });
  });
}

// The adjoint over a tile of rows: the cofactors of three planes at a time are held, and each
// voxel gathers from those of its neighbours, in an order that no sharing out of tiles changes.
template <typename T>
class BackwardTile {
 public:
  BackwardTile(const Tensor& grad_out, const Tensor& displacement, const Tensor& grad_displacement,
               Scheme scheme, const double* spacing, const Tile& tile)
      : grad_out_(grad_out),
        out_(grad_displacement),
        scheme_(scheme),
        shape_(displacement),
        field_(displacement, scheme, spacing),
        grad_(shape_.size[2]),
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

  void fill_plane(std::int64_t plane) {
    const auto& rows = select_jacobian_rows<T>();
    const auto load = select_convert_rows<T>().load[static_cast<int>(grad_out_.dtype)];
    const std::int64_t* strides = grad_out_.strides + grad_out_.ndim - 3;
    const std::int64_t end = std::min(tile_.row[1] + 1, shape_.size[1]);
    for (std::int64_t row = std::max<std::int64_t>(tile_.row[0] - 1, 0); row < end; ++row) {
      const std::int64_t offset = tile_.sample * grad_out_.strides[0] + row * strides[1] +
                                  (shape_.ndim == 3 ? plane * strides[0] : 0);
      for_each_part(0, shape_.size[2], [&](std::int64_t start, int n) {
        load(element(grad_out_, offset + start * strides[2]), strides[2], n, grad_.data() + start);
      });
      T* targets[9];
      for (int i = 0; i < shape_.ndim; ++i) {
        for (int j = 0; j < shape_.ndim; ++j) {
          targets[i * shape_.ndim + j] = cofactor(i, j, plane, row);
        }
      }
      rows.cofactors(field_.at(tile_.sample, plane, row), grad_.data(), targets);
    }
  }

  void gather_row(std::int64_t plane, std::int64_t row) {
    const std::int64_t columns = shape_.size[2];
    const auto store = select_convert_rows<T>().store[static_cast<int>(out_.dtype)];
    for (int i = 0; i < shape_.ndim; ++i) {
      // Two columns at either end have coefficients of their own.
      const std::int64_t edge = std::min<std::int64_t>(2, columns);
      for (std::int64_t x = 0; x < edge; ++x) {
        gather_piece(i, plane, row, x, 1);
      }
      for_each_part(2, columns - 2,
                    [&](std::int64_t x, int n) { gather_piece(i, plane, row, x, n); });
      for (std::int64_t x = std::max(edge, columns - 2); x < columns; ++x) {
        gather_piece(i, plane, row, x, 1);
      }
      const std::int64_t offset =
          (((tile_.sample * shape_.ndim + i) * shape_.size[0] + plane) * shape_.size[1] + row) *
          columns;
      for_each_part(0, columns, [&](std::int64_t start, int n) {
        store(result_.data() + start, n, mutable_element(out_, offset + start));
      });
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
        if (weight == T(0)) {
          continue;
        }
        const T* source =
            cofactor(component, axis - first, axis == 0 ? at : plane, axis == 1 ? at : row);
        values[terms] = source + (axis == 2 ? at : x);
        weights[terms++] = weight * field_.scale(component);
      }
    }
    select_jacobian_rows<T>().combine(values, weights, terms, n, result_.data() + x);
  }

  const Tensor grad_out_;
  const Tensor out_;
  const Scheme scheme_;
  const FieldShape shape_;
  FieldRows<T> field_;
  std::vector<T> grad_;
  std::vector<T> result_;
  std::vector<T> cofactors_;
  const Tile tile_;
};

template <typename T>
void backward(const Tensor& grad_out, const Tensor& displacement, const Tensor& grad_displacement,
              Scheme scheme, const double* spacing, int threads) {
  const FieldShape shape(displacement);
  if (shape.size[2] == 0) {
    return;
  }
  const std::int64_t tiles = Tile::count(shape);
  parallel_for(shape.samples * tiles, 1, threads, [&](std::int64_t task) {
    const Tile tile(shape, task / tiles, task % tiles);
    BackwardTile<T>(grad_out, displacement, grad_displacement, scheme, spacing, tile).run();
  });
}

}  // namespace

void jacobian_forward(const Tensor& displacement, const Tensor& out, Scheme scheme,
                      const std::vector<double>& spacing, int threads) {
  prefer_huge_pages(out);
  with_accumulator(displacement.dtype, [&](auto zero) {
    forward<decltype(zero)>(displacement, out, scheme, spacing.data(), threads);
  });
}

void jacobian_backward(const Tensor& grad_out, const Tensor& displacement,
                       const Tensor& grad_displacement, Scheme scheme,
                       const std::vector<double>& spacing, int threads) {
  prefer_huge_pages(grad_displacement);
  with_accumulator(displacement.dtype, [&](auto zero) {
    backward<decltype(zero)>(grad_out, displacement, grad_displacement, scheme, spacing.data(),
                             threads);
  });
}

}  // namespace plasticine
