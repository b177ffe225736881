#include <algorithm>
#include <cstdint>

#include "core/cpu/huge_pages.h"
#include "core/cpu/owned_scatter.h"
#include "warp/cpu/affine_sums.h"
#include "warp/cpu/cubic.h"
#include "warp/cpu/scalar.h"
#include "warp/cpu/warp.h"
#include "warp/rows/linear.h"

namespace plasticine {

namespace {

// The gradients of the linear and the nearest warp; T is the accumulator type.
template <typename T>
class Backward {
 public:
  explicit Backward(const WarpBackward& call)
      : call_(call),
        locations_(call.displacement, call.affine, call.displacement_scale),
        shape_(spatial_shape(call.image)),
        rows_(select_warp_rows<T>(call.image.dtype, is_wide(shape_))),
        linear_(call.mode == Mode::linear),
        in_place_(element_size(call.image.dtype) == static_cast<std::int64_t>(sizeof(T))),
        gradient_rows_(linear_ && rows_.gradient_row != nullptr &&
                       has_rows(shape_, locations_.grid) && is_dense(call.grad_out)) {}

  void run() const {
    const bool field = call_.grad_displacement.data != nullptr;
    const bool affine = call_.grad_affine.data != nullptr;
    const bool sum = call_.accumulate && call_.grad_image.data == call_.grad_displacement.data;
    if (call_.grad_image.data == nullptr) {
      differentiate();
    } else if (sum && !affine && has_one_pass(spatial_shape(call_.grad_image))) {
      scatter(true, [&](std::int64_t sample, std::int64_t index, const OwnedImage<T>& image,
                        const Role& role) {
        add_sum(sample, locations_.grid.block(index), image, role.reaches);
      });
    } else if (field && !affine && !call_.accumulate) {
      // Block by block, while what both gradients read is in the cache.
      scatter(true, [&](std::int64_t sample, std::int64_t index, const OwnedImage<T>& image,
                        const Role& role) {
        const bool at_once = role.first && role.reaches && has_one_pass(image.shape);
        if (at_once && store_both(sample, locations_.grid.block(index), image)) {
          return;
        }
        if (role.first) {
          differentiate_block(sample, locations_.grid.block(index), nullptr);
        }
        if (role.reaches && !at_once) {
          scatter_block(sample, locations_.grid.block(index), image);
        }
      });
    } else {
      if (field || affine) {
        differentiate();
      }
      scatter(!call_.accumulate, [&](std::int64_t sample, std::int64_t index,
                                     const OwnedImage<T>& image, const Role& role) {
        if (role.reaches) {
          scatter_block(sample, locations_.grid.block(index), image);
        }
      });
    }
  }

 private:
  // Calls visit(row, start, grad) for each row in the block; grad: the output's gradient there, of
  // `count` channels from `first` on.
  template <typename Visit>
  void for_each_row(std::int64_t sample, const Block& block, std::int64_t first, std::int64_t count,
                    const Visit& visit) const {
    alignas(64) T buffer[kScatterChannels * kBlock];
    const T* values[kScatterChannels];
    for (std::int64_t c = 0; c < count; ++c) {
      values[c] = block_values(call_.grad_out, locations_.grid, sample, first + c, block,
                               buffer + c * kBlock);
    }
    locations_.for_each_row(sample, block, nullptr, [&](const Row<T>& row, int start) {
      const T* grad[kScatterChannels];
      for (std::int64_t c = 0; c < count; ++c) {
        grad[c] = values[c] + start;
      }
      visit(row, start, grad);
    });
  }

  Channels<const void*> image_of(std::int64_t sample) const {
    return {element(call_.image, sample * call_.image.strides[0]), call_.image.strides[1],
            call_.image.shape[1]};
  }

  const void* channel_of(std::int64_t sample, std::int64_t channel) const {
    return element(call_.image, sample * call_.image.strides[0] + channel * call_.image.strides[1]);
  }

  void load_coordinates(std::int64_t sample, const Block& block, T* out) const {
    locations_.load_displacement(sample, block, out);
    locations_.coordinates(sample, block, out, out);
  }

  // --- To the displacement and the affine ---

