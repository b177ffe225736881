#include "spline_coefficients/cpu/spline_coefficients.h"

#include <algorithm>
#include <vector>

#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
#include "core/rows/convert.h"
#include "spline_coefficients/math/spline.h"
#include "spline_coefficients/rows/spline_coefficients.h"

namespace plasticine {

namespace {

// One pass over all lines along one axis, from one tensor to another, or in place.
template <typename T>
class AxisPass {
 public:
  AxisPass(const Tensor& source, const Tensor& target, int axis, Padding padding, bool adjoint)
      : source_(source),
        target_(target),
        axis_(axis),
        size_(source.shape[axis]),
        factors_(size_, padding, adjoint),
        load_(select_convert_rows<T>().load[static_cast<int>(source.dtype)]),
        store_(select_convert_rows<T>().store[static_cast<int>(target.dtype)]) {}

  void run(int threads) const {
    if (axis_ == source_.ndim - 1) {
      run_along_rows(threads);
    } else {
      run_across_rows(threads);
    }
  }

 private:
  SplineSystem<T> system() const {
    return {factors_.gain.data(), factors_.lower.data(), factors_.upper.data(), size_};
  }

  std::int64_t product(int first, int last) const {
    std::int64_t result = 1;
    for (int axis = first; axis < last; ++axis) {
      result *= source_.shape[axis];
    }
    return result;
  }

  // Where a row of the source begins, rows counted in memory order of the target.
  const void* row_source(std::int64_t row) const {
    std::int64_t offset = 0;
    for (int axis = source_.ndim - 2; axis >= 0; --axis) {
      offset += row % source_.shape[axis] * source_.strides[axis];
      row /= source_.shape[axis];
    }
    return element(source_, offset);
  }

  // The last axis, of a source of any strides: a few rows at a time, transposed.
  void run_along_rows(int threads) const {
    const auto& kernel = select_spline_rows<T>();
    const std::int64_t rows = product(0, source_.ndim - 1);
    const int count = static_cast<int>(size_);
    // An odd number of cache lines: the columns of the transposition fall into different sets.
    const std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(T));
    const std::int64_t pitch = (divide_up(size_, line) | 1) * line;
    const std::int64_t batches = divide_up(rows, kSplineRows);
    const std::int64_t per_task = std::max<std::int64_t>(kTaskValues / (kSplineRows * size_), 1);
    parallel_for(divide_up(batches, per_task), 1, threads, [&](std::int64_t task) {
      std::vector<T> loaded(kSplineRows * pitch);
      std::vector<T> panel(kSplineRows * size_);
      const std::int64_t end = std::min((task + 1) * per_task, batches);
      for (std::int64_t batch = task * per_task; batch < end; ++batch) {
        const std::int64_t first = batch * kSplineRows;
        const int height = static_cast<int>(std::min<std::int64_t>(kSplineRows, rows - first));
        for (int r = 0; r < height; ++r) {
          load_(row_source(first + r), source_.strides[axis_], count, &loaded[r * pitch]);
        }
        kernel.from_rows(loaded.data(), size_, pitch, panel.data());
        kernel.solve(system(), kSplineRows, panel.data());
        kernel.to_rows(panel.data(), size_, pitch, loaded.data());
        for (int r = 0; r < height; ++r) {
          store_(&loaded[r * pitch], count, mutable_element(target_, (first + r) * size_));
        }
      }
    });
  }

  // Any other axis, of a contiguous source: neighbouring lines side by side.
  void run_across_rows(int threads) const {
    const auto& kernel = select_spline_rows<T>();
    const std::int64_t inner = product(axis_ + 1, source_.ndim);
    const std::int64_t panels = divide_up(inner, kSplineLines);
    parallel_for(product(0, axis_) * panels, 1, threads, [&](std::int64_t task) {
      const std::int64_t column = task % panels * kSplineLines;
      const std::int64_t origin = task / panels * size_ * inner + column;
      const int count = static_cast<int>(std::min<std::int64_t>(kSplineLines, inner - column));
      const int width = static_cast<int>(divide_up(count, kSplineRows)) * kSplineRows;
      std::vector<T> panel(size_ * width);
      for (std::int64_t i = 0; i < size_; ++i) {
        load_(element(source_, origin + i * inner), 1, count, &panel[i * width]);
      }
      kernel.solve(system(), width, panel.data());
      for (std::int64_t i = 0; i < size_; ++i) {
        store_(&panel[i * width], count, mutable_element(target_, origin + i * inner));
      }
    });
  }

  static constexpr std::int64_t kTaskValues = 65536;

  const Tensor& source_;
  const Tensor& target_;
  const int axis_;
  const std::int64_t size_;
  const SplineFactors<T> factors_;
  const typename ConvertRows<T>::Load load_;
  const typename ConvertRows<T>::Store store_;
};

template <typename T>
void solve(const Tensor& image, const Tensor& out, const Tensor& scratch, Padding padding,
           bool adjoint, int threads) {
  const Tensor& between = scratch.data != nullptr ? scratch : out;
  for (int axis = image.ndim - 1; axis >= 2; --axis) {
    const Tensor& source = axis == image.ndim - 1 ? image : between;
    const Tensor& target = axis == 2 ? out : between;
    AxisPass<T>(source, target, axis, padding, adjoint).run(threads);
  }
}

}  // namespace

void spline_coefficients(const Tensor& image, const Tensor& out, const Tensor& scratch,
                         Padding padding, bool adjoint, int threads) {
  for (int axis = 0; axis < image.ndim; ++axis) {
    if (image.shape[axis] == 0) {
      return;
    }
  }
  prefer_huge_pages(out);
  prefer_huge_pages(scratch);
  with_accumulator(image.dtype, [&](auto zero) {
    solve<decltype(zero)>(image, out, scratch, padding, adjoint, threads);
  });
}

}  // namespace plasticine
