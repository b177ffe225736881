// Both gradients of a linear warp in one pass: a cell is located, and its corners are read, once.
#pragma once

#include <cstdint>

#include "core/cpu/without.h"
#include "warp/cpu/blocks.h"
#include "warp/cpu/scalar_backward.h"
#include "warp/cpu/warp.h"

namespace plasticine {

// T is the accumulator type.
template <typename T>
class OnePass {
 public:
  // Whether WarpRows::backward_row does all that is asked for; target: how the image's gradient is
  // summed.
  static bool suffices(const WarpBackward& call, const ImageShape& target) {
    static const bool without = is_without("one_pass");
    if (without) {
      return false;
    }
    const auto& rows = select_warp_rows<T>(call.image.dtype, is_wide(target));
    const std::int64_t channels = call.image.shape[1];
    bool same_strides = true;
    for (int axis = 0; axis < target.ndim; ++axis) {
      same_strides = same_strides && call.image.strides[axis + 2] == target.stride[axis];
    }
    return rows.backward_row != nullptr && call.mode == Mode::linear && same_strides &&
           has_rows(target, Grid(call.displacement)) && has_one_pass(target.ndim, channels);
  }

  // base: the sample's gradient to the image, shaped as `target`. The references must outlive it.
  OnePass(const WarpBackward& call, const Locations<T>& locations, const CarefulPieces<T>& careful,
          const ImageShape& shape, const ImageShape& target, T* base, std::int64_t channel_stride)
      : call_(call),
        locations_(locations),
        careful_(careful),
        shape_(shape),
        target_(target),
        rows_(select_warp_rows<T>(call.image.dtype, is_wide(target))),
        grad_image_{base, channel_stride, call.image.shape[1]} {}

  bool suffices() const { return suffices(call_, target_); }

  // Scatters a block and writes its displacement's gradient. False where that met a NaN or an
  // infinity and is still to be written.
  bool store(std::int64_t sample, const Block& block, const OwnedRange& owned) const {
    const Tensor& out = call_.grad_displacement;
    const bool in_place = element_size(out.dtype) == static_cast<std::int64_t>(sizeof(T));
    alignas(64) T results[3 * kBlock];
    bool differentiated = true;
    for_each_piece(sample, block, [&](const RowPiece<T>& piece, int start, const T* const* grad) {
      T* gradient[3];
      for (int axis = 0; axis < shape_.ndim; ++axis) {
        gradient[axis] = (in_place ? static_cast<T*>(block_target(out, sample, axis, block))
                                   : results + axis * kBlock) +
                         start;
      }
      differentiated = run(sample, block, piece, start, grad, owned, gradient) && differentiated;
    });
    if (differentiated && !in_place) {
      const auto store = select_convert_rows<T>().store[static_cast<int>(out.dtype)];
      for (int axis = 0; axis < shape_.ndim; ++axis) {
        store(results + axis * kBlock, block.count, block_target(out, sample, axis, block));
      }
    }
    return differentiated;
  }

  // Adds both gradients of a block to one field, stored as T. A range adds to its own voxels alone,
  // which so receive everything in the order of the pieces, whatever the ranges. reaches: whether
  // some of the block is scattered to the range.
  void add(std::int64_t sample, const Block& block, const OwnedRange& owned, bool reaches) const {
    alignas(64) T gradient[3 * kBlock];
    T* const rows[3] = {gradient, gradient + kBlock, gradient + 2 * kBlock};
    for_each_piece(sample, block, [&](const RowPiece<T>& piece, int start, const T* const* grad) {
      const std::int64_t voxel = block.first + start;
      const std::int64_t position = voxel / shape_.stride[owned.axis] % shape_.size[owned.axis];
      const bool holds = position >= owned.first && position < owned.last;
      if (!holds && !reaches) {
        return;
      }
      if (!run(sample, block, piece, start, grad, owned, rows) && holds) {
        careful_.differentiate(sample, block, start, piece.n, grad, gradient);
      }
      for (int axis = 0; holds && axis < shape_.ndim; ++axis) {
        T* sum = grad_image_.data + axis * grad_image_.stride + voxel;
        for (int j = 0; j < piece.n; ++j) {
          sum[j] += rows[axis][j];
        }
      }
    });
  }

 private:
  // Calls visit(piece, start, the output's gradient there of each channel).
  template <typename Visit>
  void for_each_piece(std::int64_t sample, const Block& block, const Visit& visit) const {
    const std::int64_t channels = grad_image_.count;
    alignas(64) T buffer[3 * kBlock];
    const T* values[3];
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      values[channel] = block_values(call_.grad_out, locations_.grid, sample, channel, block,
                                     buffer + channel * kBlock);
    }
    locations_.for_each_piece(sample, block, [&](const RowPiece<T>& piece, int start) {
      const T* grad[3];
      for (std::int64_t channel = 0; channel < channels; ++channel) {
        grad[channel] = values[channel] + start;
      }
      visit(piece, start, grad);
    });
  }

  // False where the displacement's gradient met a NaN or an infinity.
  bool run(std::int64_t sample, const Block& block, const RowPiece<T>& piece, int start,
           const T* const* grad, const OwnedRange& owned, T* const* out) const {
    const Tensor& image = call_.image;
    const Channels<const void*> source = {element(image, sample * image.strides[0]),
                                          image.strides[1], image.shape[1]};
    const BackwardOutcome outcome =
        rows_.backward_row(piece, shape_, call_.padding, source, grad, static_cast<T>(call_.scale),
                           call_.add, out, grad_image_, owned);
    if (!outcome.scattered) {
      careful_.scatter(sample, block, start, piece.n, grad, grad_image_, owned, target_);
    }
    return outcome.differentiated;
  }

  const WarpBackward& call_;
  const Locations<T>& locations_;
  const CarefulPieces<T>& careful_;
  const ImageShape& shape_;
  const ImageShape& target_;
  const WarpRows<T>& rows_;
  const Channels<T*> grad_image_;
};

}  // namespace plasticine
