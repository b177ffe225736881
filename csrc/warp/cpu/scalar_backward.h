// The linear warp's backward pass on pieces of a row where a NaN or an infinity is met.
#pragma once

#include <algorithm>
#include <cstdint>

#include "warp/cpu/blocks.h"
#include "warp/cpu/scalar.h"
#include "warp/cpu/warp.h"

namespace plasticine {

// T is the accumulator type.
template <typename T>
class CarefulPieces {
 public:
  // All three must outlive it.
  CarefulPieces(const WarpBackward& call, const Locations<T>& locations, const ImageShape& shape)
      : call_(call), locations_(locations), shape_(shape) {}

  // Adds to the image's gradient, which is shaped as `target`, that of n voxels from `start` of the
  // block on. grad: the output's there, of each channel.
  void scatter(std::int64_t sample, const Block& block, int start, int n, const T* const* grad,
               const Channels<T*>& image, const OwnedRange& owned, const ImageShape& target) const {
    alignas(64) T coordinates[3 * kBlock];
    load_coordinates(sample, block, coordinates);
    const auto careful = shape_.ndim == 2 ? careful_scatter<2, T> : careful_scatter<3, T>;
    for (std::int64_t c = 0; c < image.count; ++c) {
      alignas(64) T scaled[kBlock];
      std::copy_n(grad[c], n, scaled);
      scale_gradient(n, scaled);
      careful(image.data + c * image.stride, target, call_.padding, coordinates + start, n, scaled,
              owned);
    }
  }

  // Writes their displacement's gradient: rows of kBlock per axis. The image is stored as T.
  void differentiate(std::int64_t sample, const Block& block, int start, int n,
                     const T* const* grad, T* gradient) const {
    alignas(64) T coordinates[3 * kBlock];
    load_coordinates(sample, block, coordinates);
    std::fill_n(gradient, 3 * kBlock, T(0));
    const Tensor& image = call_.image;
    const auto careful = shape_.ndim == 2 ? careful_gradient<2, T, T> : careful_gradient<3, T, T>;
    for (std::int64_t channel = 0; channel < image.shape[1]; ++channel) {
      careful(element(image, sample * image.strides[0] + channel * image.strides[1]), shape_,
              call_.padding, coordinates + start, n, grad[channel], gradient);
    }
    const T scale = static_cast<T>(call_.scale);
    const T inner = static_cast<T>(call_.displacement_scale);
    for (int axis = 0; axis < shape_.ndim; ++axis) {
      T* row = gradient + axis * kBlock;
      for (int j = 0; j < n; ++j) {
        row[j] = scale * (inner * row[j] + (call_.add ? grad[axis][j] : T(0)));
      }
    }
  }

  void scale_gradient(int n, T* grad) const {
    if (call_.scale != 1.0) {
      const T scale = static_cast<T>(call_.scale);
      for (int j = 0; j < n; ++j) {
        grad[j] *= scale;
      }
    }
  }

 private:
  void load_coordinates(std::int64_t sample, const Block& block, T* out) const {
    locations_.load_displacement(sample, block, out);
    locations_.coordinates(sample, block, out, out);
  }

  const WarpBackward& call_;
  const Locations<T>& locations_;
  const ImageShape& shape_;
};

}  // namespace plasticine
