// Local normalised cross-correlation on the CPU. A task goes through a slab of some rows, plane by
// plane: windows along a row, then across the rows of a plane, then across planes, as they come
// (running.h). Nothing of the size of an image is written but, backward, what the gradients are
// made of. What a task covers depends on the sizes alone, and so do all sums.
#include "lncc/lncc.h"

#include <limits>

#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
#include "lncc/cpu/moments.h"

namespace plasticine {

namespace {

// Sums over a slab: of how much its voxels count, and of as much of the correlations.
struct SlabSums {
  double weight = 0;
  double value = 0;
};

// Of a sample, from those of its slabs in order.
SlabSums sum_of_sample(const std::vector<SlabSums>& sums, const LnccShape& shape,
                       std::int64_t sample) {
  const std::int64_t tasks = static_cast<std::int64_t>(sums.size()) / shape.samples;
  SlabSums total;
  for (std::int64_t task = sample * tasks; task < (sample + 1) * tasks; ++task) {
    total.weight += sums[static_cast<std::size_t>(task)].weight;
    total.value += sums[static_cast<std::size_t>(task)].value;
  }
  return total;
}

template <typename T>
LnccConstants<T> constants_of(const Images<T>& images, const LnccOptions& options,
                              const Slab& slab) {
  return {images.shift_x(slab), images.shift_y(slab), static_cast<T>(options.epsilon),
          static_cast<T>(options.numerator)};
}

template <typename T>
void forward(const LnccForward& call, int threads) {
  const LnccOptions& options = call.options;
  const Images<T> images(call.x, call.y, call.mask, threads);
  const LnccShape& shape = images.shape();
  const Slabs slabs(shape, options.window);
  std::vector<SlabSums> sums(static_cast<std::size_t>(slabs.total));
  parallel_for(slabs.total, 1, threads, [&](std::int64_t task) {
    const Slab slab(shape, slabs, task);
    const auto& rows = select_lncc_rows<T>();
    const LnccConstants<T> constants = constants_of(images, options, slab);
    const int n = static_cast<int>(shape.columns);
    Moments<T> moments(images, options, slab);
    Rows<T> weight(shape.columns);
    SlabSums sum;
    moments.for_each_row([&](std::int64_t plane, std::int64_t row, T* const* found) {
      images.load_weight(slab, plane, row, weight.data());
      sum.weight += rows.sum(weight.data(), n);
      sum.value +=
          rows.value(options.stabiliser, options.squared, constants, found, weight.data(), n);
    });
    sums[static_cast<std::size_t>(task)] = sum;
  });
  for (std::int64_t sample = 0; sample < shape.samples; ++sample) {
    const SlabSums sum = sum_of_sample(sums, shape, sample);
    const bool is_empty = images.is_masked() && sum.weight == 0 && shape.voxels() > 0;
    call.out.as<T>()[sample] = static_cast<T>(is_empty ? 0 : sum.value / sum.weight);
  }
}

// What the gradients are made of, in images of their own: by_cross, then by_x, rest_x, by_y and
// rest_y where they are needed.
template <typename T>
class Terms {
 public:
  Terms(const LnccBackward& call, const LnccShape& shape)
      : needs_x_(call.grad_x),
        needs_y_(call.grad_y),
        voxels_(shape.voxels()),
        first_(reinterpret_cast<T*>(call.scratch.as<double>() + lncc_reserved(call.x))) {}

  int count() const { return 1 + 2 * (needs_x_ + needs_y_); }
  // The first of an image's two.
  int of_x() const { return 1; }
  int of_y() const { return needs_x_ ? 3 : 1; }
  T* image(int k) const { return first_ + k * voxels_; }

  // Where LnccRows::terms writes a row that begins at a voxel; `unused`, where nowhere.
  void targets(std::int64_t voxel, T* unused, T* (&targets)[5]) const {
    targets[0] = image(0) + voxel;
    for (int k = 0; k < 2; ++k) {
      targets[1 + k] = needs_x_ ? image(of_x() + k) + voxel : unused;
      targets[3 + k] = needs_y_ ? image(of_y() + k) + voxel : unused;
    }
  }

 private:
  const bool needs_x_;
  const bool needs_y_;
  const std::int64_t voxels_;
  T* const first_;
};

std::int64_t first_voxel(const LnccShape& shape, const Slab& slab, std::int64_t plane,
                         std::int64_t row) {
  return ((slab.index(shape) * shape.planes + plane) * shape.rows + row) * shape.columns;
}

// The sums of the terms over the windows that hold each voxel of a slab.
template <typename T>
class TermSums {
 public:
  TermSums(const Terms<T>& terms, const LnccOptions& options, const LnccShape& shape,
           const Slab& slab)
      : terms_(terms),
        count_(terms.count()),
        shape_(shape),
        slab_(slab),
        windows_(options, shape),
        stride_(windows_.stride()),
        source_(windows_.padded()),
        buffer_(windows_.padded()) {
    std::fill_n(source_.data(), windows_.padded(), T(0));
  }

  // Calls visit(plane, row, sums) for every row of the slab; sums: one row after the other.
  template <typename Visit>
  void for_each_row(const Visit& visit) {
    for_each_window_row(
        windows_, shape_, slab_, *this,
        [&](std::int64_t plane, std::int64_t row, T* to) { along(plane, row, to); }, visit);
  }

