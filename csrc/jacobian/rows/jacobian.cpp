// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "jacobian/rows/jacobian.h"

#include "jacobian/math/jacobian.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

// A local copy, so that the pointers are known not to change under the loop's stores.
template <int D, typename T>
struct Gradients {
  const T* centre[D];
  const T* lower[D][D - 1];
  const T* upper[D][D - 1];
  T weight[D][D - 1];
  T scale[D];

  PLASTICINE_INLINE explicit Gradients(const DifferenceRows<T>& rows) {
    for (int i = 0; i < D; ++i) {
      centre[i] = rows.centre[i];
      scale[i] = rows.scale[i];
      for (int j = 0; j < D - 1; ++j) {
        lower[i][j] = rows.lower[i][j];
        upper[i][j] = rows.upper[i][j];
        weight[i][j] = rows.across[j] * rows.scale[i];
      }
    }
  }

  // gradient[i][j] at a column; along: the difference on the last axis there.
  PLASTICINE_INLINE void at(std::int64_t x, const Difference<T, std::int64_t>& along,
                            T (&gradient)[D][D]) const {
    for (int i = 0; i < D; ++i) {
      for (int j = 0; j < D - 1; ++j) {
        gradient[i][j] = weight[i][j] * (upper[i][j][x] - lower[i][j][x]);
      }
      gradient[i][D - 1] =
          along.weight * scale[i] * (centre[i][x + along.upper] - centre[i][x + along.lower]);
    }
  }
};

// The difference at a column, in offsets from it.
template <typename T>
PLASTICINE_INLINE Difference<T, std::int64_t> difference_along(Scheme scheme, std::int64_t x,
                                                               std::int64_t columns) {
  const Difference<T, std::int64_t> at = difference_at<T>(scheme, x, columns);
  return {at.lower - x, at.upper - x, at.weight};
}

// Calls work(x, difference along the row) for every column. In parts of a fixed number of columns,
// which vectorise as a whole and begin where a register's width divides them; the first and the
// last part overlap their neighbours, and some columns are computed twice.
template <typename T, typename Work>
PLASTICINE_INLINE void for_each_column(Scheme scheme, std::int64_t columns, const Work& work) {
  constexpr std::int64_t kPart = 64 / static_cast<std::int64_t>(sizeof(T));
  const std::int64_t last = columns - 1;
  work(0, difference_along<T>(scheme, 0, columns));
  if (last > 1) {
    const Difference<T, std::int64_t> along = difference_along<T>(scheme, 1, columns);
    if (last - 1 < kPart) {
      for (std::int64_t x = 1; x < last; ++x) {
        work(x, along);
      }
    } else {
      for (std::int64_t start = 0; start < last; start += kPart) {
        const std::int64_t inner = start > 0 ? start : 1;
        const std::int64_t from = inner < last - kPart ? inner : last - kPart;
        PLASTICINE_INDEPENDENT
        for (std::int64_t x = 0; x < kPart; ++x) {
          work(from + x, along);
        }
      }
    }
  }
  if (last > 0) {
    work(last, difference_along<T>(scheme, last, columns));
  }
}

template <int D, typename T>
void determinant_of(const DifferenceRows<T>& rows, T* PLASTICINE_RESTRICT out) {
  const Gradients<D, T> gradients(rows);
  for_each_column<T>(rows.scheme, rows.columns,
                     [&](std::int64_t x, const Difference<T, std::int64_t>& along)
                         PLASTICINE_INLINE_LAMBDA {
                           T gradient[D][D];
                           gradients.at(x, along, gradient);
                           out[x] = jacobian_of<D>(gradient);
                         });
}

template <typename T>
void determinant(const DifferenceRows<T>& rows, T* out) {
  if (rows.ndim == 2) {
    determinant_of<2>(rows, out);
  } else {
    determinant_of<3>(rows, out);
  }
}

// Nine output rows that might overlap the inputs would keep the loop from vectorising; they never
// do.
template <int D, typename T>
void cofactors_of(const DifferenceRows<T>& rows, const T* grad, T* const* out) {
  const Gradients<D, T> gradients(rows);
  T* target[D][D];
  for (int i = 0; i < D; ++i) {
    for (int j = 0; j < D; ++j) {
      target[i][j] = out[i * D + j];
    }
  }
  for_each_column<T>(rows.scheme, rows.columns,
                     [&](std::int64_t x, const Difference<T, std::int64_t>& along)
                         PLASTICINE_INLINE_LAMBDA {
                           T gradient[D][D];
                           T cofactor[D][D];
                           gradients.at(x, along, gradient);
                           jacobian_cofactors<D>(gradient, cofactor);
                           for (int i = 0; i < D; ++i) {
                             for (int j = 0; j < D; ++j) {
                               target[i][j][x] = grad[x] * cofactor[i][j];
                             }
                           }
                         });
}

template <typename T>
void cofactors(const DifferenceRows<T>& rows, const T* grad, T* const* out) {
  if (rows.ndim == 2) {
    cofactors_of<2>(rows, grad, out);
  } else {
    cofactors_of<3>(rows, grad, out);
  }
}

template <int terms, typename T>
void combine_terms(const T* const* values, const T* weights, int n, T* PLASTICINE_RESTRICT out) {
  const T* value[terms];
  T weight[terms];
  for (int term = 0; term < terms; ++term) {
    value[term] = values[term];
    weight[term] = weights[term];
  }
  for (int x = 0; x < n; ++x) {
    T sum = T(0);
    for (int term = 0; term < terms; ++term) {
      sum += weight[term] * value[term][x];
    }
    out[x] = sum;
  }
}

// Two terms or three per axis, none on an axis of one voxel.
template <typename T>
void combine(const T* const* values, const T* weights, int terms, int n, T* out) {
  switch (terms) {
    case 4:
      return combine_terms<4>(values, weights, n, out);
    case 6:
      return combine_terms<6>(values, weights, n, out);
    default:
      combine_terms<0>(values, weights, n, out);
      for (int term = 0; term < terms; ++term) {
        const T* value = values[term];
        const T weight = weights[term];
        PLASTICINE_INDEPENDENT
        for (int x = 0; x < n; ++x) {
          out[x] += weight * value[x];
        }
      }
  }
}

template <typename T>
constexpr JacobianRows<T> kTable = {determinant<T>, cofactors<T>, combine<T>};

}  // namespace

template <typename T>
const JacobianRows<T>& jacobian_rows() {
  return kTable<T>;
}

template const JacobianRows<float>& jacobian_rows();
template const JacobianRows<double>& jacobian_rows();

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