  void differentiate() const {
    AffineSums<T> sums(call_.grad_affine, locations_.grid);
    for_each_block(call_.displacement.shape[0], locations_.grid, call_.threads,
                   [&](std::int64_t sample, const Block& block) {
                     differentiate_block(sample, block, &sums);
                   });
    sums.store();
  }

  // affine, where not null, receives what the block adds to the affine's gradient.
  void differentiate_block(std::int64_t sample, const Block& block, AffineSums<T>* affine) const {
    alignas(64) T gradient[3 * kBlock] = {};
    if (gradient_rows_) {
      const bool may_store = affine == nullptr || call_.grad_affine.data == nullptr;
      if (differentiate_rows(sample, block, may_store, gradient)) {
        return;
      }
    } else if (linear_) {
      differentiate_cells(sample, block, gradient);
    }
    if (affine != nullptr) {
      affine->add(sample, block, gradient);
    }
    if (call_.grad_displacement.data != nullptr) {
      finish_gradient(sample, block, gradient);
      store_rows(gradient, call_.grad_displacement, sample, block);
    }
  }

  // Without what is added and the scale where they are left to finish_gradient. True where the
  // result has been stored.
  bool differentiate_rows(std::int64_t sample, const Block& block, bool may_store,
                          T* gradient) const {
    const Tensor& grad_out = call_.grad_out;
    const bool stores = may_store && call_.displacement_scale == 1.0 && in_place_;
    bool finite = true;
    locations_.for_each_row(sample, block, nullptr, [&](const Row<T>& row, int start) {
      T* target[3];
      point_at(sample, block, stores, gradient, start, target);
      const std::int64_t first = sample * grad_out.strides[0] + block.first + start;
      const Channels<const void*> grad = {element(grad_out, first), grad_out.strides[1],
                                          grad_out.shape[1]};
      finite = rows_.gradient_row(row, shape_, call_.padding, image_of(sample), grad,
                                  stores ? static_cast<T>(call_.scale) : T(1), stores && call_.add,
                                  target) &&
               finite;
    });
    if (!finite) {
      differentiate_scalars(sample, block, gradient);
    }
    return stores && finite;
  }

  // Where the displacement's gradient is written from `start` of the block on: in its own memory,
  // or in rows of kBlock per axis.
  void point_at(std::int64_t sample, const Block& block, bool in_place, T* gradient, int start,
                T* (&target)[3]) const {
    for (int axis = 0; axis < shape_.ndim; ++axis) {
      target[axis] =
          start + (in_place
                       ? static_cast<T*>(block_target(call_.grad_displacement, sample, axis, block))
                       : gradient + axis * kBlock);
    }
  }

  void differentiate_cells(std::int64_t sample, const Block& block, T* gradient) const {
    alignas(64) T coordinates[3 * kBlock];
    alignas(64) T grad[kBlock];
    CellStorage<T> cells;
    load_coordinates(sample, block, coordinates);
    rows_.locate(coordinates, shape_, call_.padding, block.count, true, &cells);
    for (std::int64_t channel = 0; channel < call_.image.shape[1]; ++channel) {
      load_block(call_.grad_out, locations_.grid, sample, channel, block, grad);
      rows_.gradient(channel_of(sample, channel), shape_, cells, block.count, grad, gradient);
    }
    if (has_nan_row(gradient, shape_.ndim, block.count)) {
      differentiate_scalars(sample, block, gradient);
    }
  }

  // Where a NaN or an infinity is met.
  void differentiate_scalars(std::int64_t sample, const Block& block, T* gradient) const {
    alignas(64) T coordinates[3 * kBlock];
    alignas(64) T grad[kBlock];
    load_coordinates(sample, block, coordinates);
    std::fill_n(gradient, 3 * kBlock, T(0));
    for (std::int64_t channel = 0; channel < call_.image.shape[1]; ++channel) {
      load_block(call_.grad_out, locations_.grid, sample, channel, block, grad);
      differentiate_scalar(channel_of(sample, channel), call_.image.dtype, shape_, call_.padding,
                           coordinates, block.count, grad, gradient);
    }
  }

