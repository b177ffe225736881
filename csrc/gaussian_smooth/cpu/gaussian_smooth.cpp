// A tile of rows of some planes at a time, and of it a few planes: sums across planes, then across
// rows, then along these. What passes between them stays in a core's cache, so that memory is read
// once, but for what tiles share, and written once.
#include "gaussian_smooth/gaussian_smooth.h"

#include <algorithm>
#include <memory>

#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
#include "core/rows/convert.h"
#include "gaussian_smooth/math/window.h"
#include "gaussian_smooth/rows/gaussian_smooth.h"

namespace plasticine {

namespace {

// The weights of a window, and of its tails: from each to the last.
template <typename T>
struct Weights {
  int radius;
  std::vector<T> taps;
  std::vector<T> tails;

  explicit Weights(const GaussianWindow& window)
      : radius(window.radius), taps(2 * window.radius + 1), tails(window.radius + 1) {
    double tail = 0.0;
    for (int step = radius; step >= 0; --step) {
      tail += window.weight(step);
      taps[radius - step] = taps[radius + step] = static_cast<T>(window.weight(step));
      tails[step] = static_cast<T>(tail);
    }
  }

  int count() const { return 2 * radius + 1; }
};

// Images as channels of planes of rows; one plane in 2D.
struct Channels {
  std::int64_t size[3] = {1, 1, 1};
  std::int64_t stride[3] = {};
  std::int64_t channels;
  std::int64_t count;
  std::int64_t sample_stride;
  std::int64_t channel_stride;

  explicit Channels(const Tensor& images)
      : channels(images.shape[1]),
        count(images.shape[0] * images.shape[1]),
        sample_stride(images.strides[0]),
        channel_stride(images.strides[1]) {
    const int missing = 5 - images.ndim;
    for (int axis = missing; axis < 3; ++axis) {
      size[axis] = images.shape[axis + 2 - missing];
      stride[axis] = images.strides[axis + 2 - missing];
    }
  }

  std::int64_t offset(std::int64_t channel) const {
    return channel / channels * sample_stride + channel % channels * channel_stride;
  }
};

// A part of a channel that one task smooths.
struct Tile {
  std::int64_t channel;
  std::int64_t plane[2];  // first, and the one after the last
  std::int64_t row[2];
  std::int64_t read_row[2];  // of the rows that are smoothed across planes
};

// How channels are shared out. In many planes, as those around them are read once more, unless
// threads would have nothing to do; in as many rows as stay in a cache with all planes that are
// looked at for a few of results. No result depends on it.
struct Tiles {
  static constexpr std::int64_t kMostPlanes = 32;
  static constexpr std::int64_t kFewestPlanes = 8;
  static constexpr std::int64_t kCachedBytes = 1024 << 10;

  const Channels& shape;
  const int reach;  // across rows
  std::int64_t planes;
  std::int64_t rows;
  std::int64_t across;  // tiles of a channel side by side
  std::int64_t total;

  // seen: how many planes are looked at for a few of results.
  Tiles(const Channels& channels, int seen, int reach_across_rows, std::int64_t value_bytes,
        int threads)
      : shape(channels), reach(reach_across_rows), planes(kMostPlanes) {
    const std::int64_t fitting = kCachedBytes / (seen * shape.size[2] * value_bytes);
    const std::int64_t wanted = std::max<std::int64_t>({fitting - 2 * reach, 2 * reach, 16});
    across = divide_up(shape.size[1], wanted);
    rows = divide_up(shape.size[1], across);
    across = divide_up(shape.size[1], rows);
    const auto count = [&] { return shape.count * divide_up(shape.size[0], planes) * across; };
    while (planes > kFewestPlanes && count() < 2 * threads) {
      planes /= 2;
    }
    total = count();
  }

