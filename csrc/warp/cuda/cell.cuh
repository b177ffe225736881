// The voxels around a location: where they are, whether they are inside, and their values.
#pragma once

#include "core/cuda/dispatch.h"
#include "core/cuda/grid.cuh"
#include "core/cuda/memory.cuh"
#include "warp/math/linear.h"

namespace plasticine::cuda {

// Calls visit with the padding as a compile-time constant.
template <Padding padding, typename Visitor>
__device__ __forceinline__ void with_padding(Padding at_run_time, Visitor&& visit) {
  if constexpr (padding != Padding::any) {
    visit(PaddingTag<padding>{});
  } else {
    dispatch_padding(at_run_time, visit);
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

// Writes the channels of an image at a location, those that this block serves: from blockIdx.z on
// in steps of gridDim.z. source and target: of the first of them; the steps lead to the next.
template <Mode mode, Padding padding, int D, typename Image, typename Index, typename T>
__device__ __forceinline__ void sample_channels(const Layout<D, Index>& image, Padding at_run_time,
                                                int channels, const T (&location)[D],
                                                const Image* source, std::int64_t source_step,
                                                Image* target, std::int64_t target_step) {
  if constexpr (mode == Mode::linear) {
    Cell<D, T, Index> cell;
    cell.template find<padding>(location, image.size, at_run_time);
    for (int c = blockIdx.z;;) {
      T corner[corner_count<D>];
      read_corners<D>(source, image.stride, cell, corner);
      write_once(target, interpolate<D, T>(cell.lower, cell.upper, corner));
      c += gridDim.z;
      if (c >= channels) {
        break;
      }
      source += source_step;
      target += target_step;
    }
  } else {
    NearestVoxel<D, T, Index> nearest;
    nearest.template find<padding>(location, image.size, at_run_time);
    source += image.offset(nearest.index);
    for (int c = blockIdx.z; c < channels; c += gridDim.z) {
      T value = nearest.is_nan ? std::numeric_limits<T>::quiet_NaN() : T(0);
      if (nearest.inside) {
        value = static_cast<T>(read(source));
      }
      write_once(target, value);
      source += source_step;
      target += target_step;
    }
  }
}

}  // namespace plasticine::cuda
