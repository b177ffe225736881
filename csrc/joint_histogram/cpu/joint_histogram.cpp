#include "joint_histogram/joint_histogram.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/cpu/blocks.h"
#include "core/cpu/huge_pages.h"
#include "joint_histogram/rows/joint_histogram.h"

namespace plasticine {

namespace {

constexpr int kFewBins = 96;

// What tables are aligned to.
template <typename T>
struct alignas(64) Line {
  static constexpr std::size_t kSize = 64 / sizeof(T);
  T values[kSize];
};

double read(const Tensor& tensor, std::int64_t offset) {
  return tensor.dtype == DType::float64 ? tensor.as<double>()[offset] : tensor.as<float>()[offset];
}

// The factors of the Gaussian's taps in every cell: see the rows.
std::vector<double> gaussian_factors(const BinAxis& axis, int bins, int taps,
                                     double inverse_variance) {
  std::vector<double> factors(static_cast<std::size_t>(axis.cells * taps));
  for (int cell = 0; cell < axis.cells; ++cell) {
    for (int tap = 0; tap < taps; ++tap) {
      const double distance = tap - axis.lead;
      const int bin = cell - axis.lead + tap;
      factors[static_cast<std::size_t>(cell * taps + tap)] =
          bin < 0 || bin >= bins ? 0.0 : std::exp(-0.5 * distance * distance * inverse_variance);
    }
  }
  return factors;
}

// Two images and how they are shared out to bins.
template <typename T>
class Images {
 public:
  Images(const Tensor& x, const Tensor& y, const Tensor& mask, const Tensor& value_range, int bins,
         Parzen kernel, double sigma)
      : rows(select_joint_histogram_rows<T>(kernel, parzen_taps(kernel, sigma), bins <= kFewBins)),
        grid_(x),
        x_(x),
        y_(y),
        mask_(mask),
        range_(value_range),
        bins_(bins),
        kernel_(kernel),
        taps_(parzen_taps(kernel, sigma)),
        inverse_variance_(1 / (sigma * sigma)) {
    const BinAxis axis = BinAxis::of(0, 1, bins, kernel, taps_);
    lead = axis.lead;
    size = axis.cells + taps_ - 1;
    if (kernel == Parzen::gaussian) {
      gaussian_ = gaussian_factors(axis, bins, taps_, inverse_variance_);
    }
  }

  ParzenBins bins_of(std::int64_t sample) const {
    return {kernel_,           taps_,           axis_of(sample, 0), axis_of(sample, 1),
            inverse_variance_, gaussian_.data()};
  }

  std::int64_t blocks() const { return x_.shape[1] * grid_.blocks; }  // of a sample

  // Calls visit(channel, block, voxels) for the blocks [first, end) of all channels of a sample.
  template <typename Visit>
  void for_each_block(std::int64_t sample, std::int64_t first, std::int64_t end,
                      const Visit& visit) const {
    alignas(64) T buffers[3][kBlock];
    for (std::int64_t item = first; item < end; ++item) {
      const std::int64_t channel = item / grid_.blocks;
      const Block block = grid_.block(item % grid_.blocks);
      const T* x = block_values(x_, grid_, sample, channel, block, buffers[0]);
      const T* y = block_values(y_, grid_, sample, channel, block, buffers[1]);
      const T* mask = nullptr;
      if (mask_) {
        mask = block_values(mask_, grid_, sample, 0, block, buffers[2]);
      }
      visit(channel, block, VoxelBlock<T>{block.count, x, y, mask});
    }
  }

  const JointHistogramRows<T>& rows;
  int lead;  // cells before the first bin
  int size;  // of a table of cells with all taps, along an axis

 private:
  BinAxis axis_of(std::int64_t sample, int image) const {
    const std::int64_t offset = sample * range_.strides[0] + image * range_.strides[1];
    return BinAxis::of(read(range_, offset), read(range_, offset + range_.strides[2]), bins_,
                       kernel_, taps_);
  }

