#include "lncc/lncc.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
#include "core/rows/convert.h"

namespace plasticine {

namespace {

// Values of a tensor, from an offset in elements.
void load(const Tensor& tensor, std::int64_t offset, std::int64_t stride, std::int64_t n,
          double* values) {
  const void* source = element(tensor, offset);
  if (tensor.dtype == DType::float64) {
    select_convert_rows<double>().load[1](source, stride, static_cast<int>(n), values);
    return;
  }
  std::vector<float> loaded(static_cast<std::size_t>(n));
  const auto load_floats = select_convert_rows<float>().load[static_cast<int>(tensor.dtype)];
  load_floats(source, stride, static_cast<int>(n), loaded.data());
  std::copy(loaded.begin(), loaded.end(), values);
}

// Rounds to a contiguous tensor.
void store(const Tensor& tensor, std::int64_t offset, std::int64_t n, const double* values) {
  void* target = mutable_element(tensor, offset);
  if (tensor.dtype == DType::float64) {
    std::copy_n(values, n, static_cast<double*>(target));
    return;
  }
  const std::vector<float> rounded(values, values + n);
  const auto store_floats = select_convert_rows<float>().store[static_cast<int>(tensor.dtype)];
  store_floats(rounded.data(), static_cast<int>(n), target);
}

// The sums over every window, and what is made of them; two halves of the scratch take turns.
class Windows {
 public:
  Windows(const Tensor& image, const Tensor& scratch, int window, int threads)
      : layout_(image),
        radius_(window / 2),
        threads_(threads),
        sums_(scratch.as<double>()),
        other_(sums_ + kLnccSums * layout_.voxels()) {}

  const LnccLayout& layout() const { return layout_; }
  const double* sums(int k) const { return sums_ + k * layout_.voxels(); }

  // Of x, y and their products.
  void sum_images(const Tensor& x, const Tensor& y) {
    const std::int64_t n = layout_.size[4];
    parallel_for(layout_.rows(), 1, threads_, [&](std::int64_t row) {
      double* const at[kLnccSums] = {target(0, row), target(1, row), target(2, row), target(3, row),
                                     target(4, row)};
      load_row(x, row, at[0]);
      load_row(y, row, at[1]);
      for (std::int64_t i = 0; i < n; ++i) {
        at[2][i] = at[0][i] * at[0][i];
        at[3][i] = at[1][i] * at[1][i];
        at[4][i] = at[0][i] * at[1][i];
      }
    });
    sum_windows();
  }

  // The squared correlations take the place of the first sums.
  void correlate() {
    for_each_voxel([](const LnccVoxel& voxel, double* const(&at)[kLnccSums], std::int64_t i) {
      at[0][i] = voxel.value;
    });
  }

  // What the gradients are made of takes the place of the sums, and is summed.
  void sum_terms() {
    for_each_voxel([](const LnccVoxel& voxel, double* const(&at)[kLnccSums], std::int64_t i) {
      for (int k = 0; k < kLnccSums; ++k) {
        at[k][i] = voxel.terms[k];
      }
    });
    sum_windows();
  }

  void load_row(const Tensor& image, std::int64_t row, double* values) const {
    load(image, layout_.row_offset(image, row), image.strides[image.ndim - 1], layout_.size[4],
         values);
  }

 private:
  double* target(int k, std::int64_t row) const {
    return sums_ + k * layout_.voxels() + row * layout_.size[4];
  }

  template <typename Visit>
  void for_each_voxel(const Visit& visit) {
    parallel_for(layout_.rows(), 1, threads_, [&](std::int64_t row) {
      double* const at[kLnccSums] = {target(0, row), target(1, row), target(2, row), target(3, row),
                                     target(4, row)};
      for (std::int64_t i = 0; i < layout_.size[4]; ++i) {
        const double sums[kLnccSums] = {at[0][i], at[1][i], at[2][i], at[3][i], at[4][i]};
        visit(lncc_voxel(sums, layout_.count(row, i, radius_)), at, i);
      }
    });
  }

