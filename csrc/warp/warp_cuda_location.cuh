// What the forward and the backward kernel share: their inputs, and where a voxel is sampled.
#pragma once

#include "../common/cuda_launch.h"
#include "../common/half.h"
#include "warp_cuda.h"
#include "warp_math.h"

namespace plasticine::cuda {

constexpr int kThreads = 256;

// Blocks that must fit a multiprocessor at once, which bounds the registers of a thread. Float
// coordinates with 32-bit offsets are what is run; the wide variants take what they need.
template <typename T, typename Index>
constexpr int resident_blocks(int narrow) {
  return sizeof(T) == 4 && sizeof(Index) == 4 ? narrow : 1;
}

constexpr std::int64_t kLargestGridYZ = 65535;

// A (N, C, *spatial) input. Offsets within a channel are of type Index; samples and channels are
// always found with 64 bits.
template <int D, typename Stored, typename Index>
struct ChannelFirst {
  const Stored* data = nullptr;
  std::int64_t sample_stride = 0;
  std::int64_t channel_stride = 0;
  Index stride[D] = {};

  ChannelFirst() = default;
  explicit ChannelFirst(const Tensor& tensor)
      : data(tensor.as<const Stored>()),
        sample_stride(tensor.strides[0]),
        channel_stride(tensor.strides[1]) {
    for (int axis = 0; axis < D; ++axis) {
      stride[axis] = static_cast<Index>(tensor.strides[2 + axis]);
    }
  }

  __device__ __forceinline__ const Stored* channel(std::int64_t n, std::int64_t c) const {
    return data + n * sample_stride + c * channel_stride;
  }

  __device__ __forceinline__ Index offset(const Index (&position)[D]) const {
    Index sum = 0;
    for (int axis = 0; axis < D; ++axis) {
      sum += position[axis] * stride[axis];
    }
    return sum;
  }
};

template <int D, typename Image, typename Field, typename Index>
struct WarpInputs {
  ChannelFirst<D, Image, Index> image;
  ChannelFirst<D, Field, Index> displacement;
  const Field* affine = nullptr;
  std::int64_t affine_stride[3] = {};
  Index image_size[D] = {};
  Divisor<Index> row_length, plane_height;
  Index size[D] = {};
  Index voxels = 1;
  std::int64_t samples = 0;
  std::int64_t channels = 0;

  WarpInputs(const Tensor& image_tensor, const Tensor& displacement_tensor,
             const std::optional<Tensor>& affine_tensor)
      : image(image_tensor),
        displacement(displacement_tensor),
        row_length(displacement_tensor.shape[1 + D]),
        plane_height(displacement_tensor.shape[D]),
        samples(image_tensor.shape[0]),
        channels(image_tensor.shape[1]) {
    for (int axis = 0; axis < D; ++axis) {
      image_size[axis] = static_cast<Index>(image_tensor.shape[2 + axis]);
      size[axis] = static_cast<Index>(displacement_tensor.shape[2 + axis]);
      voxels *= size[axis];
    }
    if (affine_tensor) {
      affine = affine_tensor->as<const Field>();
      for (int axis = 0; axis < 3; ++axis) {
        affine_stride[axis] = affine_tensor->strides[axis];
      }
    }
  }

