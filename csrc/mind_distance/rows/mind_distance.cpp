// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "mind_distance/rows/mind_distance.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

// So many voxels at a time, whose descriptors stay in the first-level cache.
constexpr int kPart = 64;

// Of x from -kMindPairs to 0: a descriptor's exponent is no less than the negative number of pairs,
// for a distance is no more than the sum of all. Powers of two by the exponent's bits.
PLASTICINE_INLINE float exponential(float x) {
  constexpr float kRound = 0x1.8p23f;
  const float shifted = x * 1.44269504088896341f + kRound;
  const float power = shifted - kRound;
  const float rest = (x - power * 0.693359375f) + power * 2.12194440e-4f;
  float sum = 1.9875691500e-4f;
  sum = sum * rest + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  std::uint32_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3f800000u;
  float scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return sum * scale;
}

PLASTICINE_INLINE double exponential(double x) {
  constexpr double kRound = 0x1.8p52;
  const double shifted = x * 1.4426950408889634 + kRound;
  const double power = shifted - kRound;
  const double rest = (x - power * 6.93147180369123816490e-1) - power * 1.90821492927058770002e-10;
  double sum = 1.0 / 6227020800;
  sum = sum * rest + 1.0 / 479001600;
  sum = sum * rest + 1.0 / 39916800;
  sum = sum * rest + 1.0 / 3628800;
  sum = sum * rest + 1.0 / 362880;
  sum = sum * rest + 1.0 / 40320;
  sum = sum * rest + 1.0 / 5040;
  sum = sum * rest + 1.0 / 720;
  sum = sum * rest + 1.0 / 120;
  sum = sum * rest + 1.0 / 24;
  sum = sum * rest + 1.0 / 6;
  sum = sum * rest + 0.5;
  sum = sum * rest + 1.0;
  sum = sum * rest + 1.0;
  std::uint64_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 52) + 0x3ff0000000000000u;
  double scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return sum * scale;
}

PLASTICINE_INLINE float root(float x) { return __builtin_sqrtf(x); }
PLASTICINE_INLINE double root(double x) { return __builtin_sqrt(x); }

template <typename T>
void square(const T* a, const T* b, int n, T* PLASTICINE_RESTRICT out) {
  for (int j = 0; j < n; ++j) {
    const T difference = a[j] - b[j];
    out[j] = difference * difference;
  }
}

template <int taps, typename T>
void combine_taps(const T* rows, std::int64_t stride, const T* weights, int n,
                  T* PLASTICINE_RESTRICT out) {
  T weight[taps];
  for (int tap = 0; tap < taps; ++tap) {
    weight[tap] = weights[tap];
  }
  for (int j = 0; j < n; ++j) {
    T sum = weight[0] * rows[j];
    for (int tap = 1; tap < taps; ++tap) {
      sum += weight[tap] * rows[tap * stride + j];
    }
    out[j] = sum;
  }
}

template <typename T>
void combine(const T* rows, std::int64_t stride, const T* weights, int taps, int n, T* out) {
  switch (taps) {
    case 1:
      return combine_taps<1>(rows, stride, weights, n, out);
    case 2:
      return combine_taps<2>(rows, stride, weights, n, out);
    case 3:
      return combine_taps<3>(rows, stride, weights, n, out);
    case 4:
      return combine_taps<4>(rows, stride, weights, n, out);
    case 5:
      return combine_taps<5>(rows, stride, weights, n, out);
    default:
      combine_taps<5>(rows, stride, weights, n, out);
      for (int tap = 5; tap < taps; ++tap) {
        const T* row = rows + tap * stride;
        const T weight = weights[tap];
        PLASTICINE_INDEPENDENT
        for (int j = 0; j < n; ++j) {
          out[j] += weight * row[j];
        }
      }
  }
}

template <int taps, typename T>
void smooth_taps(const T* row, const T* weights, int n, T* PLASTICINE_RESTRICT out) {
  T weight[taps];
  for (int tap = 0; tap < taps; ++tap) {
    weight[tap] = weights[tap];
  }
  for (int j = 0; j < n; ++j) {
    T sum = weight[0] * row[j];
    for (int tap = 1; tap < taps; ++tap) {
      sum += weight[tap] * row[j + tap];
    }
    out[j] = sum;
  }
}

template <typename T>
void smooth(const T* row, const T* weights, int taps, int n, T* out) {
  if (taps == 3) {
    return smooth_taps<3>(row, weights, n, out);
  }
  smooth_taps<5>(row, weights, n, out);
  for (int tap = 5; tap < taps; ++tap) {
    const T weight = weights[tap];
    PLASTICINE_INDEPENDENT
    for (int j = 0; j < n; ++j) {
      out[j] += weight * row[j + tap];
    }
  }
}