  // What RunningWindow asks for.
  std::int64_t length() const { return count_ * stride_; }
  const T* outside(int) const { return nullptr; }
  void merge(int, const T* a, int, const T* b, int, bool, T* to) const {
    select_lncc_box_rows<T>().add(a, b, length(), to);
  }
  void weigh(const LnccWindow<T>& window, std::vector<const T*>& rows, T* to) const {
    for (int k = 0; k < count_; ++k) {
      select_lncc_rows<T>().sum_across(window, rows.data(), to + k * stride_);
      for (const T*& row : rows) {
        row += stride_;
      }
    }
  }

 private:
  void along(std::int64_t plane, std::int64_t row, T* to) const {
    const std::int64_t voxel = first_voxel(shape_, slab_, plane, row);
    for (int k = 0; k < count_; ++k) {
      std::copy_n(terms_.image(k) + voxel, shape_.columns, source_.data() + windows_.radius());
      if (windows_.is_box()) {
        const LnccBox<T> box = {windows_.size(),   static_cast<int>(shape_.columns),
                                windows_.padded(), nullptr,
                                nullptr,           buffer_.data()};
        select_lncc_box_rows<T>().sum_along(box, source_.data(), to + k * stride_);
      } else {
        select_lncc_rows<T>().sum_along(windows_.whole(), source_.data(), to + k * stride_);
      }
    }
  }

  const Terms<T>& terms_;
  const int count_;
  const LnccShape shape_;
  const Slab slab_;
  const Windows<T> windows_;
  const std::int64_t stride_;
  Rows<T> source_;
  Rows<T> buffer_;
};

// Fills the terms' images. Returns how much the voxels of each slab count.
template <typename T>
std::vector<SlabSums> find_terms(const Images<T>& images, const Terms<T>& terms,
                                 const LnccOptions& options, int threads) {
  const LnccShape& shape = images.shape();
  const Slabs slabs(shape, options.window);
  std::vector<SlabSums> sums(static_cast<std::size_t>(slabs.total));
  parallel_for(slabs.total, 1, threads, [&](std::int64_t task) {
    const Slab slab(shape, slabs, task);
    const auto& rows = select_lncc_rows<T>();
    const LnccConstants<T> constants = constants_of(images, options, slab);
    const int n = static_cast<int>(shape.columns);
    Moments<T> moments(images, options, slab);
    Rows<T> weight(shape.columns);
    Rows<T> unused(shape.columns);
    moments.for_each_row([&](std::int64_t plane, std::int64_t row, T* const* found) {
      images.load_weight(slab, plane, row, weight.data());
      sums[static_cast<std::size_t>(task)].weight += rows.sum(weight.data(), n);
      T* targets[5];
      terms.targets(first_voxel(shape, slab, plane, row), unused.data(), targets);
      rows.terms(options.stabiliser, options.squared, constants, found, weight.data(), n, targets);
    });
  });
  return sums;
}

template <typename T>
void backward(const LnccBackward& call, int threads) {
  const Images<T> images(call.x, call.y, call.mask, threads);
  const LnccShape& shape = images.shape();
  const Slabs slabs(shape, call.options.window);
  const Terms<T> terms(call, shape);
  const std::vector<SlabSums> sums = find_terms(images, terms, call.options, threads);
  std::vector<T> scales(static_cast<std::size_t>(shape.samples));
  for (std::int64_t sample = 0; sample < shape.samples; ++sample) {
    const SlabSums sum = sum_of_sample(sums, shape, sample);
    const double grad = call.grad.as<T>()[sample * call.grad.strides[0]];
    scales[static_cast<std::size_t>(sample)] =
        static_cast<T>(sum.weight == 0 ? 0 : grad / sum.weight);
  }
  parallel_for(slabs.total, 1, threads, [&](std::int64_t task) {
    const Slab slab(shape, slabs, task);
    const auto& rows = select_lncc_rows<T>();
    const int n = static_cast<int>(shape.columns);
    const T scale = scales[static_cast<std::size_t>(slab.sample)];
    TermSums<T> term_sums(terms, call.options, shape, slab);
    Rows<T> buffer(4 * shape.columns);
    T* const weight = buffer.data();
    T* const of_x = weight + n;
    T* const of_y = of_x + n;
    T* const result = of_y + n;
    term_sums.for_each_row([&](std::int64_t plane, std::int64_t row, const T* found) {
      images.load(slab, plane, row, weight, of_x, of_y);
      const std::int64_t stride = divide_up(shape.columns, kLnccLanes) * kLnccLanes;
      const std::int64_t voxel = first_voxel(shape, slab, plane, row);
      const auto write = [&](const Tensor& gradient, const T* own, const T* other, int first) {
        rows.gradient(scale, weight, found, other, found + first * stride, own,
                      found + (first + 1) * stride, n, result);
        const auto store = select_convert_rows<T>().store[static_cast<int>(gradient.dtype)];
        store(result, n, mutable_element(gradient, voxel));
      };
      if (call.grad_x) {
        write(call.grad_x, of_x, of_y, terms.of_x());
      }
      if (call.grad_y) {
        write(call.grad_y, of_y, of_x, terms.of_y());
      }
    });
  });
}

}  // namespace

void lncc_forward(const LnccForward& call, int threads) {
  with_accumulator(call.x.dtype, [&](auto zero) { forward<decltype(zero)>(call, threads); });
}

void lncc_backward(const LnccBackward& call, int threads) {
  if (LnccShape(call.x).voxels() == 0 || (!call.grad_x && !call.grad_y)) {
    return;
  }
  prefer_huge_pages(call.scratch);
  prefer_huge_pages(call.grad_x);
  prefer_huge_pages(call.grad_y);
  with_accumulator(call.x.dtype, [&](auto zero) { backward<decltype(zero)>(call, threads); });
}

}  // namespace plasticine
