#include "warp/cpu/scatter.h"

#include <cmath>
#include <memory>
#include <vector>

#include "core/cpu/parallel.h"
#include "warp/cpu/blocks.h"
#include "warp/cpu/one_pass.h"
#include "warp/cpu/scalar.h"

namespace plasticine {

namespace {

// 16-bit gradients are summed in float32, in slabs of at most this many voxels (but one slice).
constexpr std::int64_t kSlabVoxels = std::int64_t{1} << 20;

template <typename T>
class Scatter {
 public:
  Scatter(const WarpBackward& call, const BlockWork& first)
      : call_(call),
        first_(first),
        locations_(call.displacement, Tensor(call.affine), call.displacement_scale),
        shape_(spatial_shape(call.grad_image)),
        channels_(call.image.shape[1]),
        threads_(enough_work() ? call.threads : 1),
        direct_(element_size(call.image.dtype) == static_cast<std::int64_t>(sizeof(T))),
        joined_(is_joined_pass<T>(call)),
        careful_(call, locations_, shape_),
        axis_(owner_axis()),
        thickness_(range_thickness()) {}

  void run() {
    const std::int64_t samples = call_.displacement.shape[0];
    const std::int64_t ranges =
        std::max<std::int64_t>(divide_up(shape_.size[axis_], thickness_), 1);
    if (ranges > 1) {
      find_bounds(samples);
    }
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
  struct Bounds {
    std::int64_t first;
    std::int64_t last;  // inclusive
  };

  // Whether there is more to add than waking another thread costs.
  bool enough_work() const {
    constexpr std::int64_t kVoxels = 8192;
    return locations_.grid.voxels * channels_ * call_.displacement.shape[0] >= kVoxels;
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

  std::int64_t range_thickness() const {
    const std::int64_t size = shape_.size[axis_];
    // As few ranges as keep the threads busy: blocks at their borders are visited twice.
    const std::int64_t samples = call_.displacement.shape[0];
    const bool samples_suffice = samples % threads_ == 0 || samples >= 4 * threads_;
    std::int64_t thickness = divide_up(size, samples_suffice ? 1 : threads_);
    if (!direct_) {
      const std::int64_t slice =
          std::max<std::int64_t>(voxels() / std::max<std::int64_t>(size, 1) * channels_, 1);
      thickness = std::min(thickness, std::max<std::int64_t>(kSlabVoxels / slice, 1));
    }
    return std::max<std::int64_t>(thickness, 1);
  }

  std::int64_t voxels() const { return shape_.size[0] * shape_.size[1] * shape_.size[2]; }

  // The slices that each block may reach.
  void find_bounds(std::int64_t samples) {
    const Grid& grid = locations_.grid;
    bounds_.resize(samples * grid.blocks);
    parallel_for(samples * grid.tasks, kTaskGrain, call_.threads, [&](std::int64_t task) {
      const std::int64_t sample = task / grid.tasks;
      grid.for_each_block(task % grid.tasks, [&](const Block& block) {
        alignas(64) T coordinates[kBlock];
        T lowest;
        T highest;
        locations_.load_axis(sample, block, axis_, coordinates);
        select_convert_rows<T>().range(coordinates, block.count, &lowest, &highest);
        bounds_[sample * grid.blocks + block.index] = reach(lowest, highest);
      });
    });
  }

  Bounds bounds_of(std::int64_t sample, std::int64_t block) const {
    return bounds_.empty() ? Bounds{0, shape_.size[axis_] - 1}
                           : bounds_[sample * locations_.grid.blocks + block];
  }

  // Whether this is the one range that does what is done once for a block.
  static bool is_first(const Bounds& bounds, const OwnedRange& owned) {
    const std::int64_t position = std::max<std::int64_t>(bounds.first, 0);
    return position >= owned.first && position < owned.last;
  }

  Bounds reach(T lowest, T highest) const {
    const std::int64_t size = shape_.size[axis_];
    const T last = static_cast<T>(size - 1);
    if (!(lowest <= highest)) {
      return {0, -1};  // nothing but NaN
    }
    if (call_.padding == Padding::reflection && (lowest < T(0) || highest > last)) {
      return {0, size - 1};
    }
    if (call_.padding == Padding::zeros && (highest <= T(-1) || lowest >= last + T(1))) {
      return {0, -1};
    }
    const T low = std::min(std::max(lowest, T(0)), last);
    const T high = std::min(std::max(highest, T(0)), last);
    // One slice to spare on both sides: for rounding, and because a cell at the border is moved in.
    return {std::max<std::int64_t>(static_cast<std::int64_t>(low) - 1, 0),
            std::min<std::int64_t>(static_cast<std::int64_t>(high) + 1, size - 1)};
  }

  void scatter_in_place(std::int64_t sample, const OwnedRange& owned) const {
    const Tensor& out = call_.grad_image;
    T* base = out.as<T>() + sample * out.strides[0];
    if (!call_.accumulate || joined_) {
      for (std::int64_t channel = 0; channel < channels_; ++channel) {
        for_each_run(owned, shape_.stride, [&](std::int64_t offset, std::int64_t length) {
          std::fill_n(base + channel * out.strides[1] + offset, length, T(0));
        });
      }
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
      for_each_run(owned, shape_.stride, [&](std::int64_t offset, std::int64_t length) {
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
  void for_each_run(const OwnedRange& owned, const std::int64_t* strides,
                    const Visit& visit) const {
    std::int64_t outer = 1;
    for (int axis = 0; axis < owned.axis; ++axis) {
      outer *= shape_.size[axis];
    }
    const std::int64_t slice = strides[owned.axis];
    for (std::int64_t index = 0; index < outer; ++index) {
      visit((index * shape_.size[owned.axis] + owned.first) * slice,
            (owned.last - owned.first) * slice);
    }
  }

  void scatter_blocks(std::int64_t sample, const OwnedRange& owned, T* base,
                      std::int64_t channel_stride, const ImageShape& target) const {
    const auto& rows = select_warp_rows<T>(call_.image.dtype, is_wide(target));
    const Grid& grid = locations_.grid;
    const bool whole_rows =
        rows.scatter_row != nullptr && call_.mode == Mode::linear && has_rows(target, grid);
    const OnePass<T> one_pass(call_, locations_, careful_, shape_, target, base, channel_stride);
    const bool at_once = first_ != nullptr && one_pass.suffices();
    for (std::int64_t index = 0; index < grid.blocks; ++index) {
      const Bounds bounds = bounds_of(sample, index);
      const bool reaches = bounds.first < owned.last && bounds.last >= owned.first;
      if (joined_) {
        one_pass.add(sample, grid.block(index), owned, reaches);
        continue;
      }
      if (first_ != nullptr && is_first(bounds, owned)) {
        if (at_once && reaches) {
          if (!one_pass.store(sample, grid.block(index), owned)) {
            first_(sample, grid.block(index));
          }
          continue;
        }
        first_(sample, grid.block(index));
      }
      if (reaches) {
        if (whole_rows) {
          scatter_rows(rows, sample, grid.block(index), owned, base, channel_stride, target);
        } else {
          scatter_block(rows, sample, grid.block(index), owned, base, channel_stride, target);
        }
      }
    }
  }

  void scatter_rows(const WarpRows<T>& rows, std::int64_t sample, const Block& block,
                    const OwnedRange& owned, T* base, std::int64_t channel_stride,
                    const ImageShape& target) const {
    alignas(64) T buffer[kScatterChannels * kBlock];
    for (std::int64_t first = 0; first < channels_; first += kScatterChannels) {
      const Channels<T*> image = {base + first * channel_stride, channel_stride,
                                  std::min<std::int64_t>(kScatterChannels, channels_ - first)};
      const T* values[kScatterChannels];
      for (std::int64_t c = 0; c < image.count; ++c) {
        values[c] = block_values(call_.grad_out, locations_.grid, sample, first + c, block,
                                 buffer + c * kBlock);
      }
      locations_.for_each_piece(sample, block, [&](const RowPiece<T>& piece, int start) {
        const T* grad[kScatterChannels];
        for (std::int64_t c = 0; c < image.count; ++c) {
          grad[c] = values[c] + start;
        }
        if (!rows.scatter_row(piece, target, call_.padding, grad, static_cast<T>(call_.scale),
                              image, owned)) {
          careful_.scatter(sample, block, start, piece.n, grad, image, owned, target);
        }
      });
    }
  }

  void scatter_block(const WarpRows<T>& rows, std::int64_t sample, const Block& block,
                     const OwnedRange& owned, T* base, std::int64_t channel_stride,
                     const ImageShape& target) const {
    alignas(64) T coordinates[3 * kBlock];
    alignas(64) T grad[kBlock];
    CellStorage<T> cells;
    const int n = block.count;
    locations_.load_displacement(sample, block, coordinates);
    locations_.coordinates(sample, block, coordinates, coordinates);
    const bool linear = call_.mode == Mode::linear;
    if (linear) {
      rows.locate(coordinates, target, call_.padding, n, false, &cells);
    } else {
      rows.locate_nearest(coordinates, target, call_.padding, n, &cells);
    }
    for (std::int64_t channel = 0; channel < channels_; ++channel) {
      load_block(call_.grad_out, locations_.grid, sample, channel, block, grad);
      careful_.scale_gradient(n, grad);
      T* image = base + channel * channel_stride;
      if (!linear) {
        rows.scatter_nearest(image, cells, n, grad, owned);
      } else if (!rows.scatter(image, target, cells, n, grad, owned)) {
        const auto careful = shape_.ndim == 2 ? careful_scatter<2, T> : careful_scatter<3, T>;
        careful(image, target, call_.padding, coordinates, n, grad, owned);
      }
    }
  }

  const WarpBackward& call_;
  const BlockWork& first_;
  const Locations<T> locations_;
  const ImageShape shape_;
  const std::int64_t channels_;
  const int threads_;
  const bool direct_;  // the gradient is stored in the type it is summed in
  const bool joined_;
  const CarefulPieces<T> careful_;
  const int axis_;
  const std::int64_t thickness_;
  std::vector<Bounds> bounds_;
};

}  // namespace

template <typename T>
bool is_joined_pass(const WarpBackward& call) {
  return call.accumulate && call.grad_image.data != nullptr &&
         call.grad_image.data == call.grad_displacement.data && call.grad_affine.data == nullptr &&
         OnePass<T>::suffices(call, spatial_shape(call.grad_image));
}

template <typename T>
void scatter_to_image(const WarpBackward& call, const BlockWork& first) {
  Scatter<T>(call, first).run();
}

template bool is_joined_pass<float>(const WarpBackward& call);
template bool is_joined_pass<double>(const WarpBackward& call);
template void scatter_to_image<float>(const WarpBackward& call, const BlockWork& first);
template void scatter_to_image<double>(const WarpBackward& call, const BlockWork& first);

}  // namespace plasticine
