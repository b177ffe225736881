// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "joint_histogram/rows/joint_histogram.h"

#include "core/macros.h"
#include "joint_histogram/avx512/cubic.h"
#include "joint_histogram/avx512/gaussian.h"
#include "joint_histogram/avx512/mattes.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

// Where the values of a block fall; T is the type of the weights.
template <typename T>
struct Places {
  alignas(64) std::int32_t cell[kBlock];
  alignas(64) T within[kBlock];  // of the cell, from 0 to 1; then what the taps are made of
};

// Places of values, with NaN replaced by 0. Returns whether one is NaN where it counts.
template <typename T, typename V>
PLASTICINE_INLINE bool locate(const BinAxis& of, const V* values, const V* counts, int n,
                              Places<T>* PLASTICINE_RESTRICT places) {
  const BinAxis axis = of;
  int nan = 0;
  for (int j = 0; j < n; ++j) {
    const double place = axis.place(static_cast<double>(values[j]));
    const double found = place == place ? place : 0;
    const std::int32_t cell = axis.cell(found);
    places->cell[j] = cell;
    places->within[j] = static_cast<T>(found - cell);
    nan |= place == place || counts[j] == V(0) ? 0 : 1;
  }
  return nan != 0;
}

// The mask of a block, or ones.
template <typename V>
PLASTICINE_INLINE const V* counts_of(const VoxelBlock<V>& block, V* buffer) {
  if (block.mask != nullptr) {
    return block.mask;
  }
  for (int j = 0; j < kBlock; ++j) {
    buffer[j] = 1;
  }
  return buffer;
}

// exp(x) for x in [0, 16]: a series of a 128th, and seven squares.
PLASTICINE_INLINE double exponential(double x) {
  const double part = x * (1.0 / 128);
  double series = 1;
  for (int term = 9; term >= 1; --term) {
    series = 1 + series * part * (1.0 / term);
  }
  for (int square = 0; square < 7; ++square) {
    series *= series;
  }
  return series;
}

// Four taps at a time: a register of AVX2, or what the compiler makes of it elsewhere.
template <typename T>
struct FourOf {
  using type __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)))) = T;
};
template <typename T>
using Four = typename FourOf<T>::type;

template <typename T>
PLASTICINE_INLINE T sum_of(const Four<T>& values) {
  return (values[0] + values[1]) + (values[2] + values[3]);
}

// The weights of a value's taps, and their derivatives by the place.
template <Parzen kernel, int taps, typename T>
struct Taps;

template <typename T>
struct Taps<Parzen::bspline, 4, T> {
  Four<T> weights[1];

  PLASTICINE_INLINE static void prepare(const ParzenBins&, int, T*) {}
  PLASTICINE_INLINE Taps(const ParzenBins&, int, T t) {
    const Four<T> cubic = {T(-1) / 6, T(3) / 6, T(-3) / 6, T(1) / 6};
    const Four<T> square = {T(3) / 6, T(-6) / 6, T(3) / 6, 0};
    const Four<T> linear = {T(-3) / 6, 0, T(3) / 6, 0};
    const Four<T> constant = {T(1) / 6, T(4) / 6, T(1) / 6, 0};
    weights[0] = ((cubic * t + square) * t + linear) * t + constant;
  }
  PLASTICINE_INLINE void slopes(const ParzenBins&, T t, Four<T>* out) const {
    const Four<T> square = {T(-3) / 6, T(9) / 6, T(-9) / 6, T(3) / 6};
    const Four<T> linear = {T(6) / 6, T(-12) / 6, T(6) / 6, 0};
    const Four<T> constant = {T(-3) / 6, 0, T(3) / 6, 0};
    out[0] = (square * t + linear) * t + constant;
  }
};

// The bin that is nearest.
template <typename T>
struct Taps<Parzen::mattes, 4, T> {
  Four<T> weights[1];

  PLASTICINE_INLINE static void prepare(const ParzenBins&, int, T*) {}
  PLASTICINE_INLINE Taps(const ParzenBins&, int, T t) {
    const T half = static_cast<T>(0.5);
    const T tie = static_cast<T>(kParzenTie);
    const T upper = (t - half > tie ? half : T(0)) + (t - half >= -tie ? half : T(0));
    weights[0] = Four<T>{0, 1 - upper, upper, 0};
  }
  PLASTICINE_INLINE void slopes(const ParzenBins&, T, Four<T>* out) const { out[0] = Four<T>{}; }
};

// exp(-(t - k)^2 / 2 s^2), over its sum, is a factor of the tap alone times the k-th power of
// exp(t / s^2): the power is what the places hold of t.
template <int taps, typename T>
struct Taps<Parzen::gaussian, taps, T> {
  Four<T> weights[taps / 4];

