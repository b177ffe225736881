// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "spline_coefficients/rows/spline_coefficients.h"

#include "core/macros.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

// The row before is kept in registers, or at least in the nearest cache.
template <int width, typename T>
void solve_panel(const SplineSystem<T>& system, T* panel) {
  alignas(64) T before[width] = {};
  T* row = panel;
  for (std::int64_t i = 0; i < system.size; ++i, row += width) {
    const T gain = system.gain[i];
    const T lower = system.lower[i];
    for (int x = 0; x < width; ++x) {
      before[x] = gain * row[x] - lower * before[x];
      row[x] = before[x];
    }
  }
  for (int x = 0; x < width; ++x) {
    before[x] = T(0);
  }
  for (std::int64_t i = system.size - 1; i >= 0; --i) {
    row -= width;
    const T upper = system.upper[i];
    for (int x = 0; x < width; ++x) {
      before[x] = row[x] - upper * before[x];
      row[x] = before[x];
    }
  }
}

template <typename T>
void solve(const SplineSystem<T>& system, int width, T* panel) {
  switch (width) {
    case 16:
      return solve_panel<16>(system, panel);
    case 32:
      return solve_panel<32>(system, panel);
    case 48:
      return solve_panel<48>(system, panel);
    default:
      return solve_panel<64>(system, panel);
  }
}

template <typename T>
void to_rows(const T* PLASTICINE_RESTRICT panel, std::int64_t size, std::int64_t pitch,
             T* PLASTICINE_RESTRICT rows) {
  for (std::int64_t i = 0; i < size; ++i) {
    for (int r = 0; r < kSplineRows; ++r) {
      rows[r * pitch + i] = panel[i * kSplineRows + r];
    }
  }
}

template <typename T>
void from_rows(const T* PLASTICINE_RESTRICT rows, std::int64_t size, std::int64_t pitch,
               T* PLASTICINE_RESTRICT panel) {
  for (std::int64_t i = 0; i < size; ++i) {
    for (int r = 0; r < kSplineRows; ++r) {
      panel[i * kSplineRows + r] = rows[r * pitch + i];
    }
  }
}

template <typename T>
constexpr SplineRows<T> kTable = {solve<T>, to_rows<T>, from_rows<T>};

}  // namespace

template <typename T>
const SplineRows<T>& spline_rows() {
  return kTable<T>;
}

template const SplineRows<float>& spline_rows();
template const SplineRows<double>& spline_rows();

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
