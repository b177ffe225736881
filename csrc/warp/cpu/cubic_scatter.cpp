#include <memory>
#include <vector>

#include "core/cpu/parallel.h"
#include "core/cpu/without.h"
#include "warp/cpu/blocks.h"
#include "warp/cpu/cubic.h"
#include "warp/rows/cubic.h"

namespace plasticine {

namespace {

// 16-bit gradients are summed in float32, in slabs of at most this many voxels (but one slice).
constexpr std::int64_t kSlabVoxels = std::int64_t{1} << 20;

// As in scatter.cpp, every task owns a range of one image axis and visits, in the output's
// order, the blocks that reach into it. Many voxels of a block share their neighbours, and the same
// block is located again for every range that it reaches: ranges are few.
template <typename T>
class CubicScatter {
 public:
  explicit CubicScatter(const WarpBackward& call)
      : call_(call),
        locations_(call.displacement, call.affine, 1.0),
        shape_(spatial_shape(call.grad_image)),
        channels_(call.image.shape[1]),
        threads_(call.threads),
        direct_(element_size(call.image.dtype) == static_cast<std::int64_t>(sizeof(T))),
        axis_(owner_axis()),
        thickness_(range_thickness()) {}

  void run() {
    const std::int64_t samples = call_.displacement.shape[0];
    find_reaches(samples);
    const std::int64_t ranges = divide_up(shape_.size[axis_], thickness_);
    parallel_for(samples * ranges, 1, threads_, [&](std::int64_t task) {
      const std::int64_t first = task % ranges * thickness_;
      const OwnedRange owned = {axis_, first, std::min(first + thickness_, shape_.size[axis_])};
      if (direct_) {
        scatter_in_place(task / ranges, owned);
      } else {
        scatter_through_slab(task / ranges, owned);
      }
    });
  }

 private:
  struct Reach {
    std::int64_t first;
    std::int64_t last;  // inclusive
  };

  // The slowest axis that has a range for every thread, else the longer, never the last: lines run
  // along that one.
  int owner_axis() const {
    if (shape_.ndim == 2 || shape_.size[0] >= 8 * threads_ || shape_.size[0] >= shape_.size[1]) {
      return 0;
    }
    return 1;
  }

  std::int64_t range_thickness() const {
    const std::int64_t size = shape_.size[axis_];
    // Two ranges a thread even out their loads; more would visit more blocks twice.
    std::int64_t thickness = divide_up(size, threads_ > 1 ? 2 * threads_ : 1);
    if (!direct_) {
      const std::int64_t voxels = shape_.size[0] * shape_.size[1] * shape_.size[2];
      const std::int64_t slice =
          std::max<std::int64_t>(voxels / std::max<std::int64_t>(size, 1) * channels_, 1);
      thickness = std::min(thickness, std::max<std::int64_t>(kSlabVoxels / slice, 1));
    }
    return std::max<std::int64_t>(thickness, 1);
  }

  // The slices that each block may reach.
  void find_reaches(std::int64_t samples) {
    const Grid& grid = locations_.grid;
    reaches_.resize(samples * grid.blocks);
    parallel_for(samples * grid.tasks, kTaskGrain, threads_, [&](std::int64_t task) {
      const std::int64_t sample = task / grid.tasks;
      grid.for_each_block(task % grid.tasks, [&](const Block& block) {
        alignas(64) T coordinates[kBlock];
        T lowest;
        T highest;
        locations_.load_axis(sample, block, axis_, coordinates);
        select_convert_rows<T>().range(coordinates, block.count, &lowest, &highest);
        reaches_[sample * grid.blocks + block.index] = reach(lowest, highest);
      });
    });
  }

  Reach reach(T lowest, T highest) const {
    const std::int64_t size = shape_.size[axis_];
    const T last = static_cast<T>(size - 1);
    if (!(lowest <= highest)) {
      return {0, -1};  // nothing but NaN
    }
    if (call_.padding == Padding::reflection && (lowest < T(0) || highest > last)) {
      return {0, size - 1};
    }
    if (call_.padding == Padding::zeros && (highest <= T(-2) || lowest >= last + T(2))) {
      return {0, -1};
    }
    const T low = std::min(std::max(lowest, T(0)), last);
    const T high = std::min(std::max(highest, T(0)), last);
    // The outer taps, and one slice to spare for rounding.
    return {std::max<std::int64_t>(static_cast<std::int64_t>(low) - 2, 0),
            std::min<std::int64_t>(static_cast<std::int64_t>(high) + 3, size - 1)};
  }

