#include "warp_double_backward.h"

#include <vector>

#include "../common/parallel.h"
#include "warp_affine_sums.h"
#include "warp_blocks.h"
#include "warp_double_backward_careful.h"
#include "warp_double_backward_rows.h"

namespace plasticine {

namespace {

// 16-bit results are summed in float32, in slabs of at most this many voxels (but one slice).
constexpr std::int64_t kSlabVoxels = std::int64_t{1} << 20;

// Two passes over the output. The first computes what each voxel receives by itself, and notes
// which slices of the image its block can reach; the second, for to_image, adds to ranges of
// slices, each owned by one task: deterministic, and without a copy of the image per thread.
template <typename T>
class DoubleBackward {
 public:
  explicit DoubleBackward(const WarpDoubleBackward& call)
      : call_(call),
        directed_(call.field_direction.data != nullptr),
        locations_(call.displacement, call.affine, 1.0),
        directions_(directed_ ? call.field_direction : call.displacement, call.affine_direction,
                    1.0),
        shape_(spatial_shape(call.image)),
        channels_(call.image.shape[1]),
        samples_(call.displacement.shape[0]),
        rows_(select_double_backward_rows<T>(call.image.dtype)),
        axis_(owner_axis()),
        reach_(call.to_image.data != nullptr ? samples_ * locations_.grid.blocks : 0),
        affine_sums_(call.to_affine, locations_.grid) {}

  void run() {
    const Grid& grid = locations_.grid;
    parallel_for(samples_ * grid.tasks, kTaskGrain, call_.threads, [&](std::int64_t task) {
      grid.for_each_block(task % grid.tasks, [&](const Block& block) { run_block(task, block); });
    });
    affine_sums_.store();
    if (call_.to_image.data != nullptr) {
      scatter();
    }
  }

 private:
  struct Reach {
    std::int64_t first;
    std::int64_t last;  // inclusive
  };

  struct Voxels {
    alignas(64) T coordinates[3 * kBlock];
    alignas(64) T direction[3 * kBlock];
    SlopedCells<T> cells;
  };

  void locate(std::int64_t sample, const Block& block, Voxels* voxels) const {
    locations_.load_displacement(sample, block, voxels->coordinates);
    locations_.coordinates(sample, block, voxels->coordinates, voxels->coordinates);
    rows_.locate(voxels->coordinates, shape_, call_.padding, block.count, &voxels->cells);
    if (!directed_) {
      return;
    }
    directions_.load_displacement(sample, block, voxels->direction);
    if (call_.affine_direction.data != nullptr) {
      directions_.coordinates(sample, block, voxels->direction, voxels->direction);
    }
  }

  void run_block(std::int64_t task, const Block& block) {
    const std::int64_t sample = task / locations_.grid.tasks;
    Voxels voxels;
    alignas(64) T gradient[3 * kBlock];
    locate(sample, block, &voxels);
    if (!reach_.empty()) {
      reach_[sample * locations_.grid.blocks + block.index] = reach(voxels.cells, block.count);
    }
    if (!differentiate<false>(sample, block, voxels, gradient)) {
      differentiate<true>(sample, block, voxels, gradient);
    }
    affine_sums_.add(task, block, gradient);
    for (int axis = 0; call_.to_displacement.data != nullptr && axis < shape_.ndim; ++axis) {
      store(call_.to_displacement, sample, axis, block, gradient + axis * kBlock);
    }
  }

