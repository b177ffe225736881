#include "jacobian/cpu/jacobian.h"

#include <vector>

#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
#include "jacobian/cpu/backward_tile.h"

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

// The upstream gradient of the determinants.
template <typename T>
class Upstream {
 public:
  explicit Upstream(const Tensor& grad) : grad_(grad), volumetric_(grad.ndim == 5) {}

  bool fill(const DifferenceRows<T>& rows, std::int64_t sample, std::int64_t plane,
            std::int64_t row, T* values) const {
    const auto load = select_convert_rows<T>().load[static_cast<int>(grad_.dtype)];
    const std::int64_t* strides = grad_.strides + grad_.ndim - 3;
    const std::int64_t offset =
        sample * grad_.strides[0] + row * strides[1] + (volumetric_ ? plane * strides[0] : 0);
    for_each_part(0, rows.columns, [&](std::int64_t start, int n) {
      load(element(grad_, offset + start * strides[2]), strides[2], n, values + start);
    });
    return true;
  }

 private:
  const Tensor grad_;
  const bool volumetric_;
};

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
    using T = decltype(zero);
    gather_jacobian<T>(Upstream<T>(grad_out), displacement, grad_displacement, scheme,
                       spacing.data(), threads);
  });
}

}  // namespace plasticine