  PLASTICINE_INLINE static void prepare(const ParzenBins& bins, int n, T* places) {
    const double inverse_variance = bins.inverse_variance;
    for (int j = 0; j < n; ++j) {
      places[j] = static_cast<T>(exponential(static_cast<double>(places[j]) * inverse_variance));
    }
  }
  PLASTICINE_INLINE Taps(const ParzenBins& bins, int cell, T power) {
    const double q = static_cast<double>(power);
    const double square = q * q;
    Four<double> powers = {1, q, square, square * q};
    Four<double> found[taps / 4];
    Four<double> sums = {};
    for (int k = 0; k < taps / 4; ++k) {
      Four<double> factors;
      __builtin_memcpy(&factors, bins.gaussian + cell * taps + 4 * k, sizeof factors);
      found[k] = powers * factors;
      sums += found[k];
      powers *= square * square;
    }
    const double scale = 1 / sum_of<double>(sums);
    for (int k = 0; k < taps / 4; ++k) {
      weights[k] = __builtin_convertvector(found[k] * scale, Four<T>);
    }
  }
  PLASTICINE_INLINE void slopes(const ParzenBins& bins, T, Four<T>* out) const {
    Four<T> sums = {};
    Four<T> tap = {0, 1, 2, 3};
    for (int k = 0; k < taps / 4; ++k) {
      out[k] = tap;
      sums += weights[k] * tap;
      tap += T(4);
    }
    const T mean = sum_of<T>(sums);
    for (int k = 0; k < taps / 4; ++k) {
      out[k] = weights[k] * ((out[k] - mean) * static_cast<T>(bins.inverse_variance));
    }
  }
};

// The kernels of the two images.
template <Parzen kernel, int taps, typename T>
struct Pair {
  using X = Taps<kernel == Parzen::mattes ? Parzen::bspline : kernel, taps, T>;
  using Y = Taps<kernel, taps, T>;
};

template <Parzen kernel, int taps, typename V>
bool add(const VoxelBlock<V>& block, const ParzenBins& bins, const HistogramTable& table) {
  using X = typename Pair<kernel, taps, double>::X;
  using Y = typename Pair<kernel, taps, double>::Y;
  constexpr std::int32_t kPhases = HistogramTable::kPhases;
  const int n = block.n;
  double* const first = table.sums;
  const std::int64_t stride = table.stride;
  const std::int64_t copy = kPhases * table.phase;
  alignas(64) V buffer[kBlock];
  const V* const counts = counts_of(block, buffer);
  Places<double> x;
  Places<double> y;
  bool nan = locate(bins.x, block.x, counts, n, &x);
  nan = locate(bins.y, block.y, counts, n, &y) || nan;
  alignas(64) double weight[kBlock];
  alignas(64) std::int64_t offset[kBlock];
  int infinite = 0;
  for (int j = 0; j < n; ++j) {
    weight[j] = static_cast<double>(counts[j]);
    infinite |= weight[j] - weight[j] == 0 ? 0 : 1;
    const std::int32_t phase = y.cell[j] & (kPhases - 1);
    offset[j] = phase * table.phase + x.cell[j] * stride + (y.cell[j] - phase);
  }
  X::prepare(bins, n, x.within);
  Y::prepare(bins, n, y.within);
  for (int j = 0; j < n; ++j) {
    const X of_x(bins, x.cell[j], x.within[j]);
    const Y of_y(bins, y.cell[j], y.within[j]);
    double* sums = first + (j & 1) * copy + offset[j];
    for (int a = 0; a < taps; ++a) {
      const double share = of_x.weights[a / 4][a % 4] * weight[j];
      for (int b = 0; b < taps / 4; ++b) {
        Four<double> sum;
        __builtin_memcpy(&sum, sums + 4 * b, sizeof sum);
        sum += share * of_y.weights[b];
        __builtin_memcpy(sums + 4 * b, &sum, sizeof sum);
      }
      sums += stride;
    }
  }
  return nan || infinite != 0;
}

// What a voxel counts times the slope of its place, times the derivative by the place, which is the
// sum of four.
template <typename T>
PLASTICINE_INLINE void scale(const BinAxis& of, const T* values, const T* counts,
                             const T* derivatives, int n, T* PLASTICINE_RESTRICT out) {
  const BinAxis axis = of;
  if (out == nullptr) {
    return;
  }
  for (int j = 0; j < n; ++j) {
    // Of a narrow range float32 may not hold the slope alone.
    const double slope = axis.slope(static_cast<double>(values[j]));
    const T* const of = derivatives + 4 * j;
    const double derivative = static_cast<double>((of[0] + of[1]) + (of[2] + of[3]));
    out[j] = counts[j] == T(0) || slope == 0
                 ? T(0)
                 : static_cast<T>(derivative * (static_cast<double>(counts[j]) * slope));
  }
}

