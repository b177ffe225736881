// The penalty of a Jacobian determinant and its slope. One source for host and device.
#pragma once

#include "core/macros.h"
#include "core/types.h"
#include "folding/math/folding.h"

PLASTICINE_NAMESPACE_BEGIN

// Below the threshold both kinds are a line: threshold - J, or the tangent of log(J)^2 there. Above
// it the hinge is 0. A NaN is on the line, and so is what it pays.
template <typename T>
struct JacobianPenalty {
  bool is_log;
  T threshold;
  T level;  // of the line, at the threshold
  T slope;

  PLASTICINE_INLINE JacobianPenalty(Penalty kind, double at)
      : is_log(kind == Penalty::log), threshold(static_cast<T>(at)), level(T(0)), slope(T(-1)) {
    if (is_log) {
      const double logarithm = natural_log(at);
      level = static_cast<T>(logarithm * logarithm);
      slope = static_cast<T>(2 * logarithm / at);
    }
  }

  PLASTICINE_INLINE bool is_above(T jacobian) const { return jacobian >= threshold; }

  // log: known at compile time in loops.
  template <bool log>
  PLASTICINE_INLINE T value(T jacobian) const {
    const T line = level + slope * (jacobian - threshold);
    if (!log) {
      return is_above(jacobian) ? T(0) : line;
    }
    const T logarithm = natural_log(is_above(jacobian) ? jacobian : threshold);
    return is_above(jacobian) ? logarithm * logarithm : line;
  }

  template <bool log>
  PLASTICINE_INLINE T derivative(T jacobian) const {
    if (!log) {
      return is_above(jacobian) ? T(0) : slope;
    }
    const T clipped = is_above(jacobian) ? jacobian : threshold;
    const T above = T(2) * natural_log(clipped) / clipped;
    return is_above(jacobian) ? above : slope;
  }
};

PLASTICINE_NAMESPACE_END
