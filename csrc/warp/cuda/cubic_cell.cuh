// The 4^D voxels that a cubic mode reads around a location.
//
// Mode and padding are known at run time only: they decide on indices and weights, once per voxel
// and axis, and on nothing in the loops over the taps.
#pragma once

#include "warp/cuda/cell.cuh"
#include "warp/math/cubic.h"

namespace plasticine::cuda {

template <typename T>
__device__ __forceinline__ PaddedCoordinate<T> pad_before_taps(Mode mode, Padding padding, T x,
                                                               T last) {
  if (padding == Padding::reflection) {
    return pad_cubic_coordinate<Mode::cubic, Padding::reflection>(x, last);
  }
  if (padding == Padding::border && mode == Mode::bspline) {
    return pad_cubic_coordinate<Mode::bspline, Padding::border>(x, last);
  }
  return pad_cubic_coordinate<Mode::cubic, Padding::zeros>(x, last);  // border, too
}

// x[k] without a register that is found by address.
template <typename T>
__device__ __forceinline__ T pick(const T (&x)[kTaps], int k) {
  const T lower = k == 0 ? x[0] : x[1];
  const T upper = k == 2 ? x[2] : x[3];
  return k < 2 ? lower : upper;
}

// differentiable: also the derivatives of the weights with respect to the location.
template <int D, bool differentiable, typename T, typename Index>
struct CubicCell {
  T weight[D][kTaps];
  T derivative[differentiable ? D : 1][kTaps];
  Index index[D][kTaps];  // of a voxel of the image, whether the tap reads it or not
  unsigned inside[D];     // bit k: tap k reads a voxel
  Index first[D];         // where tap 0 lies, before it is padded
  bool is_nan = false;    // there is no location, and no tap is inside

  __device__ __forceinline__ void find(const T (&location)[D], const Index (&size)[D], Mode mode,
                                       Padding padding) {
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      const Index last = size[axis] - 1;
      const PaddedCoordinate<T> padded =
          pad_before_taps(mode, padding, location[axis], static_cast<T>(last));
      const T bounded = padded.value > T(-3) ? padded.value : T(-3);  // NaN, too, gets an index
      Index lower = static_cast<Index>(round_down(bounded));
      if (pads_location(mode, padding)) {
        lower = padded_index<Padding::border>(lower, size[axis]);
      }
      const T t = padded.value - static_cast<T>(lower);
      is_nan = is_nan || t != t;
      if (mode == Mode::bspline) {
        find_weights<Mode::bspline>(axis, t);
      } else {
        find_weights<Mode::cubic>(axis, t);
      }
      first[axis] = lower - 1;
      inside[axis] = 0;
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        if constexpr (differentiable) {
          derivative[axis][k] *= padded.derivative;
        }
        const Index tap = tap_index<Index>(padding, first[axis] + k, last);
        inside[axis] |= tap >= 0 && tap <= last ? 1u << k : 0u;
        index[axis][k] = tap < 0 ? 0 : tap > last ? last : tap;
      }
    }
    for (int axis = 0; axis < D; ++axis) {
      inside[axis] = is_nan ? 0u : inside[axis];
    }
  }

  __device__ __forceinline__ bool is_inside(int axis, int k) const {
    return (inside[axis] >> k & 1u) != 0;
  }

  // Whether any tap reads a voxel.
  __device__ __forceinline__ bool reached() const {
    bool any = true;
    for (int axis = 0; axis < D; ++axis) {
      any = any && inside[axis] != 0;
    }
    return any;
  }

  // Whether all do.
  __device__ __forceinline__ bool complete() const {
    unsigned all = (1u << kTaps) - 1;
    for (int axis = 0; axis < D; ++axis) {
      all &= inside[axis];
    }
    return all == (1u << kTaps) - 1;
  }

  // The weighted sum of a channel's voxels, NaN at a location that does not exist; gradient[axis]
  // receives its derivative where it is differentiable. A voxel that no tap reads is not loaded: it
  // may hold NaN.
  template <typename Stored>
  __device__ __forceinline__ T sum(const Stored* __restrict__ channel, const Index (&stride)[D],
                                   T (&gradient)[D]) const {
    T total = is_nan ? std::numeric_limits<T>::quiet_NaN() : T(0);
    for (int axis = 0; axis < D; ++axis) {
      gradient[axis] = total;
    }
    if (complete()) {
      add_planes<false>(channel, stride, total, gradient);
    } else if (!is_nan) {
      add_planes<true>(channel, stride, total, gradient);
    }
    return total;
  }

 private:
  template <Mode mode>
  __device__ __forceinline__ void find_weights(int axis, T t) {
    cubic_weights<mode>(t, weight[axis]);
    if constexpr (differentiable) {
      cubic_derivatives<mode>(t, derivative[axis]);
    }
  }

  // checked: some taps read no voxel. Rare and then unlikely to fill a warp: compact, not fast.
  template <bool checked, typename Stored>
  __device__ __forceinline__ void add_planes(const Stored* __restrict__ channel,
                                             const Index (&stride)[D], T& total,
                                             T (&gradient)[D]) const {
    if constexpr (D == 2) {
      add_rows<checked>(channel, stride, total, gradient);
    } else {
#pragma unroll 1
      for (int i = 0; i < kTaps; ++i) {
        if (checked && !is_inside(0, i)) {
          continue;
        }
        T plane = T(0);
        T plane_gradient[2] = {};
        const Index row_stride[2] = {stride[1], stride[2]};
        add_rows<checked>(channel + pick(index[0], i) * stride[0], row_stride, plane,
                          plane_gradient);
        total += pick(weight[0], i) * plane;
        if constexpr (differentiable) {
          gradient[0] += pick(derivative[0], i) * plane;
          gradient[1] += pick(weight[0], i) * plane_gradient[0];
          gradient[2] += pick(weight[0], i) * plane_gradient[1];
        }
      }
    }
  }

  // The same over the last two axes.
  template <bool checked, typename Stored>
  __device__ __forceinline__ void add_rows(const Stored* __restrict__ plane,
                                           const Index (&stride)[2], T& total,
                                           T (&gradient)[2]) const {
    constexpr int y = D - 2;
    constexpr int x = D - 1;
#pragma unroll(checked ? 1 : kTaps)
    for (int j = 0; j < kTaps; ++j) {
      if (checked && !is_inside(y, j)) {
        continue;
      }
      const Stored* const row = plane + pick(index[y], j) * stride[0];
      T value[kTaps];
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        value[k] = !checked || is_inside(x, k) ? read(row + index[x][k] * stride[1]) : T(0);
      }
      T along = T(0);
      T derivative_along = T(0);
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        along += weight[x][k] * value[k];
        if constexpr (differentiable) {
          derivative_along += derivative[x][k] * value[k];
        }
      }
      total += pick(weight[y], j) * along;
      if constexpr (differentiable) {
        gradient[0] += pick(derivative[y], j) * along;
        gradient[1] += pick(weight[y], j) * derivative_along;
      }
    }
  }
};

}  // namespace plasticine::cuda
