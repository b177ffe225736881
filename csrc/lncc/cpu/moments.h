// The moments of both images in the windows of a slab.
#pragma once

#include <cmath>

#include "core/cpu/parallel.h"
#include "lncc/cpu/running.h"
#include "lncc/rows/box.h"

namespace plasticine {

// The rows of both images less a shift of each channel's, and how much their voxels count.
template <typename T>
class Images {
 public:
  Images(const Tensor& x, const Tensor& y, const Tensor& mask, int threads)
      : x_(x), y_(y), mask_(mask), shape_(x), shifts_(2 * shape_.samples * shape_.channels) {
    const std::int64_t count = shape_.voxels() == 0 ? 0 : shape_.samples * shape_.channels;
    parallel_for(2 * count, 1, threads, [&](std::int64_t i) {
      shifts_[static_cast<std::size_t>(i)] = find_shift(i % 2 == 0 ? x_ : y_, i / 2);
    });
  }

  const LnccShape& shape() const { return shape_; }
  bool is_masked() const { return static_cast<bool>(mask_); }

  T shift_x(const Slab& slab) const { return shift(slab, 0); }
  T shift_y(const Slab& slab) const { return shift(slab, 1); }

  // A row of each; the weights are 1 where there is no mask.
  void load(const Slab& slab, std::int64_t plane, std::int64_t row, T* weight, T* x, T* y) const {
    const int n = static_cast<int>(shape_.columns);
    load_weight(slab, plane, row, weight);
    load_row(x_, shape_.offset(x_, slab.sample, slab.channel, plane, row), n, x);
    load_row(y_, shape_.offset(y_, slab.sample, slab.channel, plane, row), n, y);
    select_lncc_rows<T>().prepare(weight, shift_x(slab), n, x);
    select_lncc_rows<T>().prepare(weight, shift_y(slab), n, y);
  }
  void load_weight(const Slab& slab, std::int64_t plane, std::int64_t row, T* weight) const {
    if (is_masked()) {
      load_row(mask_, shape_.offset(mask_, slab.sample, 0, plane, row), shape_.columns, weight);
    } else {
      std::fill_n(weight, shape_.columns, T(1));
    }
  }

 private:
  T shift(const Slab& slab, std::int64_t image) const {
    return shifts_[static_cast<std::size_t>(2 * slab.index(shape_) + image)];
  }

  // One that rounds nothing: where the values of a channel are within a factor of 4 of each other,
  // their differences from the middle are exact, and smaller. A part of the rows is looked at.
  T find_shift(const Tensor& image, std::int64_t channel) const {
    std::vector<T> values(static_cast<std::size_t>(shape_.columns));
    T low = static_cast<T>(HUGE_VAL);
    T high = -low;
    for (std::int64_t plane = 0; plane < shape_.planes; plane += kLnccSeen) {
      for (std::int64_t row = 0; row < shape_.rows; row += kLnccSeen) {
        load_row(
            image,
            shape_.offset(image, channel / shape_.channels, channel % shape_.channels, plane, row),
            shape_.columns, values.data());
        T lowest;
        T highest;
        select_convert_rows<T>().range(values.data(), static_cast<int>(shape_.columns), &lowest,
                                       &highest);
        low = std::min(low, lowest);
        high = std::max(high, highest);
      }
    }
    const bool is_bright =
        low <= high && ((low > 0 && high <= 4 * low) || (high < 0 && low >= 4 * high));
    return is_bright ? low / 2 + high / 2 : T(0);
  }

  const Tensor x_;
  const Tensor y_;
  const Tensor mask_;
  const LnccShape shape_;
  std::vector<T> shifts_;
};

template <typename T>
class Moments {
 public:
  Moments(const Images<T>& images, const LnccOptions& options, const Slab& slab)
      : images_(images),
        shape_(images.shape()),
        slab_(slab),
        windows_(options, shape_),
        counts_zeros_(options.border == LnccBorder::zeros),
        stride_(windows_.stride()),
        source_(3 * windows_.padded()),
        outside_(2 * length()),
        counts_(windows_.padded()),
        inverses_(stride_),
        merges_(windows_.is_box() ? 4 * lncc_doublings(windows_.size()) * windows_.padded() : 0),
        buffer_(windows_.is_box() ? 5 * windows_.padded() : 0) {
    fill_border();
    count_along();
  }

  // Calls visit(plane, row, moments) for every row of the slab.
  template <typename Visit>
  void for_each_row(const Visit& visit) {
    for_each_window_row(
        windows_, shape_, slab_, *this,
        [&](std::int64_t plane, std::int64_t row, T* to) { along(plane, row, to); },
        [&](std::int64_t plane, std::int64_t row, T* found) {
          T* moments[kLnccMoments];
          for (int k = 0; k < kLnccMoments; ++k) {
            moments[k] = found + k * stride_;
          }
          if (!images_.is_masked()) {
            fill_count(plane, row, moments[5]);
          }
          visit(plane, row, moments);
        });
  }

