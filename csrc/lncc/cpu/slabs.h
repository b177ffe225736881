// What a task of local normalised cross-correlation covers, and the windows that reach around it.
#pragma once

#include <algorithm>
#include <memory>
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

// Rows of some planes of a channel. Few, so that a window's planes of them stay in a core's cache.
struct Slab {
  static constexpr std::int64_t kRows = 16;
  static constexpr std::int64_t kPlanes = 64;

  std::int64_t sample;
  std::int64_t channel;
  std::int64_t plane[2];  // first, and the one after the last
  std::int64_t row[2];

  static std::int64_t count(const LnccShape& shape) {  // per channel
    return divide_up(shape.planes, kPlanes) * divide_up(shape.rows, kRows);
  }
  static std::int64_t total(const LnccShape& shape) {
    return shape.voxels() == 0 ? 0 : shape.samples * shape.channels * count(shape);
  }

  Slab(const LnccShape& shape, std::int64_t task) {
    const std::int64_t of_channel = count(shape);
    const std::int64_t across = divide_up(shape.rows, kRows);
    sample = task / of_channel / shape.channels;
    channel = task / of_channel % shape.channels;
    plane[0] = task % of_channel / across * kPlanes;
    plane[1] = std::min(plane[0] + kPlanes, shape.planes);
    row[0] = task % of_channel % across * kRows;
    row[1] = std::min(row[0] + kRows, shape.rows);
  }

  std::int64_t rows() const { return row[1] - row[0]; }
  std::int64_t index(const LnccShape& shape) const { return sample * shape.channels + channel; }
};

// A window along each axis around the voxels of a slab.
template <typename T>
class Windows {
 public:
  Windows(const LnccOptions& options, const LnccShape& shape, const Slab& slab)
      : shape_(shape),
        slab_(slab),
        radius_(options.window / 2),
        halo_(shape.has_rows ? radius_ : 0),
        stride_(divide_up(shape.columns, kLnccLanes) * kLnccLanes) {
    for (const double tap : lncc_taps(options)) {
      taps_.push_back(static_cast<T>(tap));
    }
  }

  int size() const { return static_cast<int>(taps_.size()); }
  int radius() const { return radius_; }
  const std::vector<T>& taps() const { return taps_; }
  // Of a row of results; and of one of values, with a window's more.
  std::int64_t stride() const { return stride_; }
  std::int64_t padded() const { return divide_up(stride_ + 2 * radius_, kLnccLanes) * kLnccLanes; }

  // The rows, inside of the image, that windows of the slab's reach.
  std::int64_t first_row() const { return std::max<std::int64_t>(slab_.row[0] - halo_, 0); }
  std::int64_t end_row() const { return std::min(slab_.row[1] + halo_, shape_.rows); }

  // Calls fill(plane) for every plane that windows reach, and take(plane) for the slab's as soon as
  // all of its window's are filled.
  template <typename Fill, typename Take>
  void march(const Fill& fill, const Take& take) const {
    std::int64_t filled = std::max<std::int64_t>(slab_.plane[0] - radius_, 0);
    for (std::int64_t plane = slab_.plane[0]; plane < slab_.plane[1]; ++plane) {
      for (; filled < std::min(plane + radius_ + 1, shape_.planes); ++filled) {
        fill(filled);
      }
      take(plane);
    }
  }

  // The taps of a window around `at` that are inside of an axis of this length, and the first of
  // the places that they are at.
  LnccWindow<T> inside(std::int64_t at, std::int64_t length, std::int64_t* first) const {
    *first = std::max<std::int64_t>(at - radius_, 0);
    const std::int64_t end = std::min(at + radius_ + 1, length);
    return {taps_.data() + (*first - (at - radius_)),
            static_cast<int>(end - *first),
            nullptr,
            static_cast<int>(shape_.columns),
            {0, 0}};
  }
  LnccWindow<T> whole() const {
    return {taps_.data(), size(), nullptr, static_cast<int>(shape_.columns), {0, 0}};
  }

 private:
  const LnccShape shape_;
  const Slab slab_;
  const int radius_;
  const std::int64_t halo_;
  const std::int64_t stride_;
  std::vector<T> taps_;
};

}  // namespace plasticine
