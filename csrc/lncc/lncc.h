// Local normalised cross-correlation: what the bindings call, and the mathematics of one voxel for
// host and device.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/tensor.h"

namespace plasticine {

// x and y: (N, C, *spatial), of any strides. out (N,), grad_x and grad_y are contiguous. scratch: 2
// times kLnccSums times as many float64 as x has voxels. A gradient without data is not wanted.
void lncc_forward(const Tensor& x, const Tensor& y, const Tensor& out, const Tensor& scratch,
                  int window, int threads);
void lncc_backward(const Tensor& grad, const Tensor& x, const Tensor& y, const Tensor& grad_x,
                   const Tensor& grad_y, const Tensor& scratch, int window, int threads);

namespace cuda {

void lncc_forward(const Tensor& x, const Tensor& y, const Tensor& out, const Tensor& scratch,
                  int window, int device, std::uintptr_t stream);
void lncc_backward(const Tensor& grad, const Tensor& x, const Tensor& y, const Tensor& grad_x,
                   const Tensor& grad_y, const Tensor& scratch, int window, int device,
                   std::uintptr_t stream);

}  // namespace cuda

// Forward over a window: those of x, y, x^2, y^2 and xy. Backward: those of LnccVoxel's terms.
constexpr int kLnccSums = 5;

// A window whose variance is no more of its mean square is flat.
constexpr double kLnccFlat = 1e-10;

// Images as the kernels count them: voxels of (N, C, z, y, x) in that order; z is 1 in 2D.
struct LnccLayout {
  std::int64_t size[5];

  explicit LnccLayout(const Tensor& image) {
    for (int axis = 0; axis < 5; ++axis) {
      size[axis] = axis < 2          ? image.shape[axis]
                   : image.ndim == 5 ? image.shape[axis]
                   : axis == 2       ? 1
                                     : image.shape[axis - 1];
    }
  }

  PLASTICINE_INLINE std::int64_t rows() const { return size[0] * size[1] * size[2] * size[3]; }
  PLASTICINE_INLINE std::int64_t voxels() const { return rows() * size[4]; }
  PLASTICINE_INLINE std::int64_t of_sample() const { return size[1] * size[2] * size[3] * size[4]; }

  // Of the first voxel of a row of a tensor, in elements.
  PLASTICINE_INLINE std::int64_t row_offset(const Tensor& image, std::int64_t row) const {
    std::int64_t offset = row % size[3] * image.strides[image.ndim - 2];
    row /= size[3];
    if (image.ndim == 5) {
      offset += row % size[2] * image.strides[2];
      row /= size[2];
    }
    return offset + row % size[1] * image.strides[1] + row / size[1] * image.strides[0];
  }

  // How many voxels of a window around (row, x) are inside of the image.
  PLASTICINE_INLINE double count(std::int64_t row, std::int64_t x, int radius) const {
    const std::int64_t y = row % size[3];
    const std::int64_t z = row / size[3] % size[2];
    return static_cast<double>(inside(z, size[2], radius) * inside(y, size[3], radius) *
                               inside(x, size[4], radius));
  }

  PLASTICINE_INLINE static std::int64_t inside(std::int64_t at, std::int64_t size, int radius) {
    const std::int64_t first = at > radius ? at - radius : 0;
    const std::int64_t last = at < size - radius ? at + radius : size - 1;
    return last - first + 1;
  }
};

// The squared correlation in one window, and what the gradients of the voxels in it are made of:
// with S the sum of a term over all windows that hold a voxel, the gradient of the sum of all
// values is S[0] y + S[1] x - S[3] with respect to x, and S[0] x + S[2] y - S[4] to y.
struct LnccVoxel {
  double value;
  double terms[kLnccSums];
};

PLASTICINE_INLINE LnccVoxel lncc_voxel(const double (&sums)[kLnccSums], double count) {
  const double mean_x = sums[0] / count;
  const double mean_y = sums[1] / count;
  const double variance_x = sums[2] - sums[0] * mean_x;  // times count, as the others
  const double variance_y = sums[3] - sums[1] * mean_y;
  const double cross = sums[4] - sums[0] * mean_y;
  const bool is_flat = variance_x <= kLnccFlat * sums[2] || variance_y <= kLnccFlat * sums[3];
  const double both = variance_x + variance_y;
  if (is_flat && both == both) {  // a NaN stays one
    return {};
  }
  const double slope_x = cross / variance_x;
  const double slope_y = cross / variance_y;
  const double value = slope_x * slope_y;
  const double by_cross = 2 * slope_x / variance_y;
  const double by_x = -2 * value / variance_x;
  const double by_y = -2 * value / variance_y;
  return {
      value,
      {by_cross, by_x, by_y, by_cross * mean_y + by_x * mean_x, by_cross * mean_x + by_y * mean_y}};
}

}  // namespace plasticine