  Tile at(std::int64_t task) const {
    const std::int64_t of_channel = total / shape.count;
    Tile tile;
    tile.channel = task / of_channel;
    tile.plane[0] = task % of_channel / across * planes;
    tile.plane[1] = std::min(tile.plane[0] + planes, shape.size[0]);
    tile.row[0] = task % across * rows;
    tile.row[1] = std::min(tile.row[0] + rows, shape.size[1]);
    tile.read_row[0] = std::max<std::int64_t>(tile.row[0] - reach, 0);
    tile.read_row[1] = std::min(tile.row[1] + reach, shape.size[1]);
    return tile;
  }
};

// Rows of which the first begins with a cache line. Memory that is not zeroed.
template <typename T>
class Rows {
 public:
  Rows(std::int64_t rows, std::int64_t pitch)
      : pitch_(pitch), memory_(new T[static_cast<std::size_t>(rows * pitch_ + kLine)]) {
    const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(memory_.get());
    first_ = memory_.get() + (64 - address % 64) % 64 / sizeof(T);
  }

  T* row(std::int64_t index) const { return first_ + index * pitch_; }

  // So many values, in whole cache lines.
  static std::int64_t whole_lines(std::int64_t count) { return divide_up(count, kLine) * kLine; }

 private:
  static constexpr std::int64_t kLine = 64 / static_cast<std::int64_t>(sizeof(T));

  const std::int64_t pitch_;
  const std::unique_ptr<T[]> memory_;
  T* first_;
};

template <typename T>
class Smoothing {
 public:
  Smoothing(const Tensor& images, const Tensor& out, const std::vector<double>& sigma, bool adjoint)
      : images_(images),
        out_(out),
        shape_(images),
        adjoint_(adjoint),
        across_planes_(GaussianWindow(images.ndim == 5 ? sigma[0] : 0.0, shape_.size[0])),
        across_rows_(GaussianWindow(sigma[images.ndim - 4], shape_.size[1])),
        along_rows_(GaussianWindow(sigma[images.ndim - 3], shape_.size[2])),
        load_(select_convert_rows<T>().load[static_cast<int>(images.dtype)]),
        store_(select_convert_rows<T>().store[static_cast<int>(out.dtype)]) {
    const DType native = sizeof(T) == sizeof(double) ? DType::float64 : DType::float32;
    is_stored_so_ = images.dtype == native;
    in_place_ = is_stored_so_ && (shape_.stride[2] == 1 || shape_.size[2] == 1);
  }

  void run(int threads) const {
    const Tiles tiles(shape_, held_planes(), across_rows_.radius, sizeof(T), threads);
    parallel_for(tiles.total, 1, threads, [&](std::int64_t task) {
      const Tile tile = tiles.at(task);
      Work work(*this, tile);
      for (std::int64_t plane = tile.plane[0]; plane < tile.plane[1]; plane += kGaussianRows) {
        const std::int64_t left = tile.plane[1] - plane;
        const int planes = static_cast<int>(std::min<std::int64_t>(left, kGaussianRows));
        smooth_across_planes(work, plane, planes);
        for (int p = 0; p < planes; ++p) {
          smooth_planes_rows(work, plane + p, p);
        }
      }
    });
  }

 private:
  // Rows that are smoothed across planes and rows before the first is smoothed along itself: read
  // at once, what was written last would have to leave the store buffer first.
  static constexpr int kPendingRows = 16;

  // What a task holds.
  struct Work {
    const Tile tile;
    const std::int64_t rows;  // that are read
    std::int64_t next_plane;  // the first that has not been converted
    Rows<T> converted;        // planes in turn, where images do not lie in memory as T
    Rows<T> smoothed;         // across planes
    Rows<T> pending;          // and across rows, with room for the window on either side
    Rows<T> result;           // one that is to be rounded
    std::vector<T> zeros;     // a row beyond an edge, of the adjoint
    std::vector<const T*> sources;

