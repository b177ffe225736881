// The CPU's form of an axis sample: the cell of two neighbouring voxels that is loaded, with a
// weight for each, where a neighbour outside the image has weight zero. A cell never leaves the
// image, so that it is loaded without a test, whichever the padding.
//
// A weight of zero does not silence a NaN or an infinity: where a result comes out as NaN it must
// be computed again from AxisSample (cpu/scalar.h). All other results are exact. A NaN coordinate
// gives NaN weights, and so NaN values and NaN derivatives on the other axes.
#pragma once

#include "warp/math/linear.h"

PLASTICINE_NAMESPACE_BEGIN

template <typename T, typename Index>
struct AxisCell {
  Index base;      // the first of the two voxels, in [0, max(size - 2, 0)]
  T weight_first;  // of the voxel at base
  T weight_second;
  T derivative_first;  // the derivative of weight_first with respect to the coordinate
  T derivative_second;
};

template <Padding padding, typename T, typename Index>
PLASTICINE_INLINE AxisCell<T, Index> axis_cell(T coordinate, Index size) {
  const T zero = constant<T>(0);
  const T one = constant<T>(1);
  const Index none = index_below<Index>(zero);
  const PaddedCoordinate<T> padded = pad_coordinate<padding>(coordinate, index_value<T>(size - 1));
  const T x = padded.value;
  const Index last_base = size > 1 ? size - 2 : none;
  const Index truncated = index_below<Index>(x);
  AxisCell<T, Index> cell;
  cell.base = truncated < last_base ? truncated : last_base;
  const T t = x - index_value<T>(cell.base);
  if constexpr (padding == Padding::zeros) {
    // A hat for each of the two voxels, of which one or both may be out of reach. The derivatives
    // are those of the interval that t lies in, closed below as floor is.
    const T second = index_value<T>(size) > one ? one : zero;
    const T hat_first = one - (t < zero ? -t : t);
    const T hat_second = t < one ? t : constant<T>(2) - t;
    cell.weight_first = hat_first < zero ? zero : hat_first;
    cell.weight_second = second * (hat_second < zero ? zero : hat_second);
    const T rising_first = t < -one ? zero : padded.derivative;
    const T falling_first = t < one ? -padded.derivative : zero;
    cell.derivative_first = t < zero ? rising_first : falling_first;
    const T rising_second = t < zero ? zero : padded.derivative;
    const T falling_second = t < constant<T>(2) ? -padded.derivative : zero;
    cell.derivative_second = second * (t < one ? rising_second : falling_second);
  } else {
    // x is within the image, and at its last voxel, where the second voxel has weight one, the
    // derivative is zero. From 2^24 voxels on the last one's coordinate may round up (float32).
    const T second = at_most(t, one);
    cell.weight_first = one - second;
    cell.weight_second = second;
    cell.derivative_first = -padded.derivative;
    cell.derivative_second = padded.derivative;
  }
  return cell;
}

// The same, to the bit, of a coordinate that is known to be above 0 and below size - 1, where no
// padding has a say.
template <typename Index, typename T>
PLASTICINE_INLINE AxisCell<T, Index> inner_axis_cell(T coordinate) {
  const T one = constant<T>(1);
  AxisCell<T, Index> cell;
  cell.base = index_below<Index>(coordinate);
  cell.weight_second = coordinate - index_value<T>(cell.base);
  cell.weight_first = one - cell.weight_second;
  cell.derivative_first = -one;
  cell.derivative_second = one;
  return cell;
}

PLASTICINE_NAMESPACE_END
