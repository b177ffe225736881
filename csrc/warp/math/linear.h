// Where a sample location falls on one axis, and multilinear interpolation with its adjoint.
//
// The semantics are those of torch.nn.functional.grid_sample with align_corners=True, gradient
// conventions included, on voxel coordinates: coordinate 0 is the centre of the first voxel. One
// source for host and device, without branches, so that rows of voxels vectorise.
//
// T is the accumulator type (float or double); Index is int32_t or int64_t. What locates a voxel
// also takes vectors of these, one voxel a lane (core/avx512/lanes.h).
#pragma once

#include "core/macros.h"
#include "core/types.h"

PLASTICINE_NAMESPACE_BEGIN

// A number as a T: in every lane where T is a vector.
template <typename T>
PLASTICINE_INLINE T constant(double value) {
  return static_cast<T>(value);
}

// The integer part of what is positive, else 0: of NaN, too.
template <typename Index, typename T>
PLASTICINE_INLINE Index index_below(T value) {
  return static_cast<Index>(value > T(0) ? value : T(0));
}
template <typename T, typename Index>
PLASTICINE_INLINE T index_value(Index index) {
  return static_cast<T>(index);
}

// x where it is not above, or not below, the limit, else the limit. NaN stays NaN.
template <typename T>
PLASTICINE_INLINE T at_most(T x, T limit) {
  return x > limit ? limit : x;
}
template <typename T>
PLASTICINE_INLINE T at_least(T x, T limit) {
  return x < limit ? limit : x;
}

#if defined(__CUDA_ARCH__)
// One instruction, where a comparison and a choice are two.
PLASTICINE_INLINE float at_most(float x, float limit) {
  float result;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(limit));
  return result;
}
PLASTICINE_INLINE float at_least(float x, float limit) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(limit));
  return result;
}
#endif

template <typename T>
PLASTICINE_INLINE T round_down(T x);
template <>
PLASTICINE_INLINE float round_down(float x) {
  return __builtin_floorf(x);
}
template <>
PLASTICINE_INLINE double round_down(double x) {
  return __builtin_floor(x);
}

// A coordinate after the padding rule, with its derivative with respect to the coordinate given.
// Both are NaN when there is no location: a NaN coordinate, or reflection of an infinite one.
template <typename T>
struct PaddedCoordinate {
  T value;
  T derivative;
};

// last = size - 1. The result is within [-2, last + 2] (zeros) or [0, last], or NaN.
template <Padding padding, typename T>
PLASTICINE_INLINE PaddedCoordinate<T> pad_coordinate(T x, T last) {
  const T zero = constant<T>(0);
  const T one = constant<T>(1);
  const T two = constant<T>(2);
  T derivative = one;
  if constexpr (padding == Padding::zeros) {
    // Both neighbours of anything further out lie outside: bounding it keeps the conversion to an
    // index defined and the weights finite.
    x = at_most(at_least(x, -two), last + two);
  } else {
    if constexpr (padding == Padding::reflection) {
      // Mirrors lie on the first and the last voxel centre.
      const T span = last > zero ? last : one;
      const T distance = x < zero ? -x : x;
      derivative = x < zero ? -one : one;
      const T phase = distance - two * span * round_down(distance / (two * span));
      x = phase >= span ? two * span - phase : phase;
      derivative = phase >= span ? -derivative : derivative;
    }
    // torch sets the gradient to zero at the limits as well as beyond them.
    derivative = x <= zero ? zero : derivative;
    derivative = x >= last ? zero : derivative;
    x = at_least(at_most(x, last), zero);
  }
  derivative = x == x ? derivative : x;
  return {x, derivative};
}

// The index of a padded location: border and reflection leave none outside, but on an axis of 2^24
// voxels and more the coordinate of the last one may round up, in float32, to beyond it.
template <Padding padding, typename Index>
PLASTICINE_INLINE Index padded_index(Index index, Index size) {
  if constexpr (padding == Padding::zeros) {
    return index;
  } else {
    return index < size ? index : size - 1;
  }
}

// The two neighbours of a location on one axis. lower and upper are always valid indices; a
// neighbour that is not inside must be treated as the value zero (not loaded and multiplied by
// zero: the image may hold NaN) and receives no gradient. At a NaN location neither is inside and
// the weights and the derivative are NaN, so that NaN reaches the result and nothing else.
template <typename T, typename Index>
struct AxisSample {
  Index lower;
  Index upper;
  T weight_lower;
  T weight_upper;
  T derivative;  // of the padded coordinate; that of weight_upper is +derivative, weight_lower -.
  bool lower_inside;
  bool upper_inside;
};

template <Padding padding, typename T, typename Index>
PLASTICINE_INLINE AxisSample<T, Index> sample_axis(T coordinate, Index size) {
  const PaddedCoordinate<T> padded = pad_coordinate<padding>(coordinate, static_cast<T>(size - 1));
  const T x = padded.value;
  // NaN, too, becomes an index that is not inside. Floor is made of truncation, which every
  // instruction set vectorises.
  const T bounded = x > T(-2) ? x : T(-2);
  Index index = static_cast<Index>(bounded);
  index -= static_cast<T>(index) > bounded ? 1 : 0;
  index = padded_index<padding>(index, size);
  AxisSample<T, Index> sample;
  sample.weight_upper = x - static_cast<T>(index);
  sample.weight_lower = T(1) - sample.weight_upper;
  sample.derivative = padded.derivative;
  sample.lower_inside = index >= 0 && index < size;
  sample.upper_inside = index >= -1 && index < size - 1;
  const Index lower = index < 0 ? 0 : index;
  const Index upper = index < -1 ? 0 : index + 1;
  sample.lower = lower < size ? lower : size - 1;
  sample.upper = upper < size ? upper : size - 1;
  return sample;
}

