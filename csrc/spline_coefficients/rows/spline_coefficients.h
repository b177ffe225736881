// The vectorised inner loops of the spline's systems: many lines at once, each in a column.
#pragma once

#include <cstdint>

#include "core/cpu/simd.h"

namespace plasticine {

// Lines that lie next to each other in memory are solved this many at a time.
constexpr int kSplineLines = 64;
// Lines along the last axis, this many: they are transposed first.
constexpr int kSplineRows = 16;

// One system's factors; see SplineFactors.
template <typename T>
struct SplineSystem {
  const T* gain;
  const T* lower;
  const T* upper;
  std::int64_t size;
};

template <typename T>
struct SplineRows {
  // Solves in place; panel is (size, width), width a multiple of kSplineRows up to kSplineLines.
  void (*solve)(const SplineSystem<T>& system, int width, T* panel);
  // panel (size, kSplineRows) to rows (kSplineRows, pitch), and back.
  void (*to_rows)(const T* panel, std::int64_t size, std::int64_t pitch, T* rows);
  void (*from_rows)(const T* rows, std::int64_t size, std::int64_t pitch, T* panel);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T> const SplineRows<T>& spline_rows();)

namespace plasticine {

template <typename T>
const SplineRows<T>& select_spline_rows() {
  return PLASTICINE_SELECT_SIMD(spline_rows<T>)();
}

}  // namespace plasticine
