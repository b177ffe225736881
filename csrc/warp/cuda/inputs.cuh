// What the forward and the backward kernel share: their inputs, and where a voxel is sampled.
#pragma once

#include "warp/cuda/cell.cuh"

namespace plasticine::cuda {

template <Mode mode>
using ModeTag = std::integral_constant<Mode, mode>;

template <typename I>
struct WarpInputs {
  static constexpr int D = I::D;
  using Field = typename I::Field;
  using Index = typename I::Index;

  ChannelFirst<D, typename I::Image, Index> image;
  ChannelFirst<D, Field, Index> displacement;
  const Field* affine;
  std::int64_t affine_stride[3];
  Index voxels;
  Padding padding;  // where the kernel does not know it
  std::int64_t samples;
  std::int64_t channels;

  WarpInputs(const Tensor& image_tensor, const Tensor& displacement_tensor,
             const Tensor& affine_tensor, Padding padding_of_call)
      : image(image_tensor),
        displacement(displacement_tensor),
        affine(affine_tensor.as<const Field>()),
        affine_stride{affine_tensor.strides[0], affine_tensor.strides[1], affine_tensor.strides[2]},
        voxels(static_cast<Index>(voxel_count(displacement_tensor))),
        padding(padding_of_call),
        samples(image_tensor.shape[0]),
        channels(image_tensor.shape[1]) {}

  __device__ __forceinline__ const Field* affine_row(std::int64_t n, int i) const {
    return affine + n * affine_stride[0] + i * affine_stride[1];
  }
};

// A p + t + u(p).
template <typename I>
__device__ __forceinline__ void sample_location(const WarpInputs<I>& inputs, std::int64_t n,
                                                const typename I::Index (&position)[I::D],
                                                typename I::T (&location)[I::D]) {
  using T = typename I::T;
  const auto offset = inputs.displacement.offset(position);
#pragma unroll
  for (int i = 0; i < I::D; ++i) {
    T mapped = static_cast<T>(position[i]);
    if (inputs.affine != nullptr) {
      const auto* row = inputs.affine_row(n, i);
      mapped = static_cast<T>(read(row + I::D * inputs.affine_stride[2]));
#pragma unroll
      for (int j = 0; j < I::D; ++j) {
        mapped +=
            static_cast<T>(read(row + j * inputs.affine_stride[2])) * static_cast<T>(position[j]);
      }
    }
    location[i] = static_cast<T>(read_once(inputs.displacement.channel(n, i) + offset)) + mapped;
  }
}

// The same along a line of voxels p, one step along the first axis after the other: what does not
// change along it is found once, and the displacement is read one voxel ahead: it comes from far,
// while the image's voxels mostly come from a cache.
template <typename I>
class LocationsOnLine {
  static constexpr int D = I::D;
  using T = typename I::T;
  using Field = typename I::Field;
  using Index = typename I::Index;

 public:
  // position: of the first of `length` voxels; none is read where there is none.
  __device__ __forceinline__ LocationsOnLine(const WarpInputs<I>& inputs, std::int64_t n,
                                             const Index (&position)[D], int length)
      : displacement_(
            settled(inputs.displacement.channel(n, 0) + inputs.displacement.offset(position))),
        ahead_(length),
        first_(static_cast<T>(position[0])) {
#pragma unroll
    for (int i = 0; i < D; ++i) {
      if (inputs.affine == nullptr) {
        start_[i] = i == 0 ? T(0) : static_cast<T>(position[i]);
        along_[i] = i == 0 ? T(1) : T(0);
      } else {
        const Field* row = inputs.affine_row(n, i);
        along_[i] = static_cast<T>(read(row));
        start_[i] = static_cast<T>(read(row + D * inputs.affine_stride[2]));
        for (int j = 1; j < D; ++j) {
          start_[i] +=
              static_cast<T>(read(row + j * inputs.affine_stride[2])) * static_cast<T>(position[j]);
        }
      }
    }
    read_displacement(inputs);
  }

  // The location of the voxel; then moves on.
  __device__ __forceinline__ void next(const WarpInputs<I>& inputs, int step, T (&location)[D]) {
    for (int i = 0; i < D; ++i) {
      location[i] = value_[i] + (start_[i] + along_[i] * first_);
    }
    displacement_ += std::int64_t{step} * inputs.displacement.stride[0];
    first_ += static_cast<T>(step);
    read_displacement(inputs);
  }

 private:
  __device__ __forceinline__ void read_displacement(const WarpInputs<I>& inputs) {
    if (ahead_ > 0) {
      const Field* component = displacement_;
      for (int i = 0; i < D; ++i) {
        value_[i] = static_cast<T>(read_once(component));
        component += inputs.displacement.channel_stride;
      }
    }
    --ahead_;
  }

  const Field* displacement_;
  int ahead_;  // the voxels whose displacement is still to be read
  T first_;    // the first coordinate of the position
  T value_[D] = {};
  T start_[D];
  T along_[D];
};

// Calls visit(mode, Instance<...>{}) with what serves a call: the mode a compile-time constant,
// where Mode::cubic stands for both cubic ones. Nearest and cubic kernels learn their padding at
// run time.
template <typename Visitor>
void dispatch_warp(std::int64_t dimension, DType image, DType field, Mode mode, Padding padding,
                   std::int64_t largest, const Visitor& visit) {
  const auto with = [&](auto chosen) {
    return [&visit, chosen](auto instance) { visit(chosen, instance); };
  };
  if (is_cubic(mode)) {
    dispatch_image<true>(dimension, image, field, largest, with(ModeTag<Mode::cubic>{}));
  } else if (mode == Mode::nearest) {
    dispatch_image<false>(dimension, image, field, largest, with(ModeTag<Mode::nearest>{}));
  } else {
    dispatch_image<false>(dimension, image, field, largest,
                          by_padding(padding, with(ModeTag<Mode::linear>{})));
  }
}

// Blocks along x for the voxels of a sample, y for samples, z for groups of channels. Channels are
// shared out only where the voxels alone would leave the device idle; each group finds the
// locations again.
inline dim3 launch_grid(std::int64_t blocks, std::int64_t samples, std::int64_t channels) {
  constexpr std::int64_t enough = 1024;
  const std::int64_t groups = std::clamp<std::int64_t>(enough / (blocks * samples), 1, channels);
  return dim3(static_cast<unsigned>(blocks), grid_extent(samples), grid_extent(groups));
}

}  // namespace plasticine::cuda