  // Along one axis after the other. Not as running sums: a NaN would stay in them, and a large
  // value's rounding.
  void sum_windows() {
    if (layout_.voxels() == 0) {
      return;
    }
    std::int64_t inner = 1;
    for (int axis = 4; axis >= 2; --axis) {
      const std::int64_t size = layout_.size[axis];
      const std::int64_t lines = kLnccSums * layout_.voxels() / (size * inner);
      parallel_for(lines, 1, threads_, [&](std::int64_t line) {
        sum_lines(sums_ + line * size * inner, other_ + line * size * inner, size, inner);
      });
      std::swap(sums_, other_);
      inner *= size;
    }
  }

  // Of `inner` neighbouring lines.
  void sum_lines(const double* from, double* to, std::int64_t size, std::int64_t inner) const {
    for (std::int64_t i = 0; i < size; ++i) {
      double* sum = to + i * inner;
      const std::int64_t last = std::min(i + radius_, size - 1);
      std::fill_n(sum, inner, 0.0);
      for (std::int64_t j = std::max<std::int64_t>(i - radius_, 0); j <= last; ++j) {
        for (std::int64_t k = 0; k < inner; ++k) {
          sum[k] += from[j * inner + k];
        }
      }
    }
  }

  const LnccLayout layout_;
  const int radius_;
  const int threads_;
  double* sums_;
  double* other_;
};

}  // namespace

void lncc_forward(const Tensor& x, const Tensor& y, const Tensor& out, const Tensor& scratch,
                  int window, int threads) {
  prefer_huge_pages(scratch);
  Windows windows(x, scratch, window, threads);
  windows.sum_images(x, y);
  windows.correlate();
  const std::int64_t voxels = windows.layout().of_sample();
  std::vector<double> means(static_cast<std::size_t>(x.shape[0]));
  for (std::int64_t sample = 0; sample < x.shape[0]; ++sample) {
    const double* values = windows.sums(0) + sample * voxels;
    double sum = 0;
    for (std::int64_t i = 0; i < voxels; ++i) {
      sum += values[i];
    }
    means[static_cast<std::size_t>(sample)] = sum / static_cast<double>(voxels);
  }
  store(out, 0, x.shape[0], means.data());
}

void lncc_backward(const Tensor& grad, const Tensor& x, const Tensor& y, const Tensor& grad_x,
                   const Tensor& grad_y, const Tensor& scratch, int window, int threads) {
  if (LnccLayout(x).voxels() == 0) {
    return;
  }
  prefer_huge_pages(scratch);
  Windows windows(x, scratch, window, threads);
  windows.sum_images(x, y);
  windows.sum_terms();
  const LnccLayout& layout = windows.layout();
  const std::int64_t n = layout.size[4];
  const std::int64_t rows = layout.size[1] * layout.size[2] * layout.size[3];  // of a sample
  parallel_for(layout.rows(), 1, threads, [&](std::int64_t row) {
    std::vector<double> values(static_cast<std::size_t>(3 * n));
    double* const of_x = values.data();
    double* const of_y = of_x + n;
    double* const result = of_y + n;
    windows.load_row(x, row, of_x);
    windows.load_row(y, row, of_y);
    double scale = 0;
    load(grad, row / rows * grad.strides[0], 1, 1, &scale);
    scale /= static_cast<double>(layout.of_sample());
    const double* const cross = windows.sums(0) + row * n;
    for (const bool is_x : {true, false}) {
      const Tensor& gradient = is_x ? grad_x : grad_y;
      if (!gradient) {
        continue;
      }
      const double* const own = is_x ? of_x : of_y;
      const double* const other = is_x ? of_y : of_x;
      const double* const own_sum = windows.sums(is_x ? 1 : 2) + row * n;
      const double* const rest = windows.sums(is_x ? 3 : 4) + row * n;
      for (std::int64_t i = 0; i < n; ++i) {
        result[i] = scale * (cross[i] * other[i] + own_sum[i] * own[i] - rest[i]);
      }
      store(gradient, row * n, n, result);
    }
  });
}

}  // namespace plasticine