  // What RunningWindow asks for.
  std::int64_t length() const { return kLnccMoments * stride_; }
  const T* outside(int level) const {
    return counts_zeros_ ? outside_.data() + level * length() : nullptr;
  }
  void merge(int level, const T* a, int count_a, const T* b, int count_b, bool is_window,
             T* to) const {
    const T count = static_cast<T>(count_a + count_b);
    const LnccMerge<T> merge = {static_cast<T>(count_b) / count,
                                static_cast<T>(count_a) * static_cast<T>(count_b) / count,
                                is_window && !images_.is_masked() ? T(1) / count : T(1),
                                images_.is_masked(), is_window && level == 1};
    select_lncc_box_rows<T>().merge(merge, a, b, stride_, static_cast<int>(shape_.columns), to);
  }
  void weigh(LnccWindow<T> window, const std::vector<const T*>& rows, T* to) const {
    const T inverse = T(1) / std::accumulate(window.taps, window.taps + window.size, T(0));
    window.inverse = images_.is_masked() ? nullptr : &inverse;
    T* moments[kLnccMoments];
    for (int k = 0; k < kLnccMoments; ++k) {
      moments[k] = to + k * stride_;
    }
    select_lncc_rows<T>().across(window, rows.data(), stride_, moments);
  }

 private:
  // What windows find outside: nothing, or zeros.
  void fill_border() {
    const T weight = T(counts_zeros_ ? 1 : 0);
    const T zero[2] = {counts_zeros_ ? -images_.shift_x(slab_) : T(0),
                       counts_zeros_ ? -images_.shift_y(slab_) : T(0)};
    std::fill_n(source_.data(), windows_.padded(), weight);
    for (int image = 0; image < 2; ++image) {
      std::fill_n(source_.data() + (1 + image) * windows_.padded(), windows_.padded(), zero[image]);
    }
    const T total = windows_.total();
    for (int level = 0; level < 2; ++level) {
      const T count = level == 1 && shape_.has_rows ? total * total : total;
      const T values[kLnccMoments] = {zero[0], zero[1], T(0), T(0), T(0), count};
      for (int k = 0; k < kLnccMoments; ++k) {
        std::fill_n(outside_.data() + level * length() + k * stride_, stride_, values[k]);
      }
    }
  }

  T count_at(std::int64_t at, std::int64_t length) const {
    return counts_zeros_ ? windows_.total() : windows_.inside(at, length);
  }

  // The sums of the taps of windows along a row, and how moments merge there.
  void count_along() {
    std::fill_n(source_.data() + windows_.radius(), shape_.columns, T(1));
    if (windows_.is_box()) {
      select_lncc_box_rows<T>().count(box(), source_.data(), counts_.data());
    }
    for (std::int64_t column = 0; column < stride_; ++column) {
      counts_.data()[column] = count_at(std::min(column, shape_.columns - 1), shape_.columns);
      inverses_.data()[column] = T(1) / counts_.data()[column];
    }
  }

  LnccBox<T> box() const {
    return {windows_.size(),
            static_cast<int>(shape_.columns),
            windows_.padded(),
            merges_.data(),
            images_.is_masked() ? nullptr : inverses_.data(),
            buffer_.data()};
  }

  // Windows along a row.
  void along(std::int64_t plane, std::int64_t row, T* to) const {
    const std::int64_t part = windows_.padded();
    const T* const source = source_.data();
    T* const inner = source_.data() + windows_.radius();
    images_.load(slab_, plane, row, inner, inner + part, inner + 2 * part);
    T* moments[kLnccMoments];
    for (int k = 0; k < kLnccMoments; ++k) {
      moments[k] = to + k * stride_;
    }
    if (windows_.is_box()) {
      const auto& rows = select_lncc_box_rows<T>();
      if (images_.is_masked()) {
        rows.count(box(), source, counts_.data());
        std::copy_n(counts_.data(), stride_, moments[5]);
      }
      rows.along(box(), source + part, source + 2 * part, moments);
    } else {
      LnccWindow<T> window = windows_.whole();
      window.inverse = images_.is_masked() ? nullptr : inverses_.data();
      window.whole[0] = counts_zeros_ ? 0 : windows_.radius();
      window.whole[1] = static_cast<int>(shape_.columns) - window.whole[0];
      select_lncc_rows<T>().along(window, source, source + part, source + 2 * part, moments);
    }
  }

  void fill_count(std::int64_t plane, std::int64_t row, T* to) const {
    const T count =
        count_at(plane, shape_.planes) * (shape_.has_rows ? count_at(row, shape_.rows) : T(1));
    for (std::int64_t column = 0; column < stride_; ++column) {
      to[column] = count * counts_.data()[column];
    }
  }

  const Images<T>& images_;
  const LnccShape shape_;
  const Slab slab_;
  const Windows<T> windows_;
  const bool counts_zeros_;
  const std::int64_t stride_;
  Rows<T> source_;   // weights, x, y of one row, and what is outside of it
  Rows<T> outside_;  // moments where there are only zeros, at each level
  Rows<T> counts_;
  Rows<T> inverses_;
  Rows<T> merges_;
  Rows<T> buffer_;
};

}  // namespace plasticine
