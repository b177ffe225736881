// Local normalised cross-correlation: what the bindings call.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "lncc/types.h"

namespace plasticine {

// How much each voxel counts, as the public function has it.
struct LnccOptions {
  int window;
  LnccKernel kernel;
  bool squared;
  LnccBorder border;
  LnccStabiliser stabiliser;
  double epsilon;
  double numerator;
};

// Two sums of each of so many blocks of a sample, then the shifts of each channel's x and y, lie at
// the start of the scratch: float64. What the gradients are made of follows, in the type that the
// images are computed in: an image each of by_cross, then by_x and rest_x where grad_x is wanted,
// and by_y and rest_y where grad_y is (lncc/math/lncc.h).
constexpr int kLnccBlocks = 1024;

// Every so many planes, and rows of them, are looked at for a shift.
constexpr int kLnccSeen = 8;

inline std::int64_t lncc_reserved(const Tensor& x) {
  return 2 * x.shape[0] * (kLnccBlocks + x.shape[1]);
}

// x and y: (N, C, *spatial), mask: (N, 1, *spatial) or absent, in the type that the images are
// computed in; all of any strides. out (N,) is of that type, too, and contiguous, as are the
// gradients, of which one without data is not wanted.
struct LnccForward {
  Tensor x;
  Tensor y;
  Tensor mask;
  Tensor out;
  Tensor scratch;
  LnccOptions options;
};
struct LnccBackward {
  Tensor grad;
  Tensor x;
  Tensor y;
  Tensor mask;
  Tensor grad_x;
  Tensor grad_y;
  Tensor scratch;
  LnccOptions options;
};
void lncc_forward(const LnccForward& call, int threads);
void lncc_backward(const LnccBackward& call, int threads);

namespace cuda {

void lncc_forward(const LnccForward& call, int device, std::uintptr_t stream);
void lncc_backward(const LnccBackward& call, int device, std::uintptr_t stream);

}  // namespace cuda

// The weights of a window's voxels along one axis.
inline std::vector<double> lncc_taps(const LnccOptions& options) {
  std::vector<double> taps(static_cast<std::size_t>(options.window), 1.0);
  if (options.kernel == LnccKernel::gaussian) {
    for (int i = 0; i < options.window; ++i) {
      const double at = 3.0 * (i - options.window / 2) / options.window;
      taps[static_cast<std::size_t>(i)] = std::exp(-0.5 * at * at);
    }
  }
  return taps;
}

// Images as (planes, rows, columns); in 2D the rows are planes of one row each, so that what is
// marched along is long.
struct LnccShape {
  std::int64_t samples;
  std::int64_t channels;
  bool has_rows;  // whether windows reach across rows of a plane
  std::int64_t planes;
  std::int64_t rows;
  std::int64_t columns;

  explicit LnccShape(const Tensor& image)
      : samples(image.shape[0]),
        channels(image.shape[1]),
        has_rows(image.ndim == 5),
        planes(image.shape[2]),
        rows(has_rows ? image.shape[3] : 1),
        columns(image.shape[image.ndim - 1]) {}

  std::int64_t of_channel() const { return planes * rows * columns; }
  std::int64_t voxels() const { return samples * channels * of_channel(); }

  std::int64_t offset(const Tensor& image, std::int64_t sample, std::int64_t channel,
                      std::int64_t plane, std::int64_t row) const {
    return sample * image.strides[0] + channel * image.strides[1] + plane * image.strides[2] +
           (has_rows ? row * image.strides[3] : 0);
  }
};

}  // namespace plasticine