  void scatter_in_place(std::int64_t sample, const OwnedRange& owned) const {
    const Tensor& out = call_.grad_image;
    T* base = out.as<T>() + sample * out.strides[0];
    for (std::int64_t channel = 0; channel < channels_; ++channel) {
      for_each_run(owned, [&](std::int64_t offset, std::int64_t length) {
        std::fill_n(base + channel * out.strides[1] + offset, length, T(0));
      });
    }
    scatter_blocks(sample, owned, base, out.strides[1], shape_);
  }

  void scatter_through_slab(std::int64_t sample, const OwnedRange& owned) const {
    // The slab has the image's axes, the owner axis shortened.
    ImageShape slab = shape_;
    std::int64_t stride = 1;
    for (int axis = slab.ndim - 1; axis >= 0; --axis) {
      slab.stride[axis] = stride;
      stride *= axis == axis_ ? owned.last - owned.first : slab.size[axis];
    }
    std::vector<T> sums(channels_ * stride, T(0));
    // Offsets are formed from indices in the image.
    const std::int64_t shift = owned.first * slab.stride[axis_];
    scatter_blocks(sample, owned, sums.data() - shift, stride, slab);
    const Tensor& out = call_.grad_image;
    const auto store = select_convert_rows<T>().store[static_cast<int>(out.dtype)];
    for (std::int64_t channel = 0; channel < channels_; ++channel) {
      const T* source = sums.data() + channel * stride;
      const std::int64_t target = sample * out.strides[0] + channel * out.strides[1];
      for_each_run(owned, [&](std::int64_t offset, std::int64_t length) {
        for (std::int64_t start = 0; start < length; start += kBlock) {
          const int n = static_cast<int>(std::min<std::int64_t>(kBlock, length - start));
          store(source + start, n, mutable_element(out, target + offset + start));
        }
        source += length;
      });
    }
  }

  // Calls visit(offset, length) for the contiguous runs of a channel that the range owns.
  template <typename Visit>
  void for_each_run(const OwnedRange& owned, const Visit& visit) const {
    std::int64_t outer = 1;
    for (int axis = 0; axis < owned.axis; ++axis) {
      outer *= shape_.size[axis];
    }
    std::int64_t slice = 1;
    for (int axis = owned.axis + 1; axis < shape_.ndim; ++axis) {
      slice *= shape_.size[axis];
    }
    for (std::int64_t index = 0; index < outer; ++index) {
      visit((index * shape_.size[owned.axis] + owned.first) * slice,
            (owned.last - owned.first) * slice);
    }
  }

  void scatter_blocks(std::int64_t sample, const OwnedRange& owned, T* base,
                      std::int64_t channel_stride, const ImageShape& target) const {
    const auto& rows = select_warp_cubic_rows<T>(call_.image.dtype, is_wide(target));
    const Grid& grid = locations_.grid;
    for (std::int64_t index = 0; index < grid.blocks; ++index) {
      const Reach& reach = reaches_[sample * grid.blocks + index];
      if (reach.first < owned.last && reach.last >= owned.first) {
        scatter_block(rows, sample, grid.block(index), owned, base, channel_stride, target);
      }
    }
  }

  void scatter_block(const WarpCubicRows<T>& rows, std::int64_t sample, const Block& block,
                     const OwnedRange& owned, T* base, std::int64_t channel_stride,
                     const ImageShape& target) const {
    alignas(64) T coordinates[3 * kBlock];
    alignas(64) T grad[kBlock];
    CubicCellStorage<T> cells;
    const int n = block.count;
    locations_.load_displacement(sample, block, coordinates);
    locations_.coordinates(sample, block, coordinates, coordinates);
    bool fold = !is_without("fold");
    rows.locate(coordinates, target, call_.mode, call_.padding, fold, n, false, &cells);
    for (std::int64_t channel = 0; channel < channels_; ++channel) {
      load_block(call_.grad_out, locations_.grid, sample, channel, block, grad);
      if (fold && !is_finite(grad, n)) {
        fold = false;
        rows.locate(coordinates, target, call_.mode, call_.padding, fold, n, false, &cells);
      }
      rows.scatter(base + channel * channel_stride, target, call_.padding, cells, n, grad, owned);
    }
  }

  static bool is_finite(const T* values, int n) {
    T sum = T(0);
    for (int j = 0; j < n; ++j) {
      sum += values[j] * T(0);
    }
    return sum == T(0);
  }

  const WarpBackward& call_;
  const Locations<T> locations_;
  const ImageShape shape_;
  const std::int64_t channels_;
  const int threads_;
  const bool direct_;  // the gradient is stored in the type it is summed in
  const int axis_;
  const std::int64_t thickness_;
  std::vector<Reach> reaches_;
};

}  // namespace

template <typename T>
void scatter_cubic_to_image(const WarpBackward& call) {
  CubicScatter<T>(call).run();
}

template void scatter_cubic_to_image<float>(const WarpBackward& call);
template void scatter_cubic_to_image<double>(const WarpBackward& call);

}  // namespace plasticine
