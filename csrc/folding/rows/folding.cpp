// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include <cstdint>

#include "folding/math/folding.h"
#include "folding/rows/folding.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

constexpr int kPart = 128;
constexpr int kLanes = 16;

// Sums in a fixed order that vectorises.
template <typename T>
double sum_of(const T* values, int n) {
  double sum[kLanes] = {};
  int x = 0;
  for (; x + kLanes <= n; x += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      sum[lane] += static_cast<double>(values[x + lane]);
    }
  }
  for (int lane = 0; x + lane < n; ++lane) {
    sum[lane] += static_cast<double>(values[x + lane]);
  }
  double total = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    total += sum[lane];
  }
  return total;
}

template <typename T>
double log_jacobian(T jacobian) {
  return static_cast<double>(clipped_log(jacobian));
}

template <typename T>
void add_part(const T* PLASTICINE_RESTRICT jacobian, int n, T log_shift, FoldingSums* sums) {
  alignas(64) T logs[kPart];
  alignas(64) T squares[kPart];
  int folds = 0;
  int nan = 0;
  for (int x = 0; x < n; ++x) {
    const T value = jacobian[x];
    folds += value > T(0) ? 0 : 1;  // NaN is no sign of a map without folds
    nan += value == value ? 0 : 1;
    const T logarithm = clipped_log(value) - log_shift;
    logs[x] = logarithm;
    squares[x] = logarithm * logarithm;
  }
  T low[kLanes];
  T high[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    low[lane] = static_cast<T>(sums->minimum);
    high[lane] = static_cast<T>(sums->maximum);
  }
  int x = 0;
  for (; x + kLanes <= n; x += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const T value = jacobian[x + lane];
      low[lane] = value < low[lane] ? value : low[lane];
      high[lane] = value > high[lane] ? value : high[lane];
    }
  }
  for (; x < n; ++x) {
    low[0] = jacobian[x] < low[0] ? jacobian[x] : low[0];
    high[0] = jacobian[x] > high[0] ? jacobian[x] : high[0];
  }
  for (int lane = 1; lane < kLanes; ++lane) {
    low[0] = low[lane] < low[0] ? low[lane] : low[0];
    high[0] = high[lane] > high[0] ? high[lane] : high[0];
  }
  sums->minimum = static_cast<double>(low[0]);
  sums->maximum = static_cast<double>(high[0]);
  sums->folds += folds;
  sums->nan += nan;
  sums->log_sum += sum_of(logs, n);
  sums->log_squares += sum_of(squares, n);
}

template <typename T>
void add_jacobians(const T* jacobian, int n, T log_shift, FoldingSums* sums) {
  for (int start = 0; start < n; start += kPart) {
    const int count = n - start < kPart ? n - start : kPart;
    add_part(jacobian + start, count, log_shift, sums);
  }
}

template <int D, typename T>
void add_cells_of(const T* const (*corner)[4], const T* scale, int n, double* volume) {
  constexpr int kLines = 1 << (D - 1);
  const T* lines[D][kLines];
  T scales[D];
  for (int i = 0; i < D; ++i) {
    scales[i] = scale[i];
    for (int line = 0; line < kLines; ++line) {
      lines[i][line] = corner[i][line];
    }
  }
  alignas(64) T volumes[kPart];
  for (int start = 0; start < n; start += kPart) {
    const int count = n - start < kPart ? n - start : kPart;
    for (int x = 0; x < count; ++x) {
      T u[2 * kLines][D];
      for (int i = 0; i < D; ++i) {
        for (int line = 0; line < kLines; ++line) {
          u[2 * line][i] = scales[i] * lines[i][line][start + x];
          u[2 * line + 1][i] = scales[i] * lines[i][line][start + x + 1];
        }
      }
      volumes[x] = cell_non_diffeomorphic_volume(u);
    }
    *volume += sum_of(volumes, count);
  }
}

template <typename T>
void add_cells(int ndim, const T* const (*corner)[4], const T* scale, int n, double* volume) {
  if (ndim == 2) {
    add_cells_of<2>(corner, scale, n, volume);
  } else {
    add_cells_of<3>(corner, scale, n, volume);
  }
}

template <typename T>
constexpr FoldingRows<T> kTable = {add_jacobians<T>, log_jacobian<T>, add_cells<T>};

}  // namespace

template <typename T>
const FoldingRows<T>& folding_rows() {
  return kTable<T>;
}

template const FoldingRows<float>& folding_rows();
template const FoldingRows<double>& folding_rows();

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
