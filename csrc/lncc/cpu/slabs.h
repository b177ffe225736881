// What a task of local normalised cross-correlation covers, and the windows that reach around it.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "core/rows/convert.h"
#include "lncc/lncc.h"
#include "lncc/rows/lncc.h"

namespace plasticine {

// Values of a tensor, from an offset in elements.
template <typename T>
void load_row(const Tensor& tensor, std::int64_t offset, std::int64_t n, T* values) {
  select_convert_rows<T>().load[static_cast<int>(tensor.dtype)](
      element(tensor, offset), tensor.strides[tensor.ndim - 1], static_cast<int>(n), values);
}

// Memory that is not zeroed: most of it is only ever touched in a core's cache.
template <typename T>
class Rows {
 public:
  explicit Rows(std::int64_t n) : values_(new T[static_cast<std::size_t>(n)]) {}
  T* data() const { return values_.get(); }

 private:
  std::unique_ptr<T[]> values_;
};

// How a channel is cut into slabs: rows of some planes. They are few, so that a window's planes of
// them stay in a core's cache, but not so few that most of what is read lies around them.
struct Slabs {
  std::int64_t rows;
  std::int64_t planes;
  std::int64_t across;  // slabs side by side
  std::int64_t of_channel;
  std::int64_t total;

  Slabs(const LnccShape& shape, int window)
      : rows(std::max<std::int64_t>(16, divide_up(window, 16) * 16)),
        planes(std::max<std::int64_t>(64, 2 * rows)),
        across(divide_up(shape.rows, rows)),
        of_channel(divide_up(shape.planes, planes) * across),
        total(shape.voxels() == 0 ? 0 : shape.samples * shape.channels * of_channel) {}
};

struct Slab {
  std::int64_t sample;
  std::int64_t channel;
  std::int64_t plane[2];  // first, and the one after the last
  std::int64_t row[2];

  Slab(const LnccShape& shape, const Slabs& slabs, std::int64_t task) {
    sample = task / slabs.of_channel / shape.channels;
    channel = task / slabs.of_channel % shape.channels;
    plane[0] = task % slabs.of_channel / slabs.across * slabs.planes;
    plane[1] = std::min(plane[0] + slabs.planes, shape.planes);
    row[0] = task % slabs.of_channel % slabs.across * slabs.rows;
    row[1] = std::min(row[0] + slabs.rows, shape.rows);
  }

  std::int64_t rows() const { return row[1] - row[0]; }
  std::int64_t index(const LnccShape& shape) const { return sample * shape.channels + channel; }
};

// A window along each axis.
template <typename T>
class Windows {
 public:
  Windows(const LnccOptions& options, const LnccShape& shape)
      : is_box_(options.kernel == LnccKernel::box),
        columns_(static_cast<int>(shape.columns)),
        stride_(divide_up(shape.columns, kLnccLanes) * kLnccLanes) {
    for (const double tap : lncc_taps(options)) {
      taps_.push_back(static_cast<T>(tap));
    }
  }

  bool is_box() const { return is_box_; }
  int size() const { return static_cast<int>(taps_.size()); }
  int radius() const { return size() / 2; }
  // Of a row of results; and of one of values, with a window's more.
  std::int64_t stride() const { return stride_; }
  std::int64_t padded() const {
    return divide_up(stride_ + size(), kLnccLanes) * kLnccLanes + kLnccLanes;
  }

  LnccWindow<T> whole() const { return {taps_.data(), size(), nullptr, columns_, {0, 0}}; }

  T total() const { return std::accumulate(taps_.begin(), taps_.end(), T(0)); }
  // The sum of the taps, around `at`, that are inside of an axis of this length.
  T inside(std::int64_t at, std::int64_t length) const {
    const std::int64_t first = std::max<std::int64_t>(radius() - at, 0);
    const std::int64_t end = std::min<std::int64_t>(length - at + radius(), size());
    return std::accumulate(taps_.begin() + first, taps_.begin() + end, T(0));
  }

 private:
  const bool is_box_;
  const int columns_;
  const std::int64_t stride_;
  std::vector<T> taps_;
};

}  // namespace plasticine