// Of m neighbours, less the centre: all squared differences of two are m times the squares' sum
// less the square of the sum; of those, opposite ones are not compared.
template <typename T>
double variance(const T* const* points, int count, const T* weights, int n) {
  double total = 0;
  for (int start = 0; start < n; start += kMindLanes) {
    T squares[kMindLanes] = {};
    T sum[kMindLanes] = {};
    T opposite[kMindLanes] = {};
    const T* centre = points[0] + start;
    for (int i = 1; i < count; i += 2) {
      const T* below = points[i] + start;
      const T* above = points[i + 1] + start;
      for (int j = 0; j < kMindLanes; ++j) {
        const T a = below[j] - centre[j];
        const T b = above[j] - centre[j];
        squares[j] += a * a + b * b;
        sum[j] += a + b;
        opposite[j] += (a - b) * (a - b);
      }
    }
    T counted = T(0);
    for (int j = 0; j < kMindLanes; ++j) {
      counted +=
          weights[start + j] * (static_cast<T>(count) * squares[j] - sum[j] * sum[j] - opposite[j]);
    }
    total += static_cast<double>(counted);
  }
  return total;
}

template <typename T>
void pull_variance(const T* const* points, int count, const T* weights, int n,
                   T* const* gradients) {
  for (int start = 0; start < n; start += kMindLanes) {
    T neighbour[kMindPoints][kMindLanes];
    T sum[kMindLanes] = {};
    for (int i = 1; i < count; ++i) {
      for (int j = 0; j < kMindLanes; ++j) {
        neighbour[i][j] = points[i][start + j] - points[0][start + j];
        sum[j] += neighbour[i][j];
      }
    }
    T of_centre[kMindLanes] = {};
    for (int i = 1; i < count; ++i) {
      const int opposite = i % 2 == 1 ? i + 1 : i - 1;
      T pulled[kMindLanes];
      for (int j = 0; j < kMindLanes; ++j) {
        const T own = static_cast<T>(count - 1) * neighbour[i][j];
        pulled[j] = 2 * weights[start + j] * (own + neighbour[opposite][j] - sum[j]);
        of_centre[j] -= pulled[j];
      }
      for (int j = 0; j < kMindLanes; ++j) {
        gradients[i][start + j] += pulled[j];
      }
    }
    for (int j = 0; j < kMindLanes; ++j) {
      gradients[0][start + j] += of_centre[j];
    }
  }
}

// The descriptors of N voxels.
template <int N, typename T>
struct Descriptors {
  T value[kMindPairs][N];
  T inverse[N];    // of the variance, or of the floor
  T is_varied[N];  // 1, or 0 where the floor counts

  PLASTICINE_INLINE void find(const T* distances, std::int64_t stride, int pairs, T floor) {
    T variance[N];
    for (int j = 0; j < N; ++j) {
      variance[j] = distances[j];
    }
    for (int k = 1; k < pairs; ++k) {
      const T* distance = distances + k * stride;
      for (int j = 0; j < N; ++j) {
        variance[j] += distance[j];
      }
    }
    const T share = T(1) / static_cast<T>(pairs);
    for (int j = 0; j < N; ++j) {
      const T mean = variance[j] * share;
      is_varied[j] = mean > floor ? T(1) : T(0);
      inverse[j] = T(1) / (mean > floor ? mean : floor);
    }
    for (int k = 0; k < pairs; ++k) {
      const T* distance = distances + k * stride;
      for (int j = 0; j < N; ++j) {
        value[k][j] = exponential(-distance[j] * inverse[j]);
      }
    }
  }
};

template <int N, MindKind kind, typename T>
double compare_part(const MindRow<T>& row, int start) {
  Descriptors<N, T> x;
  Descriptors<N, T> y;
  x.find(row.x + start, row.stride, row.pairs, row.floor_x);
  y.find(row.y + start, row.stride, row.pairs, row.floor_y);
  T sum[N] = {};
  const T bend = row.epsilon * row.epsilon;
  for (int k = 0; k < row.pairs; ++k) {
    for (int j = 0; j < N; ++j) {
      const T difference = x.value[k][j] - y.value[k][j];
      const T squared = difference * difference;
      sum[j] += kind == MindKind::squared ? squared : root(squared + bend);
    }
  }
  double total = 0;
  for (int j = 0; j < N; ++j) {
    total += static_cast<double>(sum[j] * row.weights[start + j]);
  }
  return total;
}

