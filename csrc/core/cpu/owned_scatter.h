// Adding to an image at the locations of another grid, as every gradient to a sampled image does.
//
// Deterministic whatever the number of threads, without a copy of the image per thread: every task
// owns a range of one image axis and visits, in the grid's order, the blocks that reach into it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/cpu/blocks.h"
#include "core/cpu/parallel.h"

namespace plasticine {

// How far from a location a kernel adds, in slices, with one to spare for rounding; and how far
// outside a zero-padded image nothing is added.
struct Reach {
  std::int64_t below;
  std::int64_t above;
  int outside;
};
constexpr Reach kLinearReach = {1, 1, 1};
constexpr Reach kCubicReach = {2, 3, 2};

// What a task adds to: all channels of one sample, of which it owns a range.
template <typename T>
struct OwnedImage {
  OwnedRange range;
  Channels<T*> channels;  // data may be outside of memory: offsets are of indices in the image
  ImageShape shape;
};

// How a block stands to a range.
struct Role {
  bool reaches;  // some of it is added to the range
  bool first;    // this is the one range that does what is done once for a block
};

template <typename T>
class OwnedScatter {
 public:
  // out: (N, C, *spatial), contiguous. ranges: for each thread; few, for blocks at their borders
  // are visited twice.
  OwnedScatter(const Tensor& out, const Locations<T>& locations, Padding padding, Reach reach,
               int threads, int ranges)
      : out_(out),
        locations_(locations),
        padding_(padding),
        reach_(reach),
        shape_(spatial_shape(out)),
        threads_(enough_work() ? threads : 1),
        direct_(element_size(out.dtype) == static_cast<std::int64_t>(sizeof(T))),
        axis_(owner_axis()),
        thickness_(range_thickness(ranges)) {}

  // Calls add(sample, index of a block, image, role) for every block and range. clear: what out
  // holds counts for nothing; else it is added to, in the type that is summed in.
  template <typename Add>
  void run(bool clear, const Add& add) const {
    const std::int64_t samples = out_.shape[0];
    const std::int64_t ranges =
        std::max<std::int64_t>(divide_up(shape_.size[axis_], thickness_), 1);
    const std::vector<Bounds> bounds = ranges > 1 ? find_bounds() : std::vector<Bounds>();
    parallel_for(samples * ranges, 1, threads_, [&](std::int64_t task) {
      const std::int64_t sample = task / ranges;
      const std::int64_t first = task % ranges * thickness_;
      const OwnedRange owned = {axis_, first, std::min(first + thickness_, shape_.size[axis_])};
      const auto visit_blocks = [&](const OwnedImage<T>& image) {
        const Grid& grid = locations_.grid;
        for (std::int64_t index = 0; index < grid.blocks; ++index) {
          const Bounds block = bounds.empty() ? Bounds{0, shape_.size[axis_] - 1}
                                              : bounds[sample * grid.blocks + index];
          const std::int64_t start = std::max<std::int64_t>(block.first, 0);
          const Role role = {block.first < owned.last && block.last >= owned.first,
                             start >= owned.first && start < owned.last};
          add(sample, index, image, role);
        }
      };
      if (direct_) {
        add_in_place(sample, owned, clear, visit_blocks);
      } else {
        add_through_copy(sample, owned, visit_blocks);
      }
    });
  }

 private:
  // The slices that a block may reach.
  struct Bounds {
    std::int64_t first;
    std::int64_t last;  // inclusive
  };

  // Whether there is more to add than waking another thread costs.
  bool enough_work() const {
    constexpr std::int64_t kVoxels = 8192;
    return locations_.grid.voxels * out_.shape[1] * out_.shape[0] >= kVoxels;
  }

  // The slowest axis that has a range for every thread, else the longest, never the last: the rows
  // of a block run along that one.
  int owner_axis() const {
    int best = 0;
    for (int axis = 0; axis < shape_.ndim - 1; ++axis) {
      if (shape_.size[axis] >= 2 * threads_) {
        return axis;
      }
      best = shape_.size[axis] > shape_.size[best] ? axis : best;
    }
    return best;
  }

  std::int64_t range_thickness(int ranges) const {
    // 16-bit gradients are summed in float32, in a copy of at most this many voxels (but one
    // slice).
    constexpr std::int64_t kCopyVoxels = std::int64_t{1} << 20;
    const std::int64_t size = shape_.size[axis_];
    const std::int64_t samples = out_.shape[0];
    const bool samples_suffice = samples % threads_ == 0 || samples >= 4 * threads_;
    std::int64_t thickness = divide_up(size, samples_suffice ? 1 : ranges * threads_);
    if (!direct_) {
      const std::int64_t voxels = shape_.size[0] * shape_.size[1] * shape_.size[2];
      const std::int64_t slice =
          std::max<std::int64_t>(voxels / std::max<std::int64_t>(size, 1) * out_.shape[1], 1);
      thickness = std::min(thickness, std::max<std::int64_t>(kCopyVoxels / slice, 1));
    }
    return std::max<std::int64_t>(thickness, 1);
  }

