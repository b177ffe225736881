// The moments of both images in the windows of a slab.
#pragma once

#include <cmath>
#include <numeric>

#include "core/cpu/parallel.h"
#include "lncc/cpu/slabs.h"

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
        windows_(options, shape_, slab),
        counts_zeros_(options.border == LnccBorder::zeros),
        total_(std::accumulate(windows_.taps().begin(), windows_.taps().end(), T(0))),
        stride_(windows_.stride()),
        source_(3 * windows_.padded()),
        along_((windows_.end_row() - windows_.first_row()) * kLnccMoments * stride_),
        ring_(windows_.size() * slab.rows() * kLnccMoments * stride_),
        outside_(2 * kLnccMoments * stride_),
        found_(kLnccMoments * stride_),
        counts_(stride_),
        inverses_(stride_) {
    fill_border();
    count_along();
  }

  const Windows<T>& windows() const { return windows_; }

  // Calls visit(plane, row, moments) for every row of the slab.
  template <typename Visit>
  void for_each_row(const Visit& visit) {
    windows_.march([&](std::int64_t plane) { fill(plane); },
                   [&](std::int64_t plane) {
                     for (std::int64_t row = slab_.row[0]; row < slab_.row[1]; ++row) {
                       combine(plane, row);
                       visit(plane, row, found_row_.values);
                     }
                   });
  }

 private:
  // Where the moments of a row begin.
  struct Row {
    T* values[kLnccMoments];
  };
  Row row_at(const Rows<T>& rows, std::int64_t slot) const {
    Row row;
    for (int k = 0; k < kLnccMoments; ++k) {
      row.values[k] = rows.data() + (slot * kLnccMoments + k) * stride_;
    }
    return row;
  }
  Row along(std::int64_t row) const { return row_at(along_, row - windows_.first_row()); }
  Row ring(std::int64_t plane, std::int64_t row) const {
    return row_at(ring_, plane % windows_.size() * slab_.rows() + row - slab_.row[0]);
  }

  // What windows find outside: nothing, or zeros.
  void fill_border() {
    const T weight = T(counts_zeros_ ? 1 : 0);
    const T zero[2] = {counts_zeros_ ? -images_.shift_x(slab_) : T(0),
                       counts_zeros_ ? -images_.shift_y(slab_) : T(0)};
    std::fill_n(source_.data(), windows_.padded(), weight);
    for (int image = 0; image < 2; ++image) {
      std::fill_n(source_.data() + (1 + image) * windows_.padded(), windows_.padded(), zero[image]);
    }
    for (int level = 0; level < 2; ++level) {
      const Row row = row_at(outside_, level);
      const T count = level == 1 && shape_.has_rows ? total_ * total_ : total_;
      const T values[kLnccMoments] = {zero[0], zero[1], T(0), T(0), T(0), count};
      for (int k = 0; k < kLnccMoments; ++k) {
        std::fill_n(row.values[k], stride_, values[k]);
      }
    }
    found_row_ = row_at(found_, 0);
  }

  // The sums of the taps of windows along a row.
  void count_along() {
    for (std::int64_t column = 0; column < stride_; ++column) {
      std::int64_t first;
      const LnccWindow<T> window =
          windows_.inside(std::min(column, shape_.columns - 1), shape_.columns, &first);
      counts_.data()[column] =
          counts_zeros_ ? total_ : std::accumulate(window.taps, window.taps + window.size, T(0));
      inverses_.data()[column] = T(1) / counts_.data()[column];
    }
  }

  // A plane's windows along its rows and across them.
  void fill(std::int64_t plane) {
    const std::int64_t part = windows_.padded();
    const T* const source = source_.data();
    T* const inner = source_.data() + windows_.radius();
    LnccWindow<T> window = windows_.whole();
    window.inverse = images_.is_masked() ? nullptr : inverses_.data();
    window.whole[0] = counts_zeros_ ? 0 : windows_.radius();
    window.whole[1] = static_cast<int>(shape_.columns) - window.whole[0];
    for (std::int64_t row = windows_.first_row(); row < windows_.end_row(); ++row) {
      images_.load(slab_, plane, row, inner, inner + part, inner + 2 * part);
      const Row to = shape_.has_rows ? along(row) : ring(plane, row);
      select_lncc_rows<T>().along(window, source, source + part, source + 2 * part, to.values);
    }
    if (shape_.has_rows) {
      for (std::int64_t row = slab_.row[0]; row < slab_.row[1]; ++row) {
        across(0, row, shape_.rows, [&](std::int64_t at) { return along(at); }, ring(plane, row));
      }
    }
  }

  void combine(std::int64_t plane, std::int64_t row) {
    T count =
        across(1, plane, shape_.planes, [&](std::int64_t at) { return ring(at, row); }, found_row_);
    if (images_.is_masked()) {
      return;
    }
    if (shape_.has_rows) {
      count *= count_across(row, shape_.rows);
    }
    if (count != count_) {
      count_ = count;
      for (std::int64_t column = 0; column < stride_; ++column) {
        found_row_.values[5][column] = count * counts_.data()[column];
      }
    }
  }

  T count_across(std::int64_t at, std::int64_t length) const {
    std::int64_t first;
    const LnccWindow<T> window = windows_.inside(at, length, &first);
    return counts_zeros_ ? total_ : std::accumulate(window.taps, window.taps + window.size, T(0));
  }

  // Of one row from a window of others, level 0 across the rows of a plane, 1 across planes.
  // Returns the sum of the taps.
  template <typename At>
  T across(int level, std::int64_t at, std::int64_t length, const At& row_of, const Row& to) {
    std::int64_t first;
    LnccWindow<T> window = windows_.inside(at, length, &first);
    const std::int64_t before = first - (at - windows_.radius());
    const std::int64_t end = first + window.size;
    if (counts_zeros_) {
      window = windows_.whole();
      first -= before;
    }
    rows_.clear();
    for (std::int64_t i = first; i < first + window.size; ++i) {
      rows_.push_back((i >= 0 && i < end ? row_of(i) : row_at(outside_, level)).values[0]);
    }
    const T count = std::accumulate(window.taps, window.taps + window.size, T(0));
    const T inverse = T(1) / count;
    window.inverse = images_.is_masked() ? nullptr : &inverse;
    select_lncc_rows<T>().across(window, rows_.data(), stride_, to.values);
    return count;
  }

  const Images<T>& images_;
  const LnccShape shape_;
  const Slab slab_;
  const Windows<T> windows_;
  const bool counts_zeros_;
  const T total_;
  const std::int64_t stride_;
  Rows<T> source_;   // weights, x, y of one row, and what is outside of it
  Rows<T> along_;    // the moments of windows along the rows of a plane
  Rows<T> ring_;     // the same across the rows, of the planes of a window
  Rows<T> outside_;  // moments where there are only zeros, at each level
  Rows<T> found_;
  Rows<T> counts_;
  Rows<T> inverses_;
  Row found_row_;
  T count_ = T(0);
  std::vector<const T*> rows_;
};

}  // namespace plasticine
