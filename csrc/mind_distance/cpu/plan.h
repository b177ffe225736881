// How the images of a MIND distance are cut into tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "mind_distance/mind_distance.h"
#include "mind_distance/rows/mind_distance.h"

namespace plasticine {

inline std::int64_t to_lanes(std::int64_t n) { return divide_up(n, kMindLanes) * kMindLanes; }

// What all tiles of a call have in common.
template <typename T>
struct MindPlan {
  const MindLayout layout;
  const MindPairs pairs;
  const std::vector<int> dilations;
  const int radius;
  std::vector<T> weights;
  const MindKind kind;
  const T epsilon;
  std::int64_t halo[3];  // how far a tile looks beyond its ends
  std::int64_t size[3];  // of a tile
  std::int64_t tiles[3];

  MindPlan(const Tensor& image, const std::vector<int>& dilations_, double sigma, MindKind kind_,
           double epsilon_)
      : layout(image),
        pairs(layout.ndim),
        dilations(dilations_),
        radius(mind_radius(sigma)),
        kind(kind_),
        epsilon(static_cast<T>(epsilon_)) {
    for (const double weight : mind_weights(sigma)) {
      weights.push_back(static_cast<T>(weight));
    }
    // The distances of a tile, of all pairs and both images, stay in a core's own cache.
    const bool is_short = layout.size[2] <= kLongest / 2;
    const std::int64_t wanted[3] = {layout.ndim == 2 ? 32 : 8, is_short ? 16 : 8, kLongest};
    const int reach = radius + *std::max_element(dilations.begin(), dilations.end());
    for (int axis = 0; axis < 3; ++axis) {
      halo[axis] = layout.ndim == 2 && axis == 1 ? 0 : reach;
      // Twice the halo, so that the gradients of every second tile do not meet.
      size[axis] = std::min(std::max(wanted[axis], 2 * halo[axis]),
                            std::max<std::int64_t>(layout.size[axis], 1));
      tiles[axis] = divide_up(layout.size[axis], size[axis]);
      weigh(axis);
    }
  }

  std::int64_t tiles_of_image() const { return tiles[0] * tiles[1] * tiles[2]; }
  std::int64_t tasks() const { return layout.images() * tiles_of_image(); }
  int taps() const { return 2 * radius + 1; }

  // Of the mean over all voxels and pairs.
  double share() const {
    return 1 / (static_cast<double>(layout.voxels()) * static_cast<double>(pairs.count));
  }

  // How much the patch around `at` counts the values from at - radius on; and how much the patches
  // from there on count the value at `at`.
  const T* patch(int axis, std::int64_t at) const { return patches_[axis].data() + at * taps(); }
  const T* patches_of(int axis, std::int64_t at) const {
    return adjoint_[axis].data() + at * taps();
  }
  // How much the patches of all voxels do.
  T share_of(int axis, std::int64_t at) const {
    T sum = T(0);
    for (int tap = 0; tap < taps(); ++tap) {
      sum += patches_of(axis, at)[tap];
    }
    return sum;
  }

  // Calls visit(task) for every tile, of any that can meet one after the other: first all those
  // whose number is even along every axis, and so on.
  template <typename ParallelFor, typename Visit>
  void for_each_apart(const ParallelFor& parallel, const Visit& visit) const {
    for (int color = 0; color < 8; ++color) {
      const std::int64_t odd[3] = {color / 4, color / 2 % 2, color % 2};
      std::int64_t count[3];
      for (int axis = 0; axis < 3; ++axis) {
        count[axis] = (tiles[axis] - odd[axis] + 1) / 2;
      }
      const std::int64_t of_image = count[0] * count[1] * count[2];
      parallel(layout.images() * of_image, [&](std::int64_t index) {
        const std::int64_t image = index / of_image;
        const std::int64_t z = index % of_image / (count[1] * count[2]);
        const std::int64_t y = index / count[2] % count[1];
        const std::int64_t x = index % count[2];
        visit(((image * tiles[0] + 2 * z + odd[0]) * tiles[1] + 2 * y + odd[1]) * tiles[2] + 2 * x +
              odd[2]);
      });
    }
  }

 private:
  static constexpr std::int64_t kLongest = 128;

  void weigh(int axis) {
    const std::int64_t n = layout.size[axis];
    patches_[axis].assign(static_cast<std::size_t>(n * taps()), T(0));
    adjoint_[axis] = patches_[axis];
    for (std::int64_t at = 0; at < n; ++at) {
      for (std::int64_t from = std::max<std::int64_t>(at - radius, 0);
           from <= std::min(at + radius, n - 1); ++from) {
        const T weight = mind_weight(weights.data(), radius, at, from, n);
        patches_[axis][static_cast<std::size_t>(at * taps() + from - at + radius)] = weight;
        adjoint_[axis][static_cast<std::size_t>(from * taps() + at - from + radius)] = weight;
      }
    }
  }

  std::vector<T> patches_[3];
  std::vector<T> adjoint_[3];
};

}  // namespace plasticine
