#include "jacobian_penalty/jacobian_penalty.h"

#include <vector>

#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
#include "jacobian/cpu/backward_tile.h"
#include "jacobian_penalty/rows/jacobian_penalty.h"

namespace plasticine {

namespace {

template <typename T>
void forward(const Tensor& displacement, const Tensor& out, const JacobianPenalty<T>& penalty,
             Scheme scheme, const double* spacing, int threads) {
  const FieldShape shape(displacement);
  const std::int64_t columns = shape.size[2];
  const std::int64_t tiles = columns > 0 ? Tile::count(shape) : 0;
  std::vector<double> sums(static_cast<std::size_t>(shape.samples * tiles));
  parallel_for(shape.samples * tiles, 1, threads, [&](std::int64_t task) {
    FieldRows<T> field(displacement, scheme, spacing);
    std::vector<T> jacobian(static_cast<std::size_t>(columns));
    const Tile tile(shape, task / tiles, task % tiles);
    double sum = 0;
    tile.for_each_row([&](std::int64_t plane, std::int64_t row) {
      field.prefetch(tile.sample, plane + 2, row);
      select_jacobian_rows<T>().determinant(field.at(tile.sample, plane, row), jacobian.data());
      sum += select_penalty_rows<T>().sum(penalty, jacobian.data(), columns);
    });
    sums[task] = sum;
  });
  const std::int64_t voxels = shape.size[0] * shape.size[1] * columns;
  for (std::int64_t sample = 0; sample < shape.samples; ++sample) {
    double sum = 0;
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      sum += sums[sample * tiles + tile];
    }
    const double mean = voxels > 0 ? sum / static_cast<double>(voxels) : 0.0;
    if (out.dtype == DType::float64) {
      out.as<double>()[sample] = mean;
    } else {
      out.as<float>()[sample] = static_cast<float>(mean);
    }
  }
}

// What the determinants of a row pull by.
template <typename T>
class Slopes {
 public:
  Slopes(const Tensor& grad, const FieldShape& shape, const JacobianPenalty<T>& penalty)
      : grad_(grad),
        penalty_(penalty),
        columns_(shape.size[2]),
        voxels_(static_cast<double>(shape.size[0] * shape.size[1] * shape.size[2])) {}

  bool fill(const DifferenceRows<T>& rows, std::int64_t sample, std::int64_t, std::int64_t,
            T* slopes) const {
    const std::int64_t at = sample * grad_.strides[0];
    const double upstream =
        grad_.dtype == DType::float64 ? grad_.as<double>()[at] : grad_.as<float>()[at];
    select_jacobian_rows<T>().determinant(rows, slopes);
    return select_penalty_rows<T>().differentiate(penalty_, static_cast<T>(upstream / voxels_),
                                                  slopes, columns_, slopes);
  }

 private:
  const Tensor grad_;
  const JacobianPenalty<T> penalty_;
  const std::int64_t columns_;
  const double voxels_;
};

}  // namespace

void jacobian_penalty_forward(const Tensor& displacement, const Tensor& out, double threshold,
                              Penalty kind, Scheme scheme, const std::vector<double>& spacing,
                              int threads) {
  with_accumulator(displacement.dtype, [&](auto zero) {
    using T = decltype(zero);
    forward<T>(displacement, out, JacobianPenalty<T>(kind, threshold), scheme, spacing.data(),
               threads);
  });
}

void jacobian_penalty_backward(const Tensor& grad, const Tensor& displacement,
                               const Tensor& grad_displacement, double threshold, Penalty kind,
                               Scheme scheme, const std::vector<double>& spacing, int threads) {
  prefer_huge_pages(grad_displacement);
  with_accumulator(displacement.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Slopes<T> slopes(grad, FieldShape(displacement), JacobianPenalty<T>(kind, threshold));
    gather_jacobian<T>(slopes, displacement, grad_displacement, scheme, spacing.data(), threads);
  });
}

}  // namespace plasticine