// With h the gradient to the difference of two descriptors exp(-D / V), the gradient to D of x is
// -h exp(-D / V) / V, and that to V is the sum over the pairs of h exp(-D / V) D / V^2.
template <int N, MindKind kind, bool both, typename T>
void compare_backward_part(const MindRow<T>& row, int start, double* floors) {
  Descriptors<N, T> x;
  Descriptors<N, T> y;
  x.find(row.x + start, row.stride, row.pairs, row.floor_x);
  y.find(row.y + start, row.stride, row.pairs, row.floor_y);
  T of_x[N] = {};
  T of_y[N] = {};
  const T bend = row.epsilon * row.epsilon;
  const T* PLASTICINE_RESTRICT weights = row.weights + start;
  for (int k = 0; k < row.pairs; ++k) {
    T* PLASTICINE_RESTRICT distance_x = row.x + start + k * row.stride;
    T* PLASTICINE_RESTRICT distance_y = row.y + start + k * row.stride;
    for (int j = 0; j < N; ++j) {
      const T difference = x.value[k][j] - y.value[k][j];
      const T slope = kind == MindKind::squared ? 2 * difference
                                                : difference / root(difference * difference + bend);
      const T pulled_x = weights[j] * slope * x.value[k][j];
      of_x[j] += pulled_x * distance_x[j];
      distance_x[j] = -pulled_x * x.inverse[j];
      if (both) {
        const T pulled_y = weights[j] * slope * y.value[k][j];
        of_y[j] -= pulled_y * distance_y[j];
        distance_y[j] = pulled_y * y.inverse[j];
      }
    }
  }
  const T share = T(1) / static_cast<T>(row.pairs);
  T floor_x = T(0);
  T floor_y = T(0);
  for (int j = 0; j < N; ++j) {
    of_x[j] = of_x[j] * x.inverse[j] * x.inverse[j];
    floor_x += of_x[j] * (1 - x.is_varied[j]);
    of_x[j] *= x.is_varied[j] * share;
    if (both) {
      of_y[j] = of_y[j] * y.inverse[j] * y.inverse[j];
      floor_y += of_y[j] * (1 - y.is_varied[j]);
      of_y[j] *= y.is_varied[j] * share;
    }
  }
  floors[0] += static_cast<double>(floor_x);
  floors[1] += static_cast<double>(floor_y);
  for (int k = 0; k < row.pairs; ++k) {
    T* PLASTICINE_RESTRICT distance_x = row.x + start + k * row.stride;
    T* PLASTICINE_RESTRICT distance_y = row.y + start + k * row.stride;
    for (int j = 0; j < N; ++j) {
      distance_x[j] += of_x[j];
      if (both) {
        distance_y[j] += of_y[j];
      }
    }
  }
}

template <MindKind kind, typename T>
double compare_kind(const MindRow<T>& row) {
  double total = 0;
  int start = 0;
  for (; start + kPart <= row.n; start += kPart) {
    total += compare_part<kPart, kind>(row, start);
  }
  for (; start < row.n; start += kMindLanes) {
    total += compare_part<kMindLanes, kind>(row, start);
  }
  return total;
}

template <MindKind kind, bool both, typename T>
void compare_backward_kind(const MindRow<T>& row, double* floors) {
  int start = 0;
  for (; start + kPart <= row.n; start += kPart) {
    compare_backward_part<kPart, kind, both>(row, start, floors);
  }
  for (; start < row.n; start += kMindLanes) {
    compare_backward_part<kMindLanes, kind, both>(row, start, floors);
  }
}

template <typename T>
double compare(const MindRow<T>& row) {
  return row.kind == MindKind::squared ? compare_kind<MindKind::squared>(row)
                                       : compare_kind<MindKind::charbonnier>(row);
}

template <typename T>
void compare_backward(const MindRow<T>& row, bool both, double* floors) {
  if (row.kind == MindKind::squared) {
    both ? compare_backward_kind<MindKind::squared, true>(row, floors)
         : compare_backward_kind<MindKind::squared, false>(row, floors);
  } else {
    both ? compare_backward_kind<MindKind::charbonnier, true>(row, floors)
         : compare_backward_kind<MindKind::charbonnier, false>(row, floors);
  }
}

template <typename T>
void pull(const T* grad, const T* a, const T* b, int n, T* PLASTICINE_RESTRICT t, T* grad_a,
          T* grad_b) {
  if (grad_a + n <= grad_b || grad_b + n <= grad_a) {
    PLASTICINE_INDEPENDENT
    for (int j = 0; j < n; ++j) {
      const T pulled = 2 * grad[j] * (a[j] - b[j]);
      grad_a[j] += pulled;
      grad_b[j] -= pulled;
    }
    return;
  }
  for (int j = 0; j < n; ++j) {
    t[j] = 2 * grad[j] * (a[j] - b[j]);
  }
  PLASTICINE_INDEPENDENT
  for (int j = 0; j < n; ++j) {
    grad_a[j] += t[j];
  }
  PLASTICINE_INDEPENDENT
  for (int j = 0; j < n; ++j) {
    grad_b[j] -= t[j];
  }
}

template <typename T>
void add(const T* PLASTICINE_RESTRICT values, int n, T* PLASTICINE_RESTRICT out) {
  for (int j = 0; j < n; ++j) {
    out[j] += values[j];
  }
}

template <typename T>
constexpr MindRows<T> kTable = {square<T>,           combine<T>,       smooth<T>,
                                variance<T>,         pull_variance<T>, compare<T>,
                                compare_backward<T>, pull<T>,          add<T>};

}  // namespace

template <typename T>
const MindRows<T>& mind_rows() {
  return kTable<T>;
}

template const MindRows<float>& mind_rows();
template const MindRows<double>& mind_rows();

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