    Work(const Smoothing& all, const Tile& of)
        : tile(of),
          rows(of.read_row[1] - of.read_row[0]),
          next_plane(std::max<std::int64_t>(of.plane[0] - all.across_planes_.radius, 0)),
          converted(all.in_place_ ? 0 : all.held_planes() * rows, all.columns()),
          smoothed(kGaussianRows * rows, all.columns()),
          pending(std::min<std::int64_t>(kPendingRows, rows),
                  Rows<T>::whole_lines(all.margin() + all.columns() + all.along_rows_.radius)),
          result(all.is_stored_so_ ? 0 : 1, all.columns()),
          zeros(all.adjoint_ ? std::min<std::int64_t>(kPendingRows, rows) * all.columns() : 0),
          sources(2 * std::max(all.across_planes_.radius, all.across_rows_.radius) +
                  kGaussianRows) {}
  };

  // Before a pending row's values: its window's room, in whole cache lines.
  std::int64_t margin() const { return Rows<T>::whole_lines(along_rows_.radius); }

  std::int64_t columns() const { return shape_.size[2]; }

  int held_planes() const {
    const std::int64_t wanted = 2 * across_planes_.radius + kGaussianRows;
    return static_cast<int>(std::min(wanted, shape_.size[0]));
  }

  // A row as T. Of those that are converted, held_planes() planes are kept.
  const T* source(const Work& work, std::int64_t plane, std::int64_t row) const {
    if (in_place_) {
      return images_.as<const T>() + offset(work.tile.channel, plane, row);
    }
    return work.converted.row(plane % held_planes() * work.rows + row);
  }

  std::int64_t offset(std::int64_t channel, std::int64_t plane, std::int64_t row) const {
    return shape_.offset(channel) + plane * shape_.stride[0] + row * shape_.stride[1];
  }

  void convert(Work& work, std::int64_t end) const {
    for (; !in_place_ && work.next_plane < end; ++work.next_plane) {
      for (std::int64_t r = 0; r < work.rows; ++r) {
        const std::int64_t from =
            offset(work.tile.channel, work.next_plane, work.tile.read_row[0] + r);
        T* const to = work.converted.row(work.next_plane % held_planes() * work.rows + r);
        load_(element(images_, from), shape_.stride[2], static_cast<int>(columns()), to);
      }
    }
  }

  // Sums over a window of rows around `first` and the `count` - 1 after it; row(i), of `size`; of n
  // columns.
  template <typename Row>
  void sum_rows(Work& work, const Weights<T>& weights, std::int64_t size, std::int64_t first,
                int count, std::int64_t n, const Row& row, T* const* out) const {
    const auto& kernel = select_gaussian_rows<T>();
    const int radius = weights.radius;
    for (int i = 0; i < count + 2 * radius; ++i) {
      const std::int64_t at = first - radius + i;
      const bool is_outside = at < 0 || at >= size;
      work.sources[i] = is_outside && adjoint_ ? work.zeros.data()
                                               : row(std::clamp<std::int64_t>(at, 0, size - 1));
    }
    kernel.across(work.sources.data(), weights.taps.data(), weights.count(), count, n, out);
    if (!adjoint_ || radius == 0) {
      return;
    }
    for (const bool is_last : {false, true}) {
      const std::int64_t edge = is_last ? size - 1 : 0;
      if (edge < first || edge >= first + count) {
        continue;
      }
      for (int i = 0; i <= radius; ++i) {
        work.sources[i] = row(is_last ? edge - i : edge + i);
      }
      kernel.across(work.sources.data(), weights.tails.data(), radius + 1, 1, n,
                    out + (edge - first));
    }
  }

