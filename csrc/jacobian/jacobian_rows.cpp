// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "jacobian_rows.h"

#include "jacobian_math.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

// A local copy, so that the pointers are known not to change under the loop's stores.
template <int D, typename T>
struct Gradients {
  const T* lower[D][D];
  const T* upper[D][D];
  T weight[D][D];

  PLASTICINE_INLINE explicit Gradients(const DifferenceRows<T>& rows) {
    for (int i = 0; i < D; ++i) {
      for (int j = 0; j < D; ++j) {
        lower[i][j] = rows.lower[i][j];
        upper[i][j] = rows.upper[i][j];
        weight[i][j] = rows.weight[i][j];
      }
    }
  }

  PLASTICINE_INLINE void at(int n, T (&gradient)[D][D]) const {
    for (int i = 0; i < D; ++i) {
      for (int j = 0; j < D; ++j) {
        gradient[i][j] = weight[i][j] * (upper[i][j][n] - lower[i][j][n]);
      }
    }
  }
};

template <int D, typename T>
void determinant_of(const DifferenceRows<T>& rows, int n, T* PLASTICINE_RESTRICT out) {
  const Gradients<D, T> gradients(rows);
  for (int x = 0; x < n; ++x) {
    T gradient[D][D];
    gradients.at(x, gradient);
    out[x] = jacobian_of<D>(gradient);
  }
}

template <typename T>
void determinant(const DifferenceRows<T>& rows, int n, T* out) {
  if (rows.ndim == 2) {
    determinant_of<2>(rows, n, out);
  } else {
    determinant_of<3>(rows, n, out);
  }
}

constexpr int kPart = 64;

// The cofactors go through a buffer on the stack: nine output rows that might overlap the inputs
// would keep the loop from vectorising.
template <int D, typename T>
void cofactors_of(const DifferenceRows<T>& rows, const T* grad, int n, T* const* out) {
  const Gradients<D, T> gradients(rows);
  for (int start = 0; start < n; start += kPart) {
    alignas(64) T values[D][D][kPart];
    const int count = n - start < kPart ? n - start : kPart;
    for (int x = 0; x < count; ++x) {
      T gradient[D][D];
      T cofactor[D][D];
      gradients.at(start + x, gradient);
      jacobian_cofactors<D>(gradient, cofactor);
      for (int i = 0; i < D; ++i) {
        for (int j = 0; j < D; ++j) {
          values[i][j][x] = grad[start + x] * cofactor[i][j];
        }
      }
    }
    for (int i = 0; i < D; ++i) {
      for (int j = 0; j < D; ++j) {
        __builtin_memcpy(out[i * D + j] + start, values[i][j], count * sizeof(T));
      }
    }
  }
}

template <typename T>
void cofactors(const DifferenceRows<T>& rows, const T* grad, int n, T* const* out) {
  if (rows.ndim == 2) {
    cofactors_of<2>(rows, grad, n, out);
  } else {
    cofactors_of<3>(rows, grad, n, out);
  }
}

template <typename T>
void combine(const T* const* values, const T* weights, int terms, int n,
             T* PLASTICINE_RESTRICT out) {
  for (int x = 0; x < n; ++x) {
    out[x] = T(0);
  }
  int term = 0;
  for (; term + 2 <= terms; term += 2) {
    const T* first = values[term];
    const T* second = values[term + 1];
    const T first_weight = weights[term];
    const T second_weight = weights[term + 1];
    for (int x = 0; x < n; ++x) {
      out[x] += first_weight * first[x] + second_weight * second[x];
    }
  }
  if (term < terms) {
    const T* value = values[term];
    const T weight = weights[term];
    for (int x = 0; x < n; ++x) {
      out[x] += weight * value[x];
    }
  }
}

template <typename T>
constexpr JacobianRows<T> kTable = {determinant<T>, cofactors<T>, combine<T>};

}  // namespace

template <typename T>
const JacobianRows<T>& jacobian_rows();

template <>
const JacobianRows<float>& jacobian_rows<float>() {
  return kTable<float>;
}

template <>
const JacobianRows<double>& jacobian_rows<double>() {
  return kTable<double>;
}

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
