// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "lncc/rows/lncc.h"

#include "core/rows/dispatch.h"
#include "lncc/rows/registers.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

template <typename T>
void prepare(const T* PLASTICINE_RESTRICT weight, T shift, int n, T* PLASTICINE_RESTRICT values) {
  for (int i = 0; i < n; ++i) {
    const T value = values[i] - shift;
    values[i] = weight[i] == T(0) ? T(0) : value;
  }
}

// Registers side by side, so that what a tap needs is loaded once for all.
template <int parts, typename T>
struct Parts {
  lanes_t<T> part[parts] = {};
};

// The moments of windows at `at` and behind it. share(j, part): the weights of a tap; x(j, part)
// and y(j, part): what it finds; add(j, part, share, ...): what its own variances add.
template <bool masked, int parts, typename T, typename Share, typename X, typename Y, typename Own>
PLASTICINE_INLINE void window_moments(const LnccWindow<T>& window, int at, bool one_inverse,
                                      const Share& share, const X& x, const Y& y, const Own& own,
                                      T* const* moments) {
  constexpr int kCount = Lanes<T>::kCount;
  Parts<parts, T> count;
  Parts<parts, T> mean_x;
  Parts<parts, T> mean_y;
  for (int j = 0; j < window.size; ++j) {
    for (int k = 0; k < parts; ++k) {
      const lanes_t<T> weight = share(j, k);
      if constexpr (masked) {
        count.part[k] += weight;
      }
      mean_x.part[k] += weight * x(j, k);
      mean_y.part[k] += weight * y(j, k);
    }
  }
  Parts<parts, T> inverse;
  for (int k = 0; k < parts; ++k) {
    if constexpr (masked) {
      inverse.part[k] = quotient<T>(lanes_t<T>{} + T(1), count.part[k]);
      store_lanes<T>(count.part[k], moments[5] + at + k * kCount);
    } else {
      inverse.part[k] = one_inverse ? lanes_t<T>{} + *window.inverse
                                    : load_lanes(window.inverse + at + k * kCount);
    }
    mean_x.part[k] *= inverse.part[k];
    mean_y.part[k] *= inverse.part[k];
  }
  Parts<parts, T> variance_x;
  Parts<parts, T> variance_y;
  Parts<parts, T> covariance;
  for (int j = 0; j < window.size; ++j) {
    for (int k = 0; k < parts; ++k) {
      const lanes_t<T> weight = share(j, k);
      const lanes_t<T> of_x = x(j, k) - mean_x.part[k];
      const lanes_t<T> of_y = y(j, k) - mean_y.part[k];
      variance_x.part[k] += weight * (own(2, j, k) + of_x * of_x);
      variance_y.part[k] += weight * (own(3, j, k) + of_y * of_y);
      covariance.part[k] += weight * (own(4, j, k) + of_x * of_y);
    }
  }
  for (int k = 0; k < parts; ++k) {
    const int first = at + k * kCount;
    store_lanes<T>(mean_x.part[k], moments[0] + first);
    store_lanes<T>(mean_y.part[k], moments[1] + first);
    store_lanes<T>(variance_x.part[k] * inverse.part[k], moments[2] + first);
    store_lanes<T>(variance_y.part[k] * inverse.part[k], moments[3] + first);
    store_lanes<T>(covariance.part[k] * inverse.part[k], moments[4] + first);
  }
}

// Calls work(at, Constant<int, parts>) for all values.
template <typename T, typename Work>
PLASTICINE_INLINE void for_each_part(int n, const Work& work) {
#if defined(PLASTICINE_SIMD_AVX512)
  constexpr int kParts = 2;  // of 32 registers
#else
  constexpr int kParts = 1;
#endif
  constexpr int kCount = Lanes<T>::kCount;
  int at = 0;
  for (; at + (kParts - 1) * kCount < n; at += kParts * kCount) {
    work(at, Constant<int, kParts>());
  }
  for (; at < n; at += kCount) {
    work(at, Constant<int, 1>());
  }
}

