// The CPU's form of an axis sample: the cell of two neighbouring voxels that is loaded, with a
// weight for each, where a neighbour outside the image has weight zero. A cell never leaves the
// image, so that it is loaded without a test, whichever the padding.
//
// A weight of zero does not silence a NaN or an infinity: where a result comes out as NaN it must
// be computed again from AxisSample (warp_careful.h). All other results are exact. A NaN coordinate
// gives NaN weights, and so NaN values and NaN derivatives on the other axes.
#pragma once

#include "warp_math.h"

PLASTICINE_NAMESPACE_BEGIN

template <typename T, typename Index>
struct AxisCell {
  Index base;      // the first of the two voxels, in [0, max(size - 2, 0)]
  T weight_first;  // of the voxel at base
  T weight_second;
  T slope_first;  // the derivative of weight_first with respect to the coordinate
  T slope_second;
};

template <Padding padding, typename T, typename Index>
PLASTICINE_INLINE AxisCell<T, Index> axis_cell(T coordinate, Index size) {
  const PaddedCoordinate<T> padded = pad_coordinate<padding>(coordinate, static_cast<T>(size - 1));
  const T x = padded.value;
  const Index last_base = size > 1 ? size - 2 : 0;
  const Index truncated = static_cast<Index>(x > T(0) ? x : T(0));
  AxisCell<T, Index> cell;
  cell.base = truncated < last_base ? truncated : last_base;
  const T t = x - static_cast<T>(cell.base);
  if constexpr (padding == Padding::zeros) {
    // A hat for each of the two voxels, of which one or both may be out of reach. The slopes are
    // those of the interval that t lies in, closed below as floor is.
    const T second = size > 1 ? T(1) : T(0);
    const T hat_first = T(1) - (t < T(0) ? -t : t);
    const T hat_second = T(1) - (t < T(1) ? T(1) - t : t - T(1));
    cell.weight_first = hat_first < T(0) ? T(0) : hat_first;
    cell.weight_second = second * (hat_second < T(0) ? T(0) : hat_second);
    const T rising_first = t < T(-1) ? T(0) : padded.derivative;
    const T falling_first = t < T(1) ? -padded.derivative : T(0);
    cell.slope_first = t < T(0) ? rising_first : falling_first;
    const T rising_second = t < T(0) ? T(0) : padded.derivative;
    const T falling_second = t < T(2) ? -padded.derivative : T(0);
    cell.slope_second = second * (t < T(1) ? rising_second : falling_second);
  } else {
    // x is within the image, and at its last voxel, where the second voxel has weight one, the
    // derivative is zero.
    cell.weight_first = T(1) - t;
    cell.weight_second = t;
    cell.slope_first = -padded.derivative;
    cell.slope_second = padded.derivative;
  }
  return cell;
}

PLASTICINE_NAMESPACE_END