// The nearest voxel on one axis, ties to even. index is always valid; see AxisSample on inside.
// The flags are as wide as the index: bytes would keep the loops over them from vectorising.
template <typename Index>
struct NearestSample {
  Index index;
  Index inside;
  Index is_nan;
};

template <Padding padding, typename T, typename Index>
PLASTICINE_INLINE NearestSample<Index> nearest_axis(T coordinate, Index size) {
  const T x = pad_coordinate<padding>(coordinate, static_cast<T>(size - 1)).value;
  const T bounded = x > T(-2) ? x : T(-2);  // NaN, too, becomes an index that is not inside
  Index index = static_cast<Index>(bounded);
  index -= static_cast<T>(index) > bounded ? 1 : 0;
  const T fraction = bounded - static_cast<T>(index);
  // Half goes up from an odd index only.
  const Index up_at_half = static_cast<Index>(fraction == T(0.5)) & index & 1;
  index += static_cast<Index>(fraction > T(0.5)) | up_at_half;
  index = padded_index<padding>(index, size);
  NearestSample<Index> sample;
  sample.inside = index >= 0 && index < size ? 1 : 0;
  sample.is_nan = x == x ? 0 : 1;
  const Index raised = index < 0 ? 0 : index;
  sample.index = raised < size ? raised : size - 1;
  return sample;
}

// Corner c of a cell is the upper neighbour along axis a where bit (D - 1 - a) of c is set, so the
// corners are in memory order: 2D (00, 01, 10, 11), 3D (000, 001, ..., 111).
template <int D>
constexpr int corner_count = 1 << D;

// Multilinear interpolation of the corner values. lower, upper: the weights per axis.
template <int D, typename T>
PLASTICINE_INLINE T interpolate(const T (&lower)[D], const T (&upper)[D],
                                const T (&corner)[corner_count<D>]) {
  static_assert(D == 2 || D == 3, "2D and 3D only");
  if constexpr (D == 2) {
    const T a = lower[1] * corner[0] + upper[1] * corner[1];
    const T b = lower[1] * corner[2] + upper[1] * corner[3];
    return lower[0] * a + upper[0] * b;
  } else {
    const T a = lower[2] * corner[0] + upper[2] * corner[1];
    const T b = lower[2] * corner[2] + upper[2] * corner[3];
    const T c = lower[2] * corner[4] + upper[2] * corner[5];
    const T d = lower[2] * corner[6] + upper[2] * corner[7];
    return lower[0] * (lower[1] * a + upper[1] * b) + upper[0] * (lower[1] * c + upper[1] * d);
  }
}

// Adds scale * (derivative of interpolate with respect to each axis' location) to gradient; the
// caller multiplies by AxisSample::derivative once all channels are summed.
template <int D, typename T>
PLASTICINE_INLINE void add_interpolation_gradient(const T (&lower)[D], const T (&upper)[D],
                                                  const T (&corner)[corner_count<D>], T scale,
                                                  T (&gradient)[D]) {
  static_assert(D == 2 || D == 3, "2D and 3D only");
  if constexpr (D == 2) {
    const T a = lower[1] * corner[0] + upper[1] * corner[1];
    const T b = lower[1] * corner[2] + upper[1] * corner[3];
    const T da = corner[1] - corner[0];
    const T db = corner[3] - corner[2];
    gradient[0] += scale * (b - a);
    gradient[1] += scale * (lower[0] * da + upper[0] * db);
  } else {
    const T a = lower[2] * corner[0] + upper[2] * corner[1];
    const T b = lower[2] * corner[2] + upper[2] * corner[3];
    const T c = lower[2] * corner[4] + upper[2] * corner[5];
    const T d = lower[2] * corner[6] + upper[2] * corner[7];
    const T da = corner[1] - corner[0];
    const T db = corner[3] - corner[2];
    const T dc = corner[5] - corner[4];
    const T dd = corner[7] - corner[6];
    gradient[0] += scale * ((lower[1] * c + upper[1] * d) - (lower[1] * a + upper[1] * b));
    gradient[1] += scale * (lower[0] * (b - a) + upper[0] * (d - c));
    gradient[2] += scale * (lower[0] * (lower[1] * da + upper[1] * db) +
                            upper[0] * (lower[1] * dc + upper[1] * dd));
  }
}

// The weight with which corner c enters interpolate, hence the share of the output's gradient that
// the voxel at that corner receives.
template <int D, typename T>
PLASTICINE_INLINE T corner_weight(const T (&lower)[D], const T (&upper)[D], int c) {
  T weight = T(1);
  for (int axis = 0; axis < D; ++axis) {
    weight *= (c >> (D - 1 - axis)) & 1 ? upper[axis] : lower[axis];
  }
  return weight;
}

PLASTICINE_NAMESPACE_END