template <bool masked, typename T>
PLASTICINE_INLINE void along_row(const LnccWindow<T>& given, const T* weight, const T* x,
                                 const T* y, T* const* moments) {
  constexpr int kCount = Lanes<T>::kCount;
  const LnccWindow<T> window = given;
  const T* const taps = window.taps;
  const auto nothing = [](int, int, int) PLASTICINE_INLINE_LAMBDA { return lanes_t<T>{}; };
  for_each_part<T>(window.n, [&](int at, auto parts) PLASTICINE_INLINE_LAMBDA {
    constexpr int kParts = decltype(parts)::value;
    const auto x_at = [&](int j, int k)
                          PLASTICINE_INLINE_LAMBDA { return load_lanes(x + at + k * kCount + j); };
    const auto y_at = [&](int j, int k)
                          PLASTICINE_INLINE_LAMBDA { return load_lanes(y + at + k * kCount + j); };
    if (!masked && at >= window.whole[0] && at + kParts * kCount <= window.whole[1]) {
      window_moments<masked, kParts>(
          window, at, false,
          [&](int j, int) PLASTICINE_INLINE_LAMBDA { return lanes_t<T>{} + taps[j]; }, x_at, y_at,
          nothing, moments);
    } else {
      window_moments<masked, kParts>(
          window, at, false,
          [&](int j, int k) PLASTICINE_INLINE_LAMBDA {
            return taps[j] * load_lanes(weight + at + k * kCount + j);
          },
          x_at, y_at, nothing, moments);
    }
  });
}

template <bool masked, typename T>
PLASTICINE_INLINE void across_rows(const LnccWindow<T>& given, const T* const* rows,
                                   std::int64_t stride, T* const* moments) {
  constexpr int kCount = Lanes<T>::kCount;
  const LnccWindow<T> window = given;
  for_each_part<T>(window.n, [&](int at, auto parts) PLASTICINE_INLINE_LAMBDA {
    constexpr int kParts = decltype(parts)::value;
    const auto load = [&](int moment, int j, int k) PLASTICINE_INLINE_LAMBDA {
      return load_lanes(rows[j] + moment * stride + at + k * kCount);
    };
    window_moments<masked, kParts>(
        window, at, true,
        [&](int j, int k) PLASTICINE_INLINE_LAMBDA {
          if constexpr (masked) {
            return window.taps[j] * load(5, j, k);
          } else {
            (void)k;
            return lanes_t<T>{} + window.taps[j];
          }
        },
        [&](int j, int k) PLASTICINE_INLINE_LAMBDA { return load(0, j, k); },
        [&](int j, int k) PLASTICINE_INLINE_LAMBDA { return load(1, j, k); }, load, moments);
  });
}

template <typename T>
void along(const LnccWindow<T>& window, const T* weight, const T* x, const T* y,
           T* const* moments) {
  if (window.inverse == nullptr) {
    along_row<true>(window, weight, x, y, moments);
  } else {
    along_row<false>(window, weight, x, y, moments);
  }
}

template <typename T>
void across(const LnccWindow<T>& window, const T* const* rows, std::int64_t stride,
            T* const* moments) {
  if (window.inverse == nullptr) {
    across_rows<true>(window, rows, stride, moments);
  } else {
    across_rows<false>(window, rows, stride, moments);
  }
}

template <int parts, typename T, typename Source>
PLASTICINE_INLINE void sum_window(const LnccWindow<T>& window, const Source& source, T* sums) {
  constexpr int kCount = Lanes<T>::kCount;
  Parts<parts, T> sum;
  for (int j = 0; j < window.size; ++j) {
    for (int k = 0; k < parts; ++k) {
      sum.part[k] += window.taps[j] * load_lanes(source(j) + k * kCount);
    }
  }
  for (int k = 0; k < parts; ++k) {
    store_lanes<T>(sum.part[k], sums + k * kCount);
  }
}

template <typename T>
void sum_along(const LnccWindow<T>& window, const T* values, T* sums) {
  for_each_part<T>(window.n, [&](int at, auto parts) PLASTICINE_INLINE_LAMBDA {
    sum_window<decltype(parts)::value>(
        window, [&](int j) PLASTICINE_INLINE_LAMBDA { return values + at + j; }, sums + at);
  });
}

template <typename T>
void sum_across(const LnccWindow<T>& window, const T* const* rows, T* sums) {
  for_each_part<T>(window.n, [&](int at, auto parts) PLASTICINE_INLINE_LAMBDA {
    sum_window<decltype(parts)::value>(
        window, [&](int j) PLASTICINE_INLINE_LAMBDA { return rows[j] + at; }, sums + at);
  });
}

// Sums in a fixed order that vectorises.
template <typename T>
double sum_of(const T* values, int n) {
  constexpr int kParts = 16;
  double sum[kParts] = {};
  int i = 0;
  for (; i + kParts <= n; i += kParts) {
    for (int part = 0; part < kParts; ++part) {
      sum[part] += static_cast<double>(values[i + part]);
    }
  }
  for (int part = 0; i + part < n; ++part) {
    sum[part] += static_cast<double>(values[i + part]);
  }
  double total = 0;
  for (int part = 0; part < kParts; ++part) {
    total += sum[part];
  }
  return total;
}

