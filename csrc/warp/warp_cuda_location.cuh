// What the forward and the backward kernel share: their inputs, and where a voxel is sampled.
#pragma once

#include "core/cuda_boxes.cuh"
#include "core/cuda_memory.cuh"
#include "warp/math/linear.h"
#include "warp/warp_cuda.h"

namespace plasticine::cuda {

// Blocks that must fit a multiprocessor at once, which bounds the registers of a thread. Float
// coordinates with 32-bit offsets are what is run; the wide variants take what they need.
template <typename T, typename Index>
constexpr int resident_blocks(int narrow) {
  return sizeof(T) == 4 && sizeof(Index) == 4 ? narrow : 1;
}

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
  Padding padding = Padding::border;  // where the kernel does not know it
  std::int64_t samples = 0;
  std::int64_t channels = 0;

  WarpInputs(const Tensor& image_tensor, const Tensor& displacement_tensor,
             const Tensor& affine_tensor, Padding padding_of_call = Padding::border)
      : image(image_tensor),
        displacement(displacement_tensor),
        row_length(displacement_tensor.shape[1 + D]),
        plane_height(displacement_tensor.shape[D]),
        padding(padding_of_call),
        samples(image_tensor.shape[0]),
        channels(image_tensor.shape[1]) {
    for (int axis = 0; axis < D; ++axis) {
      image_size[axis] = static_cast<Index>(image_tensor.shape[2 + axis]);
      size[axis] = static_cast<Index>(displacement_tensor.shape[2 + axis]);
      voxels *= size[axis];
    }
    if (affine_tensor) {
      affine = affine_tensor.as<const Field>();
      for (int axis = 0; axis < 3; ++axis) {
        affine_stride[axis] = affine_tensor.strides[axis];
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
#pragma unroll
  for (int i = 0; i < D; ++i) {
    location[i] = static_cast<T>(read_once(inputs.displacement.channel(n, i) + offset));
  }
  if (inputs.affine == nullptr) {
#pragma unroll
    for (int i = 0; i < D; ++i) {
      location[i] += static_cast<T>(position[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < D; ++i) {
    const Field* row = inputs.affine + n * inputs.affine_stride[0] + i * inputs.affine_stride[1];
    T mapped = static_cast<T>(read(row + D * inputs.affine_stride[2]));
#pragma unroll
    for (int j = 0; j < D; ++j) {
      mapped +=
          static_cast<T>(read(row + j * inputs.affine_stride[2])) * static_cast<T>(position[j]);
    }
    location[i] += mapped;
  }
}

// A p + t + u(p) along a line of voxels p, one step along the first axis after the other. What does
// not change along the line is found once, and the displacement is read one voxel ahead: it comes
// from far, while the image's voxels mostly come from a cache.
template <int D, typename Image, typename Field, typename Index>
class LocationsOnLine {
  using T = accumulator_t<Image>;

 public:
  // position: of the first of `length` voxels; none is read where there is none.
  __device__ __forceinline__ LocationsOnLine(const WarpInputs<D, Image, Field, Index>& inputs,
                                             std::int64_t n, const Index (&position)[D], int length)
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
        const Field* row =
            inputs.affine + n * inputs.affine_stride[0] + i * inputs.affine_stride[1];
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
  __device__ __forceinline__ void next(const WarpInputs<D, Image, Field, Index>& inputs, int step,
                                       T (&location)[D]) {
#pragma unroll
    for (int i = 0; i < D; ++i) {
      location[i] = value_[i] + (start_[i] + along_[i] * first_);
    }
    displacement_ += std::int64_t{step} * inputs.displacement.stride[0];
    first_ += static_cast<T>(step);
    read_displacement(inputs);
  }

 private:
  __device__ __forceinline__ void read_displacement(
      const WarpInputs<D, Image, Field, Index>& inputs) {
    if (ahead_ > 0) {
      const Field* component = displacement_;
#pragma unroll
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

// Calls visit with the padding as a compile-time constant.
template <Padding padding, typename Visitor>
__device__ __forceinline__ void with_padding(Padding at_run_time, Visitor&& visit) {
  if constexpr (padding != Padding::any) {
    visit(PaddingTag<padding>{});
  } else if (at_run_time == Padding::zeros) {
    visit(PaddingTag<Padding::zeros>{});
  } else if (at_run_time == Padding::border) {
    visit(PaddingTag<Padding::border>{});
  } else {
    visit(PaddingTag<Padding::reflection>{});
  }
}

// The 2^D voxels around a location: a weight per axis and side, whether that is inside, and the
// voxel at the first corner, which is a number only: it, too, may be outside.
//
// "border" and "reflection" leave no location outside: their lower neighbours always exist, and a
// NaN takes the first voxel. Its weights are NaN, and so is what they are multiplied with.
template <int D, typename T, typename Index>
struct Cell {
  T lower[D];
  T upper[D];
  T derivative[D];
  Index index[D];
  bool lower_inside[D];
  bool upper_inside[D];
  bool located = true;  // no axis is NaN

  template <Padding padding>
  __device__ __forceinline__ void find(const T (&location)[D], const Index (&size)[D],
                                       Padding at_run_time = padding) {
    with_padding<padding>(at_run_time, [&](auto tag) {
      for (int axis = 0; axis < D; ++axis) {
        find_axis<decltype(tag)::value>(axis, location[axis], size[axis]);
      }
    });
  }

  // Whether any corner is inside the image.
  __device__ __forceinline__ bool reached() const {
    bool any = located;
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

  // Of a corner that is inside.
  __device__ __forceinline__ Index offset(int corner, const Index (&stride)[D]) const {
    Index first = 0;
    Index step = 0;
    for (int axis = 0; axis < D; ++axis) {
      first += index[axis] * stride[axis];
      step += (corner >> (D - 1 - axis)) & 1 ? stride[axis] : 0;
    }
    return first + step;
  }

 private:
  template <Padding padding>
  __device__ __forceinline__ void find_axis(int axis, T coordinate, Index size) {
    const PaddedCoordinate<T> padded =
        pad_coordinate<padding>(coordinate, static_cast<T>(size - 1));
    const T x = padded.value;
    constexpr T kFirst = padding == Padding::zeros ? T(-2) : T(0);
    const T bounded = x > kFirst ? x : kFirst;  // NaN, too, becomes a number
    const Index found = padded_index<padding>(static_cast<Index>(round_down(bounded)), size);
    index[axis] = found;
    upper[axis] = x - static_cast<T>(found);
    lower[axis] = T(1) - upper[axis];
    derivative[axis] = padded.derivative;
    located = located && x == x;
    if constexpr (padding == Padding::zeros) {
      lower_inside[axis] = found >= 0 && found < size;
      upper_inside[axis] = found >= -1 && found < size - 1;
    } else {
      lower_inside[axis] = true;
      upper_inside[axis] = found < size - 1;
    }
  }
};

// The values at a cell's corners; zero at those outside.
template <int D, typename Image, typename T, typename Index>
__device__ __forceinline__ void read_corners(const Image* source, const Index (&stride)[D],
                                             const Cell<D, T, Index>& cell,
                                             T (&corner)[corner_count<D>]) {
  const Image* address[corner_count<D>];
  address[0] = source + cell.offset(0, stride);
#pragma unroll
  for (int axis = 0; axis < D; ++axis) {
    const int corners = 1 << axis;  // those whose addresses are known
#pragma unroll
    for (int k = 0; k < corners; ++k) {
      address[k + corners] = address[k] + stride[D - 1 - axis];
    }
  }
#pragma unroll
  for (int k = 0; k < corner_count<D>; ++k) {
    corner[k] = cell.inside(k) ? static_cast<T>(read(address[k])) : T(0);
  }
}

// The one voxel that nearest reads.
template <int D, typename T, typename Index>
struct NearestVoxel {
  Index index[D];
  bool inside = true;
  bool is_nan = false;

  template <Padding padding>
  __device__ __forceinline__ void find(const T (&location)[D], const Index (&size)[D],
                                       Padding at_run_time = padding) {
    with_padding<padding>(at_run_time, [&](auto tag) {
      for (int axis = 0; axis < D; ++axis) {
        const auto sample = nearest_axis<decltype(tag)::value>(location[axis], size[axis]);
        index[axis] = sample.index;
        inside = inside && sample.inside;
        is_nan = is_nan || sample.is_nan;
      }
    });
    inside = inside && !is_nan;
  }
};

// Blocks along x for the voxels of a sample, y for samples, z for groups of channels. Channels are
// shared out only where the voxels alone would leave the device idle; each group finds the
// locations again.
inline dim3 launch_grid(std::int64_t blocks, std::int64_t samples, std::int64_t channels) {
  constexpr std::int64_t enough = 1024;
  const std::int64_t groups = std::clamp<std::int64_t>(enough / (blocks * samples), 1, channels);
  return dim3(static_cast<unsigned>(blocks), grid_extent(samples), grid_extent(groups));
}

}  // namespace plasticine::cuda
