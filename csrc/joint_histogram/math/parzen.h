// Where a value falls on the axis of bins, and the bins that it is shared out to; for host and
// device.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/types.h"

PLASTICINE_NAMESPACE_BEGIN

// The taps of a Gaussian reach 8 standard deviations: what lies beyond weighs less than 2e-14.
constexpr int parzen_taps(Parzen kernel, double sigma) {
  return kernel != Parzen::gaussian ? 4 : sigma <= 0.5 ? 8 : 16;
}

// Half of a value goes to either of two bins that are as near but for this: which of them rounding
// finds to be nearer does not matter then.
constexpr double kParzenTie = 1.0 / 65536;

// The axis of bins of one image. A value between least and greatest lies (value - least) * scale
// cells beyond the first; a value in cell c weighs in the `taps` bins from c - lead on.
struct BinAxis {
  double least;
  double greatest;
  double scale;
  int cells;
  int lead;

  // Infinite values and ranges are clamped; NaN stays NaN.
  PLASTICINE_INLINE static BinAxis of(double least, double greatest, int bins, Parzen kernel,
                                      int taps) {
    BinAxis axis;
    axis.least = least;
    axis.greatest = greatest < least ? least : greatest;
    axis.cells = kernel == Parzen::bspline    ? bins - 3
                 : kernel == Parzen::gaussian ? bins - 1
                                              : bins - 5;
    axis.lead = kernel == Parzen::bspline ? 0 : kernel == Parzen::gaussian ? taps / 2 - 1 : -1;
    const double span = axis.greatest - axis.least;
    axis.scale = span == 0 ? 0 : axis.cells / span;
    return axis;
  }

  PLASTICINE_INLINE double place(double value) const {
    value = value < least ? least : value;
    value = value > greatest ? greatest : value;
    return (value - least) * scale;
  }

  // Of a place that is no NaN.
  PLASTICINE_INLINE int cell(double place) const {
    const int index = static_cast<int>(place);
    return index < cells ? index : cells - 1;
  }

  // The derivative of the place: 0 where it is clamped.
  PLASTICINE_INLINE double slope(double value) const {
    return value >= least && value <= greatest ? scale : 0;
  }
};

PLASTICINE_NAMESPACE_END