  __device__ __forceinline__ void position_of(Index voxel, Index (&position)[D]) const {
    Index row = row_length.divide(voxel);
    position[D - 1] = voxel - row * size[D - 1];
    if constexpr (D == 3) {
      const Index plane = plane_height.divide(row);
      position[1] = row - plane * size[1];
      row = plane;
    }
    position[0] = row;
  }
};

// A p + t + u(p).
template <int D, typename Image, typename Field, typename Index>
__device__ __forceinline__ void sample_location(const WarpInputs<D, Image, Field, Index>& inputs,
                                                std::int64_t n, const Index (&position)[D],
                                                accumulator_t<Image> (&location)[D]) {
  using T = accumulator_t<Image>;
  const Index offset = inputs.displacement.offset(position);
  for (int i = 0; i < D; ++i) {
    location[i] = static_cast<T>(load(inputs.displacement.channel(n, i)[offset]));
    if (inputs.affine == nullptr) {
      location[i] += static_cast<T>(position[i]);
    } else {
      const Field* row = inputs.affine + n * inputs.affine_stride[0] + i * inputs.affine_stride[1];
      T mapped = static_cast<T>(load(row[D * inputs.affine_stride[2]]));
      for (int j = 0; j < D; ++j) {
        mapped +=
            static_cast<T>(load(row[j * inputs.affine_stride[2]])) * static_cast<T>(position[j]);
      }
      location[i] += mapped;
    }
  }
}

// The 2^D voxels around a location: weights and insideness per axis, one offset per corner.
template <int D, typename T, typename Index>
struct Cell {
  T lower[D];
  T upper[D];
  T derivative[D];
  Index index_lower[D];
  Index index_upper[D];
  bool lower_inside[D];
  bool upper_inside[D];

  template <Padding padding>
  __device__ __forceinline__ void find(const T (&location)[D], const Index (&size)[D]) {
    for (int axis = 0; axis < D; ++axis) {
      const AxisSample<T, Index> sample = sample_axis<padding>(location[axis], size[axis]);
      lower[axis] = sample.weight_lower;
      upper[axis] = sample.weight_upper;
      derivative[axis] = sample.derivative;
      index_lower[axis] = sample.lower;
      index_upper[axis] = sample.upper;
      lower_inside[axis] = sample.lower_inside;
      upper_inside[axis] = sample.upper_inside;
    }
  }

  // Whether any corner is inside the image.
  __device__ __forceinline__ bool reached() const {
    bool any = true;
    for (int axis = 0; axis < D; ++axis) {
      any = any && (lower_inside[axis] || upper_inside[axis]);
    }
    return any;
  }

  __device__ __forceinline__ bool inside(int corner) const {
    bool all = true;
    for (int axis = 0; axis < D; ++axis) {
      all = all && ((corner >> (D - 1 - axis)) & 1 ? upper_inside[axis] : lower_inside[axis]);
    }
    return all;
  }

  __device__ __forceinline__ Index offset(int corner, const Index (&stride)[D]) const {
    Index sum = 0;
    for (int axis = 0; axis < D; ++axis) {
      sum +=
          ((corner >> (D - 1 - axis)) & 1 ? index_upper[axis] : index_lower[axis]) * stride[axis];
    }
    return sum;
  }
};

// The one voxel that nearest reads.
template <int D, typename T, typename Index>
struct NearestVoxel {
  Index index[D];
  bool inside = true;
  bool is_nan = false;

  template <Padding padding>
  __device__ __forceinline__ void find(const T (&location)[D], const Index (&size)[D]) {
    for (int axis = 0; axis < D; ++axis) {
      const NearestSample<Index> sample = nearest_axis<padding>(location[axis], size[axis]);
      index[axis] = sample.index;
      inside = inside && sample.inside;
      is_nan = is_nan || sample.is_nan;
    }
    inside = inside && !is_nan;
  }
};

// Blocks along x for the voxels of a sample, y for samples, z for groups of channels. Channels are
// shared out only where the voxels alone would leave the device idle; each group finds the
// locations again.
inline dim3 launch_grid(std::int64_t blocks, std::int64_t samples, std::int64_t channels) {
  constexpr std::int64_t enough = 1024;
  const std::int64_t groups = std::clamp<std::int64_t>(enough / (blocks * samples), 1, channels);
  return dim3(static_cast<unsigned>(blocks),
              static_cast<unsigned>(std::min(samples, kLargestGridYZ)),
              static_cast<unsigned>(std::min(groups, kLargestGridYZ)));
}

}  // namespace plasticine::cuda