  // Brings in what is added and the scales.
  void finish_gradient(std::int64_t sample, const Block& block, T* gradient) const {
    const T scale = static_cast<T>(call_.scale);
    const T inner = static_cast<T>(call_.displacement_scale);
    alignas(64) T grad[kBlock];
    for (int axis = 0; axis < shape_.ndim; ++axis) {
      T* row = gradient + axis * kBlock;
      if (call_.add) {
        load_block(call_.grad_out, locations_.grid, sample, axis, block, grad);
        for (int j = 0; j < block.count; ++j) {
          row[j] = scale * (inner * row[j] + grad[j]);
        }
      } else if (scale * inner != T(1)) {
        for (int j = 0; j < block.count; ++j) {
          row[j] *= scale * inner;
        }
      }
    }
  }

  // --- To the image ---

  // Calls add(sample, index of a block, image, share) for every block of every range of the image.
  template <typename Add>
  void scatter(bool clear, const Add& add) const {
    OwnedScatter<T>(call_.grad_image, locations_, call_.padding, kLinearReach, call_.threads, 1)
        .run(clear, add);
  }

  void scatter_block(std::int64_t sample, const Block& block, const OwnedImage<T>& image) const {
    const auto& rows = select_warp_rows<T>(call_.image.dtype, is_wide(image.shape));
    if (linear_ && rows.scatter_row != nullptr && has_rows(image.shape, locations_.grid)) {
      scatter_rows(rows, sample, block, image);
    } else {
      scatter_cells(rows, sample, block, image);
    }
  }

  void scatter_rows(const WarpRows<T>& rows, std::int64_t sample, const Block& block,
                    const OwnedImage<T>& image) const {
    for (std::int64_t first = 0; first < image.channels.count; first += kScatterChannels) {
      const Channels<T*> some = {
          image.channels.data + first * image.channels.stride, image.channels.stride,
          std::min<std::int64_t>(kScatterChannels, image.channels.count - first)};
      for_each_row(sample, block, first, some.count,
                   [&](const Row<T>& row, int start, const T* const* grad) {
                     if (!rows.scatter_row(row, image.shape, call_.padding, grad,
                                           static_cast<T>(call_.scale), some, image.range)) {
                       scatter_scalars(sample, block, start, row.n, grad,
                                       {image.range, some, image.shape});
                     }
                   });
    }
  }

  void scatter_cells(const WarpRows<T>& rows, std::int64_t sample, const Block& block,
                     const OwnedImage<T>& image) const {
    alignas(64) T coordinates[3 * kBlock];
    alignas(64) T grad[kBlock];
    CellStorage<T> cells;
    const int n = block.count;
    load_coordinates(sample, block, coordinates);
    if (linear_) {
      rows.locate(coordinates, image.shape, call_.padding, n, false, &cells);
    } else {
      rows.locate_nearest(coordinates, image.shape, call_.padding, n, &cells);
    }
    for (std::int64_t channel = 0; channel < image.channels.count; ++channel) {
      load_block(call_.grad_out, locations_.grid, sample, channel, block, grad);
      scale_gradient(n, grad);
      T* target = image.channels.data + channel * image.channels.stride;
      if (!linear_) {
        rows.scatter_nearest(target, cells, n, grad, image.range);
      } else if (!rows.scatter(target, image.shape, cells, n, grad, image.range)) {
        scatter_scalar(target, image.shape, call_.padding, coordinates, n, grad, image.range);
      }
    }
  }

  // n voxels from `start` of the block on, where a NaN or an infinity is met. grad: the output's
  // there, of each channel.
  void scatter_scalars(std::int64_t sample, const Block& block, int start, int n,
                       const T* const* grad, const OwnedImage<T>& image) const {
    alignas(64) T coordinates[3 * kBlock];
    alignas(64) T scaled[kBlock];
    load_coordinates(sample, block, coordinates);
    for (std::int64_t c = 0; c < image.channels.count; ++c) {
      std::copy_n(grad[c], n, scaled);
      scale_gradient(n, scaled);
      scatter_scalar(image.channels.data + c * image.channels.stride, image.shape, call_.padding,
                     coordinates + start, n, scaled, image.range);
    }
  }

  void scale_gradient(int n, T* grad) const {
    const T scale = static_cast<T>(call_.scale);
    for (int j = 0; scale != T(1) && j < n; ++j) {
      grad[j] *= scale;
    }
  }

