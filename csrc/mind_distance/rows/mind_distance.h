// The vectorised inner loops of the MIND distance, over rows.
#pragma once

#include <cstdint>

#include "core/cpu/simd.h"
#include "mind_distance/math/pairs.h"

namespace plasticine {

// Rows hold a multiple of so many values; what is beyond the end of an image counts nothing.
constexpr int kMindLanes = 16;

// A row of two images' distances: of pair k at x + k * stride and y + k * stride.
template <typename T>
struct MindRow {
  int pairs;
  int n;  // a multiple of kMindLanes
  std::int64_t stride;
  T* x;
  T* y;
  T floor_x;  // the least variance
  T floor_y;
  const T* weights;  // of the voxels
  MindKind kind;
  T epsilon;
};

template <typename T>
struct MindRows {
  // out[j] = (a[j] - b[j])^2
  void (*square)(const T* a, const T* b, int n, T* out);
  // out[j] = the sum over taps of weights[tap] * rows[tap * stride + j]
  void (*combine)(const T* rows, std::int64_t stride, const T* weights, int taps, int n, T* out);
  // out[j] = the sum over taps of weights[tap] * row[j + tap]
  void (*smooth)(const T* row, const T* weights, int taps, int n, T* out);
  // The sum over j of weights[j] times the squared differences of all pairs of so many points.
  double (*variance)(const T* const* points, int count, const T* weights, int n);
  // Adds the gradient of that to the points'; gradients may overlap.
  void (*pull_variance)(const T* const* points, int count, const T* weights, int n,
                        T* const* gradients);
  // The sum of what the descriptors' differences count.
  double (*compare)(const MindRow<T>& row);
  // Puts the gradients with respect to the distances of x and, if both, of y in their places, and
  // adds those to the floors to floors[0] and floors[1].
  void (*compare_backward)(const MindRow<T>& row, bool both, double* floors);
  // With t[j] = 2 * grad[j] * (a[j] - b[j]), adds t to grad_a and takes it from grad_b, which may
  // overlap.
  void (*pull)(const T* grad, const T* a, const T* b, int n, T* t, T* grad_a, T* grad_b);
  // out[j] += values[j]
  void (*add)(const T* values, int n, T* out);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T> const MindRows<T>& mind_rows();)

namespace plasticine {

template <typename T>
const MindRows<T>& select_mind_rows() {
  return PLASTICINE_SELECT_SIMD(mind_rows<T>)();
}

}  // namespace plasticine
