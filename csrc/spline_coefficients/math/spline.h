// The system that makes a cubic B-spline pass through a line of values, factored.
//
// At voxel i the spline is (c[i - 1] + 4 c[i] + c[i + 1]) / 6. Beyond the edge a coefficient is 0
// (zeros), that of the edge (border) or its mirror image about the edge voxel (reflection). Forward
// and back substitution (Thomas) is stable without pivoting: the system is diagonally dominant.
#pragma once

#include <cstdint>
#include <vector>

#include "core/types.h"

namespace plasticine {

// d[i] = gain[i] * f[i] - lower[i] * d[i - 1] upwards, then c[i] = d[i] - upper[i] * c[i + 1]
// downwards; lower[0] and upper[size - 1] are 0.
template <typename T>
struct SplineFactors {
  std::vector<T> gain;
  std::vector<T> lower;
  std::vector<T> upper;

  // adjoint: of the transposed system.
  SplineFactors(std::int64_t size, Padding padding, bool adjoint)
      : gain(size), lower(size), upper(size) {
    double previous = 0.0;  // upper of the row before
    for (std::int64_t i = 0; i < size; ++i) {
      const double below = coefficient(i, i - 1, size, padding, adjoint);
      const double above = coefficient(i, i + 1, size, padding, adjoint);
      const double pivot = coefficient(i, i, size, padding, adjoint) - below * previous;
      gain[i] = static_cast<T>(6.0 / pivot);
      lower[i] = static_cast<T>(below / pivot);
      previous = above / pivot;
      upper[i] = static_cast<T>(previous);
    }
  }

 private:
  // Six times the entry of the matrix; 0 outside of it.
  static double coefficient(std::int64_t row, std::int64_t column, std::int64_t size,
                            Padding padding, bool adjoint) {
    if (column < 0 || column >= size) {
      return 0.0;
    }
    if (adjoint) {
      const std::int64_t swap = row;
      row = column;
      column = swap;
    }
    const std::int64_t last = size - 1;
    double sum = row == column ? 4.0 : 1.0;
    // What the neighbour beyond an edge stands for.
    for (const std::int64_t beyond : {std::int64_t{-1}, size}) {
      const std::int64_t edge = beyond < 0 ? 0 : last;
      const std::int64_t inner = beyond < 0 ? 1 : last - 1;
      if (row == edge) {
        const std::int64_t mirror = size > 1 ? inner : 0;
        sum += padding == Padding::border && column == edge ? 1.0 : 0.0;
        sum += padding == Padding::reflection && column == mirror ? 1.0 : 0.0;
      }
    }
    return sum;
  }
};

}  // namespace plasticine