template <typename T>
PLASTICINE_INLINE LnccMoments<T> moments_at(const T* const* moments, int i) {
  return {moments[0][i], moments[1][i], moments[2][i], moments[3][i], moments[4][i], moments[5][i]};
}

template <LnccStabiliser stabiliser, bool squared, typename T>
double value_of(const LnccConstants<T>& given, const T* const* moments, const T* weight, int n) {
  constexpr int kPart = 256;
  const LnccConstants<T> constants = given;
  alignas(64) T values[kPart];
  double sum = 0;
  for (int start = 0; start < n; start += kPart) {
    const int count = n - start < kPart ? n - start : kPart;
    const T* const from[kLnccMoments] = {moments[0] + start, moments[1] + start,
                                         moments[2] + start, moments[3] + start,
                                         moments[4] + start, moments[5] + start};
    PLASTICINE_INDEPENDENT
    for (int i = 0; i < count; ++i) {
      values[i] =
          weight[start + i] * lncc_terms<stabiliser, squared>(moments_at(from, i), constants).value;
    }
    sum += sum_of(values, count);
  }
  return sum;
}

template <LnccStabiliser stabiliser, bool squared, typename T>
void terms_of(const LnccConstants<T>& given, const T* const* moments, const T* weight, int n,
              T* const* terms) {
  const LnccConstants<T> constants = given;
  const T* const from[kLnccMoments] = {moments[0], moments[1], moments[2],
                                       moments[3], moments[4], moments[5]};
  T* const by_cross = terms[0];
  T* const by_x = terms[1];
  T* const rest_x = terms[2];
  T* const by_y = terms[3];
  T* const rest_y = terms[4];
  PLASTICINE_INDEPENDENT
  for (int i = 0; i < n; ++i) {
    const LnccTerms<T> found = lncc_terms<stabiliser, squared>(moments_at(from, i), constants);
    by_cross[i] = weight[i] * found.by_cross;
    by_x[i] = weight[i] * found.by_x;
    rest_x[i] = weight[i] * found.rest_x;
    by_y[i] = weight[i] * found.by_y;
    rest_y[i] = weight[i] * found.rest_y;
  }
}

// Calls work(the stabiliser, squared) with both as Constants.
template <typename Work>
auto with_options(LnccStabiliser stabiliser, bool squared, const Work& work) {
  const auto chosen = [&](auto word) {
    return squared ? work(word, Constant<bool, true>()) : work(word, Constant<bool, false>());
  };
  switch (stabiliser) {
    case LnccStabiliser::floor:
      return chosen(Constant<LnccStabiliser, LnccStabiliser::floor>());
    case LnccStabiliser::offset:
      return chosen(Constant<LnccStabiliser, LnccStabiliser::offset>());
    default:
      return chosen(Constant<LnccStabiliser, LnccStabiliser::flat>());
  }
}

template <typename T>
double value(LnccStabiliser stabiliser, bool squared, const LnccConstants<T>& constants,
             const T* const* moments, const T* weight, int n) {
  return with_options(stabiliser, squared, [&](auto word, auto flag) {
    return value_of<decltype(word)::value, decltype(flag)::value>(constants, moments, weight, n);
  });
}

template <typename T>
void terms(LnccStabiliser stabiliser, bool squared, const LnccConstants<T>& constants,
           const T* const* moments, const T* weight, int n, T* const* targets) {
  with_options(stabiliser, squared, [&](auto word, auto flag) {
    terms_of<decltype(word)::value, decltype(flag)::value>(constants, moments, weight, n, targets);
  });
}

template <typename T>
void gradient(T scale, const T* PLASTICINE_RESTRICT weight, const T* PLASTICINE_RESTRICT cross,
              const T* PLASTICINE_RESTRICT other, const T* PLASTICINE_RESTRICT by_own,
              const T* PLASTICINE_RESTRICT own, const T* PLASTICINE_RESTRICT rest, int n,
              T* PLASTICINE_RESTRICT out) {
  for (int i = 0; i < n; ++i) {
    const T sum = cross[i] * other[i] + by_own[i] * own[i] - rest[i];
    out[i] = weight[i] == T(0) ? T(0) : scale * weight[i] * sum;
  }
}

template <typename T>
constexpr LnccRows<T> kTable = {prepare<T>, along<T>, across<T>,   sum_along<T>, sum_across<T>,
                                value<T>,   terms<T>, gradient<T>, sum_of<T>};

}  // namespace

template <typename T>
const LnccRows<T>& lncc_rows() {
  return kTable<T>;
}

template const LnccRows<float>& lncc_rows();
template const LnccRows<double>& lncc_rows();

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
