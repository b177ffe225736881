// Cubic interpolation on one axis: four taps, their weights, and which voxel a tap reads. One
// source for host and device, without branches, so that rows of voxels vectorise.
//
// Mode::cubic is the cubic convolution of Keys (1981) with a = -0.75, with the boundary rules of
// torch.nn.functional.grid_sample(mode="bicubic", align_corners=True). Mode::bspline weighs
// coefficients; its coordinate is padded first, as in linear mode.
#pragma once

#include "warp/math/linear.h"

PLASTICINE_NAMESPACE_BEGIN

constexpr int kTaps = 4;

// Where it is the location that is padded, and not only its taps one by one. The kernels are even:
// reflecting the location or every tap is the same.
PLASTICINE_INLINE constexpr bool pads_location(Mode mode, Padding padding) {
  return padding == Padding::reflection || (padding == Padding::border && mode == Mode::bspline);
}

// The padded coordinate; see pad_coordinate. Within [-3, last + 3], or NaN.
template <Mode mode, Padding padding, typename T>
PLASTICINE_INLINE PaddedCoordinate<T> pad_cubic_coordinate(T x, T last) {
  if constexpr (pads_location(mode, padding)) {
    return pad_coordinate<padding>(x, last);
  } else {
    // So far out all taps are zero, or all the same voxel: the derivative is exactly zero, and
    // bounding keeps the conversion to an index defined.
    const bool constant = x < T(-2) || x > last + T(2);
    x = x < T(-3) ? T(-3) : x;
    x = x > last + T(3) ? last + T(3) : x;
    const T derivative = constant ? T(0) : T(1);
    return {x, x == x ? derivative : x};
  }
}

// weight[k]: of the voxel at floor(x) + k - 1, for t = x - floor(x).
template <Mode mode, typename T>
PLASTICINE_INLINE void cubic_weights(T t, T (&weight)[kTaps]) {
  const T s = T(1) - t;
  if constexpr (mode == Mode::bspline) {
    constexpr T kSixth = T(1) / T(6);
    constexpr T kTwoThirds = T(2) / T(3);
    weight[0] = kSixth * (s * s * s);
    weight[1] = kTwoThirds - t * t * (T(1) - T(0.5) * t);
    weight[2] = kTwoThirds - s * s * (T(1) - T(0.5) * s);
    weight[3] = kSixth * (t * t * t);
  } else {
    constexpr T a = T(-0.75);
    weight[0] = a * (t * s * s);
    weight[1] = T(1) - t * t * ((a + T(3)) - (a + T(2)) * t);
    weight[2] = T(1) - s * s * ((a + T(3)) - (a + T(2)) * s);
    weight[3] = a * (s * t * t);
  }
}

// The derivatives of the weights with respect to t.
template <Mode mode, typename T>
PLASTICINE_INLINE void cubic_derivatives(T t, T (&derivative)[kTaps]) {
  const T s = T(1) - t;
  if constexpr (mode == Mode::bspline) {
    derivative[0] = T(-0.5) * (s * s);
    derivative[1] = -t * (T(2) - T(1.5) * t);
    derivative[2] = s * (T(2) - T(1.5) * s);
    derivative[3] = T(0.5) * (t * t);
  } else {
    constexpr T a = T(-0.75);
    derivative[0] = a * (s * (T(1) - T(3) * t));
    derivative[1] = -t * (T(2) * (a + T(3)) - T(3) * (a + T(2)) * t);
    derivative[2] = s * (T(2) * (a + T(3)) - T(3) * (a + T(2)) * s);
    derivative[3] = -a * (t * (T(1) - T(3) * s));
  }
}

// The voxel that a tap reads; with zero padding it may lie outside, and is then not read.
template <typename Index>
PLASTICINE_INLINE Index tap_index(Padding padding, Index index, Index last) {
  if (padding == Padding::border) {
    index = index < 0 ? 0 : index;
    return index > last ? last : index;
  }
  if (padding == Padding::reflection) {
    // The location is inside: a tap is at most two voxels beyond the edge. Of two voxels the
    // mirror image may lie beyond the other edge.
    index = index < 0 ? -index : index;
    index = index > last ? 2 * last - index : index;
    index = index < 0 ? -index : index;
    return last > 0 ? index : 0;
  }
  return index;
}

PLASTICINE_NAMESPACE_END
