#include "warp/cpu/cubic.h"

#include <algorithm>

#include "core/cpu/owned_scatter.h"
#include "warp/cpu/affine_sums.h"
#include "warp/rows/cubic.h"

namespace plasticine {

namespace {

// The cubic warp of blocks. A block is located with its cells at the edge folded, and again without
// where a NaN or an infinity is met: see WarpCubicRows.
template <typename T, typename Call>
class Cubic {
 public:
  explicit Cubic(const Call& call)
      : call_(call),
        locations_(call.displacement, call.affine, 1.0),
        shape_(spatial_shape(call.image)),
        rows_(rows_of(shape_)) {}

  void forward() const {
    for_each([&](std::int64_t sample, const Block& block) {
      CubicCellStorage<T> cells;
      const auto gather = [&](std::int64_t channel) {
        return rows_.gather(channel_of(sample, channel), shape_, call_.padding, cells, block.count,
                            block_target(call_.out, sample, channel, block));
      };
      bool fold = true;
      locate(rows_, shape_, sample, block, fold, false, &cells);
      for (std::int64_t channel = 0; channel < call_.image.shape[1]; ++channel) {
        if (!gather(channel) && fold) {
          fold = false;
          locate(rows_, shape_, sample, block, fold, false, &cells);
          gather(channel);
        }
      }
    });
  }

  // The gradients to the displacement and the affine.
  void differentiate() const {
    const int ndim = shape_.ndim;
    AffineSums<T> affine(call_.grad_affine, locations_.grid);
    for_each([&](std::int64_t sample, const Block& block) {
      alignas(64) T gradient[3 * kBlock];
      differentiate_block(sample, block, true, gradient);
      if (has_nan_row(gradient, ndim, block.count)) {
        differentiate_block(sample, block, false, gradient);
      }
      affine.add(sample, block, gradient);
      if (call_.grad_displacement.data != nullptr) {
        store_rows(gradient, call_.grad_displacement, sample, block);
      }
    });
    affine.store();
  }

  // The gradient to the image. Many voxels of a block share their neighbours, and a block is
  // located again for every range that it reaches; two ranges a thread even out their loads.
  void scatter() const {
    OwnedScatter<T>(call_.grad_image, locations_, call_.padding, kCubicReach, call_.threads, 2)
        .run(true, [&](std::int64_t sample, std::int64_t index, const OwnedImage<T>& image,
                       const Role& role) {
          if (role.reaches) {
            scatter_block(sample, locations_.grid.block(index), image);
          }
        });
  }

 private:
  template <typename Visit>
  void for_each(const Visit& visit) const {
    for_each_block(call_.displacement.shape[0], locations_.grid, call_.threads, visit);
  }

  const WarpCubicRows<T>& rows_of(const ImageShape& shape) const {
    return select_warp_cubic_rows<T>(call_.image.dtype, is_wide(shape));
  }

  const void* channel_of(std::int64_t sample, std::int64_t channel) const {
    return element(call_.image, sample * call_.image.strides[0] + channel * call_.image.strides[1]);
  }

  void locate(const WarpCubicRows<T>& rows, const ImageShape& shape, std::int64_t sample,
              const Block& block, bool fold, bool derivatives, CubicCellStorage<T>* cells) const {
    alignas(64) T coordinates[3 * kBlock];
    locations_.load_displacement(sample, block, coordinates);
    locations_.coordinates(sample, block, coordinates, coordinates);
    rows.locate(coordinates, shape, call_.mode, call_.padding, fold, block.count, derivatives,
                cells);
  }

  void differentiate_block(std::int64_t sample, const Block& block, bool fold, T* gradient) const {
    alignas(64) T grad[kBlock];
    CubicCellStorage<T> cells;
    std::fill_n(gradient, 3 * kBlock, T(0));
    locate(rows_, shape_, sample, block, fold, true, &cells);
    for (std::int64_t channel = 0; channel < call_.image.shape[1]; ++channel) {
      load_block(call_.grad_out, locations_.grid, sample, channel, block, grad);
      rows_.gradient(channel_of(sample, channel), shape_, call_.padding, cells, block.count, grad,
                     gradient);
    }
  }

  void scatter_block(std::int64_t sample, const Block& block, const OwnedImage<T>& image) const {
    const auto& rows = rows_of(image.shape);
    alignas(64) T grad[kBlock];
    CubicCellStorage<T> cells;
    bool fold = true;
    locate(rows, image.shape, sample, block, fold, false, &cells);
    for (std::int64_t channel = 0; channel < image.channels.count; ++channel) {
      load_block(call_.grad_out, locations_.grid, sample, channel, block, grad);
      if (fold && !is_finite(grad, block.count)) {
        fold = false;
        locate(rows, image.shape, sample, block, fold, false, &cells);
      }
      rows.scatter(image.channels.data + channel * image.channels.stride, image.shape,
                   call_.padding, cells, block.count, grad, image.range);
    }
  }

  static bool is_finite(const T* values, int n) {
    T sum = T(0);
    for (int j = 0; j < n; ++j) {
      sum += values[j] * T(0);
    }
    return sum == T(0);
  }

  const Call& call_;
  const Locations<T> locations_;
  const ImageShape shape_;
  const WarpCubicRows<T>& rows_;
};

}  // namespace

void warp_cubic_forward(const WarpForward& call) {
  with_accumulator(call.image.dtype,
                   [&](auto zero) { Cubic<decltype(zero), WarpForward>(call).forward(); });
}

void warp_cubic_backward(const WarpBackward& call) {
  with_accumulator(call.image.dtype, [&](auto zero) {
    const Cubic<decltype(zero), WarpBackward> cubic(call);
    if (call.grad_displacement.data != nullptr || call.grad_affine.data != nullptr) {
      cubic.differentiate();
    }
    if (call.grad_image.data != nullptr) {
      cubic.scatter();
    }
  });
}

}  // namespace plasticine