  std::vector<Bounds> find_bounds() const {
    const Grid& grid = locations_.grid;
    std::vector<Bounds> bounds(out_.shape[0] * grid.blocks);
    for_each_block(out_.shape[0], grid, threads_, [&](std::int64_t sample, const Block& block) {
      alignas(64) T coordinates[kBlock];
      T lowest;
      T highest;
      locations_.load_axis(sample, block, axis_, coordinates);
      select_convert_rows<T>().range(coordinates, block.count, &lowest, &highest);
      bounds[sample * grid.blocks + block.index] = bounds_of(lowest, highest);
    });
    return bounds;
  }

  Bounds bounds_of(T lowest, T highest) const {
    const std::int64_t size = shape_.size[axis_];
    const T last = static_cast<T>(size - 1);
    const T outside = static_cast<T>(reach_.outside);
    if (!(lowest <= highest)) {
      return {0, -1};  // nothing but NaN
    }
    if (padding_ == Padding::reflection && (lowest < T(0) || highest > last)) {
      return {0, size - 1};
    }
    if (padding_ == Padding::zeros && (highest <= -outside || lowest >= last + outside)) {
      return {0, -1};
    }
    const T low = std::min(std::max(lowest, T(0)), last);
    const T high = std::min(std::max(highest, T(0)), last);
    return {std::max<std::int64_t>(static_cast<std::int64_t>(low) - reach_.below, 0),
            std::min<std::int64_t>(static_cast<std::int64_t>(high) + reach_.above, size - 1)};
  }

  template <typename Visit>
  void add_in_place(std::int64_t sample, const OwnedRange& owned, bool clear,
                    const Visit& visit_blocks) const {
    T* base = out_.as<T>() + sample * out_.strides[0];
    for (std::int64_t channel = 0; clear && channel < out_.shape[1]; ++channel) {
      for_each_run(owned, [&](std::int64_t offset, std::int64_t length) {
        std::fill_n(base + channel * out_.strides[1] + offset, length, T(0));
      });
    }
    visit_blocks(OwnedImage<T>{owned, {base, out_.strides[1], out_.shape[1]}, shape_});
  }

  // The copy has the image's axes, the owner axis shortened.
  template <typename Visit>
  void add_through_copy(std::int64_t sample, const OwnedRange& owned,
                        const Visit& visit_blocks) const {
    ImageShape copy = shape_;
    std::int64_t stride = 1;
    for (int axis = copy.ndim - 1; axis >= 0; --axis) {
      copy.stride[axis] = stride;
      stride *= axis == axis_ ? owned.last - owned.first : copy.size[axis];
    }
    std::vector<T> sums(out_.shape[1] * stride, T(0));
    T* base = sums.data() - owned.first * copy.stride[axis_];
    visit_blocks(OwnedImage<T>{owned, {base, stride, out_.shape[1]}, copy});
    const auto store = select_convert_rows<T>().store[static_cast<int>(out_.dtype)];
    for (std::int64_t channel = 0; channel < out_.shape[1]; ++channel) {
      const T* source = sums.data() + channel * stride;
      const std::int64_t target = sample * out_.strides[0] + channel * out_.strides[1];
      for_each_run(owned, [&](std::int64_t offset, std::int64_t length) {
        for (std::int64_t start = 0; start < length; start += kBlock) {
          const int n = static_cast<int>(std::min<std::int64_t>(kBlock, length - start));
          store(source + start, n, mutable_element(out_, target + offset + start));
        }
        source += length;
      });
    }
  }

  // Calls visit(offset, length) for the contiguous runs of a channel that the range owns.
  template <typename Visit>
  void for_each_run(const OwnedRange& owned, const Visit& visit) const {
    std::int64_t outer = 1;
    std::int64_t slice = 1;
    for (int axis = 0; axis < shape_.ndim; ++axis) {
      outer *= axis < owned.axis ? shape_.size[axis] : 1;
      slice *= axis > owned.axis ? shape_.size[axis] : 1;
    }
    for (std::int64_t index = 0; index < outer; ++index) {
      visit((index * shape_.size[owned.axis] + owned.first) * slice,
            (owned.last - owned.first) * slice);
    }
  }

  const Tensor& out_;
  const Locations<T>& locations_;
  const Padding padding_;
  const Reach reach_;
  const ImageShape shape_;
  const int threads_;
  const bool direct_;  // the gradient is stored in the type it is summed in
  const int axis_;
  const std::int64_t thickness_;
};

}  // namespace plasticine