template <Parzen kernel, int taps, typename T>
void pull(const VoxelBlock<T>& block, const ParzenBins& bins, const HistogramGradient<T>& gradient,
          T* grad_x, T* grad_y) {
  using X = typename Pair<kernel, taps, T>::X;
  using Y = typename Pair<kernel, taps, T>::Y;
  const int n = block.n;
  const std::int64_t stride = gradient.stride;
  alignas(64) T counts_buffer[kBlock];
  const T* const counts = counts_of(block, counts_buffer);
  Places<T> x;
  Places<T> y;
  locate(bins.x, block.x, counts, n, &x);
  locate(bins.y, block.y, counts, n, &y);
  alignas(64) std::int64_t offset[kBlock];
  for (int j = 0; j < n; ++j) {
    offset[j] = x.cell[j] * stride + y.cell[j];
  }
  X::prepare(bins, n, x.within);
  Y::prepare(bins, n, y.within);
  alignas(64) T of_grad_x[4 * kBlock];
  alignas(64) T of_grad_y[4 * kBlock];
  for (int j = 0; j < n; ++j) {
    const X of_x(bins, x.cell[j], x.within[j]);
    const Y of_y(bins, y.cell[j], y.within[j]);
    Four<T> slope_x[taps / 4];
    Four<T> slope_y[taps / 4];
    of_x.slopes(bins, x.within[j], slope_x);
    of_y.slopes(bins, y.within[j], slope_y);
    // Of every column: the sums over the taps of x with its weights, and with their slopes.
    Four<T> along[taps / 4] = {};
    Four<T> across[taps / 4] = {};
    const T* values = gradient.values + offset[j];
    for (int a = 0; a < taps; ++a) {
      for (int b = 0; b < taps / 4; ++b) {
        Four<T> value;
        __builtin_memcpy(&value, values + 4 * b, sizeof value);
        along[b] += of_x.weights[a / 4][a % 4] * value;
        across[b] += slope_x[a / 4][a % 4] * value;
      }
      values += stride;
    }
    Four<T> sum_x = {};
    Four<T> sum_y = {};
    for (int b = 0; b < taps / 4; ++b) {
      sum_x += across[b] * of_y.weights[b];
      sum_y += along[b] * slope_y[b];
    }
    __builtin_memcpy(of_grad_x + 4 * j, &sum_x, sizeof sum_x);
    __builtin_memcpy(of_grad_y + 4 * j, &sum_y, sizeof sum_y);
  }
  scale(bins.x, block.x, counts, of_grad_x, n, grad_x);
  if constexpr (kernel != Parzen::mattes) {
    scale(bins.y, block.y, counts, of_grad_y, n, grad_y);
  } else if (grad_y != nullptr) {
    __builtin_memset(grad_y, 0, static_cast<std::size_t>(n) * sizeof(T));
  }
}

template <typename T>
constexpr JointHistogramRows<T> kTables[] = {
    {add<Parzen::bspline, 4, T>, pull<Parzen::bspline, 4, T>, nullptr, nullptr, nullptr},
    {add<Parzen::mattes, 4, T>, pull<Parzen::mattes, 4, T>, nullptr, nullptr, nullptr},
    {add<Parzen::gaussian, 8, T>, pull<Parzen::gaussian, 8, T>, nullptr, nullptr, nullptr},
    {add<Parzen::gaussian, 16, T>, pull<Parzen::gaussian, 16, T>, nullptr, nullptr, nullptr}};

#if defined(PLASTICINE_SIMD_AVX512)
constexpr JointHistogramRows<float> kFewBins[] = {
    {add_cubic, pull_cubic, cubic_lines, flush_cubic, spread_cubic},
    {add_nearest, pull_nearest, nearest_lines, flush_nearest, spread_nearest},
    {add_gaussian, pull_gaussian, gaussian_lines, flush_gaussian, spread_gaussian}};
#endif

}  // namespace

template <typename T>
const JointHistogramRows<T>& joint_histogram_rows(Parzen kernel, int taps, bool few) {
  const int index = kernel == Parzen::bspline ? 0 : kernel == Parzen::mattes ? 1 : 2;
#if defined(PLASTICINE_SIMD_AVX512)
  if constexpr (sizeof(T) == sizeof(float)) {
    if (few && taps <= 8) {
      return kFewBins[index];
    }
  }
#endif
  (void)few;
  return kTables<T>[taps == 16 ? 3 : index];
}

template const JointHistogramRows<float>& joint_histogram_rows(Parzen, int, bool);
template const JointHistogramRows<double>& joint_histogram_rows(Parzen, int, bool);

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
