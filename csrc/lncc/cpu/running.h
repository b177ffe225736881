// Windows that move over rows, and those of a slab: along its rows, across them, across its planes.
#pragma once

#include "lncc/cpu/slabs.h"

namespace plasticine {

// The window of the last rows that came. Those of a box go, `size` by `size`, into blocks, of which
// a window holds the end of one and the beginning of the next. What the ends hold is merged once
// for a block, from its last row to its first; what beginnings hold, row by row.
//
// Operations: length() of a row; outside(level): what a row outside of the image is, null: nothing;
// merge(level, a, count of rows, b, count of rows, is_window, to); weigh(window, rows, to).
template <typename T, typename Operations>
class RunningWindow {
 public:
  RunningWindow(const Windows<T>& windows, const Operations& operations, int level)
      : windows_(windows),
        operations_(operations),
        level_(level),
        size_(windows.size()),
        length_(operations.length()),
        rows_(size_ * length_),
        beginning_rows_(length_),
        nothing_(length_),
        is_there_(static_cast<std::size_t>(size_)),
        ends_(static_cast<std::size_t>(size_ + 1)) {
    std::fill_n(nothing_.data(), length_, T(0));
    restart();
  }

  void restart() {
    slot_ = 0;
    is_full_ = false;
    beginning_ = {nothing_.data(), 0};
    std::fill(is_there_.begin(), is_there_.end(), false);
  }

  // Where the next row is to be written.
  T* next() { return row(slot_); }

  // What has been written there, or else a row outside of the image, has come. Writes the window
  // that ends with it, once so many have come.
  void take(bool is_inside, T* to) {
    if (!is_inside && operations_.outside(level_) != nullptr) {
      std::copy_n(operations_.outside(level_), length_, next());
      is_inside = true;
    }
    is_there_[static_cast<std::size_t>(slot_)] = is_inside;
    if (windows_.is_box()) {
      take_box(is_inside, to);
    } else {
      take_weighted(to);
    }
    slot_ = (slot_ + 1) % size_;
  }

 private:
  struct Part {
    const T* row;
    int count;  // of rows
  };

  T* row(int slot) const { return rows_.data() + slot * length_; }

  Part merge(const Part& a, const Part& b, bool is_window, T* to) const {
    operations_.merge(level_, a.row, a.count, b.row, b.count, is_window, to);
    return {to, a.count + b.count};
  }

  void take_box(bool is_inside, T* to) {
    if (slot_ == size_ - 1) {
      Part end = {nothing_.data(), 0};
      ends_.back() = end;
      for (int i = size_ - 1; i > 0; --i) {
        if (is_there_[static_cast<std::size_t>(i)]) {
          end = merge({row(i), 1}, end, false, row(i));
        }
        ends_[static_cast<std::size_t>(i)] = end;
      }
      const Part first = is_there_[0] ? Part{row(0), 1} : Part{nothing_.data(), 0};
      merge(first, end, true, to);
      beginning_ = {nothing_.data(), 0};
      is_full_ = true;
    } else if (is_full_) {
      if (is_inside) {
        beginning_ = beginning_.count == 0
                         ? Part{row(slot_), 1}
                         : merge(beginning_, {row(slot_), 1}, false, beginning_rows_.data());
      }
      merge(ends_[static_cast<std::size_t>(slot_ + 1)], beginning_, true, to);
    }
  }

  void take_weighted(T* to) {
    is_full_ = is_full_ || slot_ == size_ - 1;
    if (!is_full_) {
      return;
    }
    LnccWindow<T> window = windows_.whole();
    window.size = 0;
    weighed_.clear();
    for (int tap = 0; tap < size_; ++tap) {
      const int slot = (slot_ + 1 + tap) % size_;
      if (is_there_[static_cast<std::size_t>(slot)]) {
        window.taps += weighed_.empty() ? tap : 0;
        ++window.size;
        weighed_.push_back(row(slot));
      }
    }
    operations_.weigh(window, weighed_, to);
  }

  const Windows<T>& windows_;
  const Operations& operations_;
  const int level_;
  const int size_;
  const std::int64_t length_;
  Rows<T> rows_;  // of a box those that came with this block, and what ends of the one before hold
  Rows<T> beginning_rows_;
  Rows<T> nothing_;
  std::vector<bool> is_there_;
  std::vector<Part> ends_;
  std::vector<const T*> weighed_;
  Part beginning_;
  int slot_;
  bool is_full_;
};

// Calls source(plane, row, to), which writes the windows along a row, for every row inside of the
// image that windows of the slab reach, and visit(plane, row, found) for each of the slab's.
template <typename T, typename Operations, typename Source, typename Visit>
void for_each_window_row(const Windows<T>& windows, const LnccShape& shape, const Slab& slab,
                         const Operations& operations, const Source& source, const Visit& visit) {
  using Running = RunningWindow<T, Operations>;
  const int radius = windows.radius();
  Running across_rows(windows, operations, 0);
  std::vector<Running> across_planes;
  across_planes.reserve(static_cast<std::size_t>(slab.rows()));
  for (std::int64_t row = 0; row < slab.rows(); ++row) {
    across_planes.emplace_back(windows, operations, 1);
  }
  const auto across_planes_at = [&](std::int64_t row) -> Running& {
    return across_planes[static_cast<std::size_t>(row - slab.row[0])];
  };
  Rows<T> found(operations.length());
  for (std::int64_t plane = slab.plane[0] - radius; plane < slab.plane[1] + radius; ++plane) {
    const bool is_inside = plane >= 0 && plane < shape.planes;
    if (is_inside && !shape.has_rows) {
      source(plane, 0, across_planes_at(0).next());
    } else if (is_inside) {
      across_rows.restart();
      for (std::int64_t row = slab.row[0] - radius; row < slab.row[1] + radius; ++row) {
        const bool is_row = row >= 0 && row < shape.rows;
        if (is_row) {
          source(plane, row, across_rows.next());
        }
        const std::int64_t centre = std::max(row - radius, slab.row[0]);
        across_rows.take(is_row, across_planes_at(centre).next());
      }
    }
    for (std::int64_t row = slab.row[0]; row < slab.row[1]; ++row) {
      across_planes_at(row).take(is_inside, found.data());
      if (plane - radius >= slab.plane[0]) {
        visit(plane - radius, row, found.data());
      }
    }
  }
}

}  // namespace plasticine
