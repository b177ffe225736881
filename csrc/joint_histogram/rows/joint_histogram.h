// The vectorised inner loops of the joint histogram, over blocks of voxels.
#pragma once

#include <cstdint>

#include "core/cpu/simd.h"
#include "core/rows/block.h"
#include "core/types.h"
#include "joint_histogram/math/parzen.h"

namespace plasticine {

// The bins that the values of two images are shared out to.
struct ParzenBins {
  Parzen kernel;
  int taps;
  BinAxis x;
  BinAxis y;
  double inverse_variance;  // of the Gaussian, in bins
  const double* gaussian;   // its factor of every tap in every cell, 0 outside of the histogram
};

// Up to kBlock voxels. T is the type of computation.
template <typename T>
struct VoxelBlock {
  int n;
  const T* x;
  const T* y;
  const T* mask;  // or null
};

// What voxels are added to: rows over the taps of x, columns over those of y, each in cells.
// Tables of four phases: the columns of a cell c begin at c rounded down to a multiple of four, in
// the table of the remainder, so that whatever meets in memory is aligned alike. They are there
// twice, for even and for odd voxels, which then do not wait for each other.
struct HistogramTable {
  double* sums;
  std::int64_t stride;  // of rows
  std::int64_t phase;   // of phases
  // Where rows have lines, of which the sums are then but one table: zeros, aligned to 64 bytes.
  float* lines;
  unsigned char* hits;  // zeros, two for each line

  static constexpr int kPhases = 4;
  static constexpr int kCopies = 2;
};

// The gradient of the histogram, in cells as above, without phases and copies.
template <typename T>
struct HistogramGradient {
  const T* values;
  std::int64_t stride;
  const T* lines;  // what rows have made of it, aligned to 64 bytes
};

template <typename T>
struct JointHistogramRows {
  // Adds voxels; returns whether one that counts is NaN, or what it counts not finite.
  bool (*add)(const VoxelBlock<T>& block, const ParzenBins& bins, const HistogramTable& table);
  // The gradients of voxels; either may be null.
  void (*pull)(const VoxelBlock<T>& block, const ParzenBins& bins,
               const HistogramGradient<T>& gradient, T* grad_x, T* grad_y);
  // The lines of 64 bytes that all this is done in; null, as what follows, where there are none.
  std::int64_t (*lines)(const ParzenBins& bins);
  // Adds the lines to the sums when all is added.
  void (*flush)(const ParzenBins& bins, const HistogramTable& table);
  // Fills lines for pull() from the values of the gradient; may be null.
  void (*spread)(const ParzenBins& bins, const HistogramGradient<T>& gradient, T* lines);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T>
                        const JointHistogramRows<T>& joint_histogram_rows(Parzen kernel, int taps,
                                                                          bool few);)

namespace plasticine {

// few: there are so few bins that lines for each cell stay in a core's caches.
template <typename T>
const JointHistogramRows<T>& select_joint_histogram_rows(Parzen kernel, int taps, bool few) {
  return PLASTICINE_SELECT_SIMD(joint_histogram_rows<T>)(kernel, taps, few);
}

}  // namespace plasticine