  // --- To both in one pass: a cell is located, and its corners are read, once ---

  // Whether WarpRows::backward_row does all that is asked for; target: how the image's gradient is
  // summed.
  bool has_one_pass(const ImageShape& target) const {
    bool same_strides = true;
    for (int axis = 0; axis < target.ndim; ++axis) {
      same_strides = same_strides && call_.image.strides[axis + 2] == target.stride[axis];
    }
    return linear_ && same_strides && rows_.backward_row != nullptr &&
           has_rows(target, locations_.grid) &&
           plasticine::has_one_pass(target.ndim, call_.image.shape[1]);
  }

  // False where the displacement's gradient met a NaN or an infinity.
  bool run_row(std::int64_t sample, const Block& block, const Row<T>& row, int start,
               const T* const* grad, const OwnedImage<T>& image, T* const* out) const {
    const BackwardOutcome outcome = rows_.backward_row(row, shape_, call_.padding, image_of(sample),
                                                       grad, static_cast<T>(call_.scale), call_.add,
                                                       out, image.channels, image.range);
    if (!outcome.scattered) {
      scatter_scalars(sample, block, start, row.n, grad, image);
    }
    return outcome.differentiated;
  }

  // Scatters a block and writes its displacement's gradient. False where that met a NaN or an
  // infinity and is still to be written.
  bool store_both(std::int64_t sample, const Block& block, const OwnedImage<T>& image) const {
    alignas(64) T results[3 * kBlock];
    bool finite = true;
    for_each_row(sample, block, 0, image.channels.count,
                 [&](const Row<T>& row, int start, const T* const* grad) {
                   T* target[3];
                   point_at(sample, block, in_place_, results, start, target);
                   finite = run_row(sample, block, row, start, grad, image, target) && finite;
                 });
    if (finite && !in_place_) {
      store_rows(results, call_.grad_displacement, sample, block);
    }
    return finite;
  }

  // Adds both gradients of a block to one field, stored as T. A range adds to its own voxels alone,
  // which so receive everything in the order of the rows, whatever the ranges. reaches: whether
  // some of the block is scattered to the range.
  void add_sum(std::int64_t sample, const Block& block, const OwnedImage<T>& image,
               bool reaches) const {
    alignas(64) T gradient[3 * kBlock];
    T* const rows[3] = {gradient, gradient + kBlock, gradient + 2 * kBlock};
    for_each_row(sample, block, 0, image.channels.count,
                 [&](const Row<T>& row, int start, const T* const* grad) {
                   const OwnedRange& owned = image.range;
                   const std::int64_t voxel = block.first + start;
                   const std::int64_t position =
                       voxel / shape_.stride[owned.axis] % shape_.size[owned.axis];
                   const bool holds = position >= owned.first && position < owned.last;
                   if (!holds && !reaches) {
                     return;
                   }
                   if (!run_row(sample, block, row, start, grad, image, rows) && holds) {
                     alignas(64) T whole[3 * kBlock];
                     differentiate_scalars(sample, block, whole);
                     finish_gradient(sample, block, whole);
                     for (int axis = 0; axis < shape_.ndim; ++axis) {
                       std::copy_n(whole + axis * kBlock + start, row.n, rows[axis]);
                     }
                   }
                   for (int axis = 0; holds && axis < shape_.ndim; ++axis) {
                     T* sum = image.channels.data + axis * image.channels.stride + voxel;
                     for (int j = 0; j < row.n; ++j) {
                       sum[j] += rows[axis][j];
                     }
                   }
                 });
  }

  const WarpBackward& call_;
  const Locations<T> locations_;
  const ImageShape shape_;
  const WarpRows<T>& rows_;
  const bool linear_;
  const bool in_place_;  // the gradients are stored in the type they are computed in
  const bool gradient_rows_;
};

}  // namespace

void warp_backward(const WarpBackward& call) {
  prefer_huge_pages(call.grad_image);
  prefer_huge_pages(call.grad_displacement);
  if (is_cubic(call.mode)) {
    warp_cubic_backward(call);
  } else {
    with_accumulator(call.image.dtype, [&](auto zero) { Backward<decltype(zero)>(call).run(); });
  }
}

}  // namespace plasticine