  void smooth_across_planes(Work& work, std::int64_t plane, int planes) const {
    convert(work, std::min(plane + planes + across_planes_.radius, shape_.size[0]));
    // Rows that follow each other in memory are one.
    const bool is_joined = !in_place_ || shape_.stride[1] == columns();
    const std::int64_t joined = is_joined ? kPendingRows : 1;
    for (std::int64_t r = 0; r < work.rows; r += joined) {
      T* out[kGaussianRows];
      for (int p = 0; p < planes; ++p) {
        out[p] = work.smoothed.row(p * work.rows + r);
      }
      const std::int64_t row = in_place_ ? work.tile.read_row[0] + r : r;
      sum_rows(
          work, across_planes_, shape_.size[0], plane, planes,
          std::min(joined, work.rows - r) * columns(),
          [&](std::int64_t at) { return source(work, at, row); }, out);
    }
  }

  // Across the rows of plane `number` of those that have been smoothed, and along them.
  void smooth_planes_rows(Work& work, std::int64_t plane, int number) const {
    const std::int64_t read = number * work.rows - work.tile.read_row[0];
    const std::int64_t end = work.tile.row[1];
    for (std::int64_t first = work.tile.row[0]; first < end; first += kPendingRows) {
      const std::int64_t last = std::min(first + kPendingRows, end);
      for (std::int64_t row = first; row < last; row += kGaussianRows) {
        const int rows = static_cast<int>(std::min<std::int64_t>(last - row, kGaussianRows));
        T* out[kGaussianRows];
        for (int r = 0; r < rows; ++r) {
          out[r] = work.pending.row(row - first + r) + margin();
        }
        sum_rows(
            work, across_rows_, shape_.size[1], row, rows, columns(),
            [&](std::int64_t at) { return work.smoothed.row(read + at); }, out);
        for (int r = 0; r < rows; ++r) {
          continue_row(out[r]);
        }
      }
      for (std::int64_t row = first; row < last; ++row) {
        const std::int64_t index =
            (work.tile.channel * shape_.size[0] + plane) * shape_.size[1] + row;
        smooth_along_row(work, work.pending.row(row - first) + margin(),
                         mutable_element(out_, index * columns()));
      }
    }
  }

  // Beyond its ends, as far as the window reaches.
  void continue_row(T* values) const {
    const int radius = along_rows_.radius;
    T* const end = values + columns();
    std::fill(values - radius, values, adjoint_ ? T(0) : values[0]);
    std::fill(end, end + radius, adjoint_ ? T(0) : end[-1]);
  }

  void smooth_along_row(const Work& work, const T* values, void* out) const {
    const auto& kernel = select_gaussian_rows<T>();
    const int radius = along_rows_.radius;
    const std::int64_t n = columns();
    T* const result = is_stored_so_ ? static_cast<T*>(out) : work.result.row(0);
    kernel.along(values - radius, along_rows_.taps.data(), along_rows_.count(), n, result);
    if (adjoint_ && radius > 0) {
      T first = T(0);
      T last = T(0);
      for (int i = 0; i <= radius; ++i) {
        first += along_rows_.tails[i] * values[i];
        last += along_rows_.tails[i] * values[n - 1 - i];
      }
      result[0] = first;
      result[n - 1] = last;
    }
    if (!is_stored_so_) {
      store_(result, static_cast<int>(n), out);
    }
  }

  const Tensor& images_;
  const Tensor& out_;
  const Channels shape_;
  const bool adjoint_;
  const Weights<T> across_planes_;
  const Weights<T> across_rows_;
  const Weights<T> along_rows_;
  const typename ConvertRows<T>::Load load_;
  const typename ConvertRows<T>::Store store_;
  bool is_stored_so_;  // as T
  bool in_place_;      // and with rows that need no gathering
};

}  // namespace

void gaussian_smooth(const Tensor& images, const Tensor& out, const std::vector<double>& sigma,
                     bool adjoint, int threads) {
  for (int axis = 0; axis < images.ndim; ++axis) {
    if (images.shape[axis] == 0) {
      return;
    }
  }
  prefer_huge_pages(out);
  with_accumulator(images.dtype, [&](auto zero) {
    Smoothing<decltype(zero)>(images, out, sigma, adjoint).run(threads);
  });
}

}  // namespace plasticine
