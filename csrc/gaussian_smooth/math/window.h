// The weights of a Gaussian's window along one axis, for whatever computes it.
//
// The edge is repeated, so that on an axis of n voxels every place n - 1 or more away is the edge:
// what is further out is added to the weights there. A window then never reaches further than the
// axis is long.
//
// The adjoint is the same sum over the voxels that there are, but at an edge, where each voxel
// counts as much as the whole tail of the window that leaves the image when it lies there.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace plasticine {

struct GaussianWindow {
  int radius = 0;
  double sigma = 1.0;
  double scale = 1.0;  // of the weights within
  double end = 1.0;    // the weight at either end

  GaussianWindow(double sigma_in_voxels, std::int64_t size) {
    if (sigma_in_voxels <= 0.0 || size <= 1) {
      return;
    }
    sigma = sigma_in_voxels;
    // Rounded to even where it is in the middle, as in Python.
    const int cut = std::max(1, static_cast<int>(std::nearbyint(3.0 * sigma)));
    radius = static_cast<int>(std::min<std::int64_t>(cut, size - 1));
    double total = 0.0;
    end = 0.0;
    for (int step = cut; step > 0; --step) {  // the small ones first
      total += 2.0 * unscaled(step);
      end += step >= radius ? unscaled(step) : 0.0;
    }
    scale = 1.0 / (total + 1.0);
    end *= scale;
  }

  // At so many voxels from the middle.
  double weight(int step) const { return step == radius ? end : scale * unscaled(step); }

 private:
  double unscaled(int step) const {
    const double distance = step / sigma;
    return std::exp(-0.5 * distance * distance);
  }
};

}  // namespace plasticine