  // Stores to_grad_out and fills gradient. False where a NaN came out without careful arithmetic.
  template <bool careful>
  bool differentiate(std::int64_t sample, const Block& block, const Voxels& voxels,
                     T* gradient) const {
    alignas(64) T grad[kBlock];
    alignas(64) T value[kBlock];
    const int n = block.count;
    bool nan = false;
    std::fill_n(gradient, 3 * kBlock, T(0));
    for (std::int64_t channel = 0; channel < channels_ && !nan; ++channel) {
      load_block(call_.grad_out, locations_.grid, sample, channel, block, grad);
      if (call_.add && directed_) {
        load_block(call_.field_direction, locations_.grid, sample, channel, block, value);
      } else {
        std::fill_n(value, n, T(0));
      }
      if (call_.image_direction.data != nullptr) {
        add_order<careful>(call_.image_direction, sample, channel, voxels, n, grad, nullptr, value,
                           gradient);
      }
      if (directed_) {
        add_order<careful>(call_.image, sample, channel, voxels, n, grad, voxels.direction, value,
                           gradient);
      }
      if (call_.to_grad_out.data != nullptr) {
        store(call_.to_grad_out, sample, channel, block, value);
      }
      nan = !careful && select_convert_rows<T>().has_nan(value, n);
    }
    for (int axis = 0; axis < shape_.ndim; ++axis) {
      nan = nan || (!careful && select_convert_rows<T>().has_nan(gradient + axis * kBlock, n));
    }
    return !nan;
  }

  template <bool careful>
  void add_order(const Tensor& image, std::int64_t sample, std::int64_t channel,
                 const Voxels& voxels, int n, const T* grad, const T* direction, T* value,
                 T* gradient) const {
    const void* source = element(image, sample * image.strides[0] + channel * image.strides[1]);
    const ImageShape shape = spatial_shape(image);
    if constexpr (careful) {
      with_stored<T>(image.dtype, [&](auto stored) {
        using Stored = decltype(stored);
        const auto order =
            shape.ndim == 2 ? careful_order<2, Stored, T> : careful_order<3, Stored, T>;
        order(source, shape, call_.padding, voxels.coordinates, n, grad, direction, value,
              gradient);
      });
    } else if (direction != nullptr) {
      rows_.second_order(source, shape, voxels.cells, n, grad, direction, value, gradient);
    } else {
      rows_.first_order(source, shape, voxels.cells, n, grad, value, gradient);
    }
  }

  static void store(const Tensor& out, std::int64_t sample, std::int64_t channel,
                    const Block& block, const T* values) {
    select_convert_rows<T>().store[static_cast<int>(out.dtype)](
        values, block.count, block_target(out, sample, channel, block));
  }

  // The slices that the cells of a block touch.
  Reach reach(const SlopedCells<T>& cells, int n) const {
    const std::int64_t* position = cells.position[axis_];
    Reach reach = {position[0], position[0]};
    for (int j = 1; j < n; ++j) {
      reach.first = std::min(reach.first, position[j]);
      reach.last = std::max(reach.last, position[j]);
    }
    reach.last += 1;
    return reach;
  }

  // The slowest axis that has a range for every thread, else the longest, never the last: the rows
  // of a block run along that one.
  int owner_axis() const {
    int best = 0;
    for (int axis = 0; axis < shape_.ndim - 1; ++axis) {
      if (shape_.size[axis] >= 2 * call_.threads) {
        return axis;
      }
      best = shape_.size[axis] > shape_.size[best] ? axis : best;
    }
    return best;
  }

  // Whether the sums are made in the result's own memory.
  bool in_place() const {
    return element_size(call_.to_image.dtype) == static_cast<std::int64_t>(sizeof(T));
  }

  // Two ranges a thread even out their loads; more would visit more blocks twice.
  std::int64_t range_thickness() const {
    const std::int64_t size = shape_.size[axis_];
    std::int64_t thickness = divide_up(size, call_.threads > 1 ? 2 * call_.threads : 1);
    if (!in_place()) {
      const std::int64_t voxels = shape_.size[0] * shape_.size[1] * shape_.size[2];
      const std::int64_t slice =
          std::max<std::int64_t>(voxels / std::max<std::int64_t>(size, 1) * channels_, 1);
      thickness = std::min(thickness, std::max<std::int64_t>(kSlabVoxels / slice, 1));
    }
    return std::max<std::int64_t>(thickness, 1);
  }

  void scatter() const {
    const std::int64_t thickness = range_thickness();
    const std::int64_t size = shape_.size[axis_];
    const std::int64_t ranges = divide_up(size, thickness);
    parallel_for(samples_ * ranges, 1, call_.threads, [&](std::int64_t task) {
      const std::int64_t first = task % ranges * thickness;
      scatter_range(task / ranges, {axis_, first, std::min(first + thickness, size)});
    });
  }

