// How far apart the MIND descriptors of two images are: what the bindings call, and what host and
// device share.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/macros.h"
#include "core/tensor.h"
#include "mind_distance/math/pairs.h"

namespace plasticine {

// x and y: (N, C, *spatial), mask (N, 1, *spatial) in the type of out, or absent; of any strides.
// out (N,), grad_x and grad_y are contiguous. A gradient without data is not wanted. scratch: see
// plasticine/ops/mind_distance.py.
void mind_distance_forward(const Tensor& x, const Tensor& y, const Tensor& mask, const Tensor& out,
                           const Tensor& scratch, const std::vector<int>& dilations, double sigma,
                           MindKind kind, double epsilon, int threads);
void mind_distance_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                            const Tensor& mask, const Tensor& grad_x, const Tensor& grad_y,
                            const Tensor& scratch, const std::vector<int>& dilations, double sigma,
                            MindKind kind, double epsilon, int threads);

namespace cuda {

void mind_distance_forward(const Tensor& x, const Tensor& y, const Tensor& mask, const Tensor& out,
                           const Tensor& scratch, const std::vector<int>& dilations, double sigma,
                           MindKind kind, double epsilon, int device, std::uintptr_t stream);
void mind_distance_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                            const Tensor& mask, const Tensor& grad_x, const Tensor& grad_y,
                            const Tensor& scratch, const std::vector<int>& dilations, double sigma,
                            MindKind kind, double epsilon, int device, std::uintptr_t stream);

}  // namespace cuda

constexpr double kMindNoise = 1e-3;  // a variance is at least so much of the image's mean

// Images as the kernels see them: axes z, y and x. In 2D the first axis is z, and y has one voxel
// and no neighbours.
struct MindLayout {
  int ndim;
  std::int64_t samples;
  std::int64_t channels;
  std::int64_t size[3];

  explicit MindLayout(const Tensor& image)
      : ndim(image.ndim - 2), samples(image.shape[0]), channels(image.shape[1]), size{1, 1, 1} {
    size[0] = image.shape[2];
    size[1] = ndim == 3 ? image.shape[3] : 1;
    size[2] = image.shape[image.ndim - 1];
  }

  PLASTICINE_INLINE std::int64_t images() const { return samples * channels; }
  PLASTICINE_INLINE std::int64_t voxels() const { return size[0] * size[1] * size[2]; }

  // Of a row of an image's channel, in elements.
  PLASTICINE_INLINE static std::int64_t row_offset(const Tensor& image, std::int64_t sample,
                                                   std::int64_t channel, std::int64_t z,
                                                   std::int64_t y) {
    return sample * image.strides[0] + channel * image.strides[1] + z * image.strides[2] +
           (image.ndim == 5 ? y * image.strides[3] : 0);
  }
};

// The radius of a patch, and the weights of its voxels along one axis: a Gaussian cut at three
// standard deviations, whose sum is 1.
inline int mind_radius(double sigma) {
  const int radius = static_cast<int>(std::nearbyint(3 * sigma));
  return radius < 1 ? 1 : radius;
}

inline std::vector<double> mind_weights(double sigma) {
  const int radius = mind_radius(sigma);
  std::vector<double> weights;
  double total = 0;
  for (int step = -radius; step <= radius; ++step) {
    weights.push_back(std::exp(-0.5 * (step / sigma) * (step / sigma)));
    total += weights.back();
  }
  for (double& weight : weights) {
    weight /= total;
  }
  return weights;
}

// How much of the value at `from` the patch around `at` counts, along an axis of `size` voxels: the
// voxels beyond an end count as the last one.
template <typename T>
PLASTICINE_INLINE T mind_weight(const T* weights, int radius, std::int64_t at, std::int64_t from,
                                std::int64_t size) {
  std::int64_t low = from == 0 ? -radius : from - at;
  std::int64_t high = from == size - 1 ? radius : from - at;
  low = low < -radius ? -radius : low;
  high = high > radius ? radius : high;
  T sum = T(0);
  for (std::int64_t step = low; step <= high; ++step) {
    sum += weights[step + radius];
  }
  return sum;
}

}  // namespace plasticine
