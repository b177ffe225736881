// The warp's double backward one voxel at a time, every neighbour tested: for the blocks where a
// NaN or an infinity is met.
#pragma once

#include <limits>

#include "warp_careful.h"

namespace plasticine {

// A cell's value, or its derivative with respect to the coordinates on the axes in `along` (bit a
// for axis a). NaN where there is no location; exactly zero where an axis is clamped, whatever the
// image holds.
template <int D, typename T>
T careful_derivative(const CarefulCell<D, T>& cell, const ImageShape& shape,
                     const T (&corner)[corner_count<D>], unsigned along) {
  T factor = T(1);
  for (int a = 0; a < D; ++a) {
    if (!(cell.axis[a].derivative == cell.axis[a].derivative)) {
      return std::numeric_limits<T>::quiet_NaN();
    }
    factor *= (along >> a) & 1 ? cell.axis[a].derivative : T(1);
  }
  T sum = T(0);
  if (factor != T(0)) {
    cell.for_each_inside(shape, [&](int c, std::int64_t) {
      T weight = factor;
      for (int a = 0; a < D; ++a) {
        const bool up = (c >> (D - 1 - a)) & 1;
        const T slope = up ? T(1) : T(-1);
        weight *= (along >> a) & 1 ? slope : (up ? cell.upper[a] : cell.lower[a]);
      }
      sum += corner[c] * weight;
    });
  }
  return sum;
}

// See DoubleBackwardRows::first_order and, where direction is not null, second_order.
template <int D, typename Stored, typename T>
void careful_order(const void* image, const ImageShape& shape, Padding padding,
                   const T* coordinates, int n, const T* grad, const T* direction, T* value,
                   T* gradient) {
  for (int j = 0; j < n; ++j) {
    const CarefulCell<D, T> cell(coordinates, j, shape, padding);
    T corner[corner_count<D>];
    cell.load_corners(static_cast<const Stored*>(image), shape, corner);
    if (direction == nullptr) {
      value[j] += careful_derivative(cell, shape, corner, 0u);
      for (int a = 0; a < D; ++a) {
        gradient[a * kBlock + j] += grad[j] * careful_derivative(cell, shape, corner, 1u << a);
      }
      continue;
    }
    for (int a = 0; a < D; ++a) {
      const T along = direction[a * kBlock + j];
      value[j] += along * careful_derivative(cell, shape, corner, 1u << a);
      for (int b = 0; b < D; ++b) {
        if (b != a) {
          gradient[b * kBlock + j] +=
              grad[j] * (along * careful_derivative(cell, shape, corner, 1u << a | 1u << b));
        }
      }
    }
  }
}

// See DoubleBackwardRows::scatter; the corners' weights are computed on the way.
template <int D, typename T>
void careful_directed_scatter(T* image, const ImageShape& shape, Padding padding,
                              const T* coordinates, int n, const T* grad, const T* direction,
                              const OwnedRange& owned) {
  const int shift = D - 1 - owned.axis;
  for (int j = 0; j < n; ++j) {
    const CarefulCell<D, T> cell(coordinates, j, shape, padding);
    const auto& owner = cell.axis[owned.axis];
    cell.for_each_inside(shape, [&](int c, std::int64_t offset) {
      const std::int64_t position = (c >> shift) & 1 ? owner.upper : owner.lower;
      if (position < owned.first || position >= owned.last) {
        return;
      }
      T sum = T(0);
      for (int along = 0; along < D; ++along) {
        if (cell.axis[along].derivative == T(0)) {
          continue;
        }
        T weight = direction[along * kBlock + j];
        for (int a = 0; a < D; ++a) {
          const bool up = (c >> (D - 1 - a)) & 1;
          const T slope = up ? cell.axis[a].derivative : -cell.axis[a].derivative;
          weight *= a == along ? slope : (up ? cell.upper[a] : cell.lower[a]);
        }
        sum += weight;
      }
      image[offset] += grad[j] * sum;
    });
  }
}

}  // namespace plasticine
