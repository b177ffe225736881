// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "gaussian_smooth/rows/gaussian_smooth.h"

#include "core/rows/dispatch.h"
#include "core/rows/vector.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

// So many registers beside each other, or so many sums, that an addition need not wait for the one
// before it.
constexpr int kAcross = 2;
constexpr int kAlong = 4;

// Calls work(x, Value()) for the columns that vectors side by side have left, from x on: in
// vectors, the first of which may overlap with these.
template <typename T, typename Work>
PLASTICINE_INLINE void for_each_left(std::int64_t x, std::int64_t n, const Work& work) {
  constexpr int kLanes = VectorOf<T>::kLanes;
  const bool overlaps = x < n && n - x < kLanes && n >= kLanes;
  for_each_vector<T>(overlaps ? n - kLanes : x, n, work);
}

// Sums of some rows that are made at once, in registers.
template <typename Value, int width, int rows, typename T>
struct RowSums {
  static constexpr int kStep = static_cast<int>(sizeof(Value) / sizeof(T));

  const T* const* sources;  // from a column on
  const T* weights;
  int taps;
  std::int64_t x;
  Value sum[rows][width] = {};

  // Adds a source to the rows from `first` to before `end`, whose windows hold it.
  template <int first, int end>
  PLASTICINE_INLINE void add(int source) {
    Value value[width];
    for (int i = 0; i < width; ++i) {
      value[i] = load_vector<Value>(sources[source] + x + i * kStep);
    }
    for (int r = first; r < end; ++r) {
      for (int i = 0; i < width; ++i) {
        sum[r][i] += weights[source - r] * value[i];
      }
    }
  }

  // The first sources are not in the windows of all rows.
  template <int source>
  PLASTICINE_INLINE void add_early() {
    if constexpr (source < rows - 1) {
      add<0, source + 1>(source);
      add_early<source + 1>();
    }
  }

  // Nor are the last; row r is the first whose window holds the next of them.
  template <int r>
  PLASTICINE_INLINE void add_late() {
    if constexpr (r < rows) {
      add<r, rows>(taps - 1 + r);
      add_late<r + 1>();
    }
  }

  // Where a window is so small that it ends before that of the last row begins.
  template <int r>
  PLASTICINE_INLINE void add_alone() {
    if constexpr (r < rows) {
      for (int tap = 0; tap < taps; ++tap) {
        add<r, r + 1>(r + tap);
      }
      add_alone<r + 1>();
    }
  }
};

template <typename Value, int width, int rows, typename T>
PLASTICINE_INLINE void sum_across(const T* const* sources, const T* weights, int taps,
                                  std::int64_t x, T* const* out) {
  RowSums<Value, width, rows, T> sums{sources, weights, taps, x};
  if (taps < rows) {
    sums.template add_alone<0>();
  } else {
    sums.template add_early<0>();
    for (int source = rows - 1; source < taps; ++source) {
      sums.template add<0, rows>(source);
    }
    sums.template add_late<1>();
  }
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < width; ++i) {
      store_vector(sums.sum[r][i], out[r] + x + i * sums.kStep);
    }
  }
}

template <int rows, typename T>
void rows_across(const T* const* sources, const T* weights, int taps, std::int64_t n,
                 T* const* out) {
  constexpr int kStep = kAcross * VectorOf<T>::kLanes;
  std::int64_t x = 0;
  for (; x + kStep <= n; x += kStep) {
    sum_across<Vector<T>, kAcross, rows>(sources, weights, taps, x, out);
  }
  for_each_left<T>(x, n, [&](std::int64_t at, auto value) PLASTICINE_INLINE_LAMBDA {
    sum_across<decltype(value), 1, rows>(sources, weights, taps, at, out);
  });
}

template <typename T>
void across(const T* const* sources, const T* weights, int taps, int count, std::int64_t n,
            T* const* out) {
  static_assert(kGaussianRows == 4, "a case for each number of rows");
  switch (count) {
    case 1:
      return rows_across<1>(sources, weights, taps, n, out);
    case 2:
      return rows_across<2>(sources, weights, taps, n, out);
    case 3:
      return rows_across<3>(sources, weights, taps, n, out);
    default:
      return rows_across<4>(sources, weights, taps, n, out);
  }
}

template <typename Value, int width, typename T>
PLASTICINE_INLINE void sum_along(const T* values, const T* weights, int taps, T* out) {
  constexpr int kStep = static_cast<int>(sizeof(Value) / sizeof(T));
  Value sum[width] = {};
  for (int k = 0; k < taps; ++k) {
    for (int i = 0; i < width; ++i) {
      sum[i] += weights[k] * load_vector<Value>(values + k + i * kStep);
    }
  }
  for (int i = 0; i < width; ++i) {
    store_vector(sum[i], out + i * kStep);
  }
}

template <typename T>
void along(const T* values, const T* weights, int taps, std::int64_t n, T* out) {
  constexpr int kStep = kAlong * VectorOf<T>::kLanes;
  std::int64_t x = 0;
  for (; x + kStep <= n; x += kStep) {
    sum_along<Vector<T>, kAlong>(values + x, weights, taps, out + x);
  }
  for_each_left<T>(x, n, [&](std::int64_t at, auto value) PLASTICINE_INLINE_LAMBDA {
    sum_along<decltype(value), 1>(values + at, weights, taps, out + at);
  });
}

template <typename T>
constexpr GaussianRows<T> kTable = {across<T>, along<T>};

}  // namespace

template <typename T>
const GaussianRows<T>& gaussian_rows() {
  return kTable<T>;
}

template const GaussianRows<float>& gaussian_rows();
template const GaussianRows<double>& gaussian_rows();

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