  void scatter_range(std::int64_t sample, const OwnedRange& owned) const {
    const Tensor& out = call_.to_image;
    ImageShape target = spatial_shape(out);
    if (in_place()) {
      T* base = out.as<T>() + sample * out.strides[0];
      for (std::int64_t channel = 0; channel < channels_; ++channel) {
        for_each_run(owned, [&](std::int64_t offset, std::int64_t length) {
          std::fill_n(base + channel * out.strides[1] + offset, length, T(0));
        });
      }
      scatter_blocks(sample, owned, base, out.strides[1], target);
      return;
    }
    // A slab with the image's axes, the owner axis shortened; the base is shifted because offsets
    // are formed from indices in the image.
    std::int64_t stride = 1;
    for (int axis = target.ndim - 1; axis >= 0; --axis) {
      target.stride[axis] = stride;
      stride *= axis == axis_ ? owned.last - owned.first : target.size[axis];
    }
    std::vector<T> sums(channels_ * stride, T(0));
    const std::int64_t shift = owned.first * target.stride[axis_];
    scatter_blocks(sample, owned, sums.data() - shift, stride, target);
    const T* source = sums.data();
    for (std::int64_t channel = 0; channel < channels_; ++channel) {
      const std::int64_t start = sample * out.strides[0] + channel * out.strides[1];
      for_each_run(owned, [&](std::int64_t offset, std::int64_t length) {
        for (std::int64_t done = 0; done < length; done += kBlock) {
          const int n = static_cast<int>(std::min<std::int64_t>(kBlock, length - done));
          select_convert_rows<T>().store[static_cast<int>(out.dtype)](
              source + done, n, mutable_element(out, start + offset + done));
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
      outer *= axis < axis_ ? shape_.size[axis] : 1;
      slice *= axis > axis_ ? shape_.size[axis] : 1;
    }
    for (std::int64_t index = 0; index < outer; ++index) {
      visit((index * shape_.size[axis_] + owned.first) * slice, (owned.last - owned.first) * slice);
    }
  }

  void scatter_blocks(std::int64_t sample, const OwnedRange& owned, T* base,
                      std::int64_t channel_stride, const ImageShape& target) const {
    const Grid& grid = locations_.grid;
    for (std::int64_t index = 0; index < grid.blocks; ++index) {
      const Reach& reach = reach_[sample * grid.blocks + index];
      if (reach.first < owned.last && reach.last >= owned.first) {
        scatter_block(sample, grid.block(index), owned, base, channel_stride, target);
      }
    }
  }

  void scatter_block(std::int64_t sample, const Block& block, const OwnedRange& owned, T* base,
                     std::int64_t channel_stride, const ImageShape& target) const {
    Voxels voxels;
    alignas(64) T weights[8 * kBlock];
    alignas(64) T grad[kBlock];
    const int n = block.count;
    locate(sample, block, &voxels);
    const bool finite =
        rows_.corner_weights(voxels.cells, shape_.ndim, n, voxels.direction, weights);
    for (std::int64_t channel = 0; channel < channels_; ++channel) {
      load_block(call_.grad_out, locations_.grid, sample, channel, block, grad);
      T* image = base + channel * channel_stride;
      if (!finite || !rows_.scatter(image, target, voxels.cells, n, grad, weights, owned)) {
        const auto careful =
            shape_.ndim == 2 ? careful_directed_scatter<2, T> : careful_directed_scatter<3, T>;
        careful(image, target, call_.padding, voxels.coordinates, n, grad, voxels.direction, owned);
      }
    }
  }

  const WarpDoubleBackward& call_;
  const bool directed_;
  const Locations<T> locations_;
  const Locations<T> directions_;
  const ImageShape shape_;
  const std::int64_t channels_;
  const std::int64_t samples_;
  const DoubleBackwardRows<T>& rows_;
  const int axis_;
  std::vector<Reach> reach_;
  AffineSums<T> affine_sums_;
};

}  // namespace

void warp_double_backward(const WarpDoubleBackward& call) {
  if (call.image.dtype == DType::float64) {
    DoubleBackward<double>(call).run();
  } else {
    DoubleBackward<float>(call).run();
  }
}

}  // namespace plasticine