  const Grid grid_;
  const Tensor x_;
  const Tensor y_;
  const Tensor mask_;
  const Tensor range_;
  const int bins_;
  const Parzen kernel_;
  const int taps_;
  const double inverse_variance_;
  std::vector<double> gaussian_;
};

template <typename T>
std::int64_t line_count(const JointHistogramRows<T>& rows, const ParzenBins& bins) {
  return rows.lines == nullptr ? 0 : rows.lines(bins);
}

// The histogram of a part of a sample.
template <typename T>
void add_part(const Images<T>& images, std::int64_t sample, std::int64_t first, std::int64_t end,
              int bins, double* out) {
  constexpr int kPhases = HistogramTable::kPhases;
  const std::int64_t stride = divide_up(images.size, 8) * 8;
  const std::int64_t phase = images.size * stride;
  const ParzenBins parzen = images.bins_of(sample);
  const std::int64_t count = line_count(images.rows, parzen);
  const std::int64_t tables = count > 0 ? 1 : HistogramTable::kCopies * kPhases;
  std::vector<Line<double>> sums(static_cast<std::size_t>(tables * phase / 8));
  std::vector<Line<float>> lines(static_cast<std::size_t>(count));
  std::vector<unsigned char> hits(static_cast<std::size_t>(2 * count));
  const HistogramTable table = {sums.data()->values, stride, phase,
                                count > 0 ? lines.data()->values : nullptr, hits.data()};
  bool nan = false;
  images.for_each_block(sample, first, end,
                        [&](std::int64_t, const Block&, const VoxelBlock<T>& voxels) {
                          nan = images.rows.add(voxels, parzen, table) || nan;
                        });
  if (count > 0) {
    images.rows.flush(parzen, table);
  }
  std::fill_n(out, std::int64_t{bins} * bins, nan ? std::numeric_limits<double>::quiet_NaN() : 0.0);
  for (std::int64_t k = 0; k < tables; ++k) {
    const int shift = static_cast<int>(k % kPhases) - images.lead;
    for (int row = 0; row < images.size; ++row) {
      const int a = row - images.lead;
      if (a < 0 || a >= bins) {
        continue;
      }
      const double* from = table.sums + k * phase + row * stride;
      const int last = std::min(images.size, bins - shift);
      for (int column = std::max(0, -shift); column < last; ++column) {
        out[a * bins + column + shift] += from[column];
      }
    }
  }
}

template <typename T>
void forward(const Images<T>& images, const Tensor& out, const Tensor& scratch, int bins,
             int threads) {
  const std::int64_t parts = scratch.shape[1];
  const std::int64_t area = std::int64_t{bins} * bins;
  const std::int64_t blocks = images.blocks();
  double* const sums = scratch.as<double>();
  parallel_for(out.shape[0] * parts, 1, threads, [&](std::int64_t task) {
    const std::int64_t part = task % parts;
    add_part(images, task / parts, part * blocks / parts, (part + 1) * blocks / parts, bins,
             sums + task * area);
  });
  for (std::int64_t i = 0; i < out.shape[0] * area; ++i) {
    const double* const first = sums + i / area * parts * area + i % area;
    double sum = 0;
    for (std::int64_t part = 0; part < parts; ++part) {
      sum += first[part * area];
    }
    out.as<T>()[i] = static_cast<T>(sum);
  }
}

// The gradient of the histogram of a sample, in cells.
template <typename T>
class GradientTable {
 public:
  GradientTable(const Images<T>& images, const Tensor& grad, std::int64_t sample, int bins)
      : size_(images.size), values_(static_cast<std::size_t>(size_ * size_)) {
    for (int row = std::max(images.lead, 0); row < size_ && row - images.lead < bins; ++row) {
      for (int column = std::max(images.lead, 0); column < size_ && column - images.lead < bins;
           ++column) {
        values_[static_cast<std::size_t>(row * size_ + column)] =
            grad.as<T>()[sample * grad.strides[0] + (row - images.lead) * grad.strides[1] +
                         (column - images.lead) * grad.strides[2]];
      }
    }
    if (images.rows.spread != nullptr) {
      const ParzenBins parzen = images.bins_of(sample);
      lines_.resize(static_cast<std::size_t>(line_count(images.rows, parzen)));
      images.rows.spread(parzen, view(), lines_.data()->values);
    }
  }

  HistogramGradient<T> view() const {
    return {values_.data(), size_, lines_.empty() ? nullptr : lines_.data()->values};
  }

 private:
  int size_;
  std::vector<T> values_;
  std::vector<Line<T>> lines_;
};

template <typename T>
void backward(const Images<T>& images, const Tensor& grad, const Tensor& grad_x,
              const Tensor& grad_y, int bins, int threads) {
  constexpr std::int64_t kBlocks = 64;  // of a task
  const Tensor& like = grad_x ? grad_x : grad_y;
  const std::int64_t blocks = images.blocks();
  const std::int64_t tasks = divide_up(blocks, kBlocks);
  const auto store = select_convert_rows<T>().store[static_cast<int>(like.dtype)];
  const bool in_place = element_size(like.dtype) == static_cast<std::int64_t>(sizeof(T));
  std::vector<GradientTable<T>> tables;
  for (std::int64_t sample = 0; sample < like.shape[0]; ++sample) {
    tables.emplace_back(images, grad, sample, bins);
  }
  parallel_for(like.shape[0] * tasks, 1, threads, [&](std::int64_t task) {
    alignas(64) T buffers[2][kBlock];
    const std::int64_t sample = task / tasks;
    const std::int64_t first = task % tasks * kBlocks;
    const HistogramGradient<T> gradient = tables[static_cast<std::size_t>(sample)].view();
    const ParzenBins parzen = images.bins_of(sample);
    const auto visit = [&](std::int64_t channel, const Block& block, const VoxelBlock<T>& voxels) {
      T* rows[2] = {};
      const Tensor* const targets[2] = {&grad_x, &grad_y};
      for (int image = 0; image < 2; ++image) {
        if (*targets[image]) {
          rows[image] = in_place
                            ? static_cast<T*>(block_target(*targets[image], sample, channel, block))
                            : buffers[image];
        }
      }
      images.rows.pull(voxels, parzen, gradient, rows[0], rows[1]);
      for (int image = 0; image < 2; ++image) {
        if (*targets[image] && !in_place) {
          store(buffers[image], voxels.n, block_target(*targets[image], sample, channel, block));
        }
      }
    };
    images.for_each_block(sample, first, std::min(first + kBlocks, blocks), visit);
  });
}

}  // namespace

void joint_histogram_forward(const Tensor& x, const Tensor& y, const Tensor& mask,
                             const Tensor& value_range, const Tensor& out, const Tensor& scratch,
                             int bins, Parzen kernel, double sigma, int threads) {
  with_accumulator(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    forward<T>(Images<T>(x, y, mask, value_range, bins, kernel, sigma), out, scratch, bins,
               threads);
  });
}

void joint_histogram_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                              const Tensor& mask, const Tensor& value_range, const Tensor& grad_x,
                              const Tensor& grad_y, const Tensor&, int bins, Parzen kernel,
                              double sigma, int threads) {
  if (!grad_x && !grad_y) {
    return;
  }
  prefer_huge_pages(grad_x);
  prefer_huge_pages(grad_y);
  with_accumulator(x.dtype, [&](auto zero) {
    using T = decltype(zero);
    backward<T>(Images<T>(x, y, mask, value_range, bins, kernel, sigma), grad, grad_x, grad_y, bins,
                threads);
  });
}

}  // namespace plasticine
