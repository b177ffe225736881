// A displacement as kernels with stencils read it.
#pragma once

#include <vector>

#include "core/cuda/dispatch.h"
#include "core/cuda/grid.cuh"
#include "core/half.h"
#include "jacobian/math/jacobian.h"

namespace plasticine::cuda {

template <int D, typename T, typename Index>
struct FieldLayout : Layout<D, Index> {
  std::int64_t samples;
  Index voxels;
  // Component i is scaled by 1 / spacing[i]: det(I + du_i / (h_j dx_j)) is the same with u_i / h_i
  // in place of u_i / h_j, the two matrices being similar.
  T scale[D];

  FieldLayout(const Tensor& field, const std::vector<double>& spacing)
      : Layout<D, Index>(field),
        samples(field.shape[0]),
        voxels(static_cast<Index>(voxel_count(field))) {
    for (int axis = 0; axis < D; ++axis) {
      scale[axis] = T(1) / static_cast<T>(spacing[axis]);
    }
  }
};

// Items of work along axis 0: packs of `pack` voxels of a plane (a row in 2D) times pieces of the
// axis, of `planes`.
template <int D, typename Index>
struct Columns {
  struct Place {
    Index first, end;  // planes
    Index row;         // 0 in 2D
    Index x;           // of the first voxel of the pack
  };

  Columns(const Tensor& field, int pack, std::int64_t planes_of_piece)
      : pack_(pack), planes_(static_cast<Index>(planes_of_piece)) {
    const std::int64_t row = field.shape[1 + D] / pack;
    const std::int64_t plane = D == 3 ? row * field.shape[3] : row;
    items = static_cast<Index>(plane * divide_up(field.shape[2], planes_of_piece));
    if (items > 0) {
      row_ = static_cast<Index>(row);
      plane_ = static_cast<Index>(plane);
      per_row_ = Divisor<Index>(row);
      per_plane_ = Divisor<Index>(plane);
    }
  }

  __device__ __forceinline__ Place find(Index item, const Layout<D, Index>& field) const {
    const Index piece = per_plane_.divide(item);
    const Index within = item - piece * plane_;
    const Index row = D == 3 ? per_row_.divide(within) : 0;
    const Index first = piece * planes_;
    const Index end = first + planes_ < field.size[0] ? first + planes_ : field.size[0];
    return {first, end, row, (within - row * row_) * pack_};
  }

  Index items;

 private:
  Index pack_;
  Index planes_;
  Index row_ = 0;  // items of it
  Index plane_ = 0;
  Divisor<Index> per_plane_, per_row_;
};

// What is known at compile time of the scheme.
enum class Differences { central, one_sided, any };

// The difference along an axis of three neighbours; at an end the missing one repeats the voxel's
// own value.
template <Differences differences, typename T, typename Index>
__device__ __forceinline__ T difference_of(Scheme scheme, Index index, Index last, T before, T here,
                                           T after) {
  if (differences == Differences::central ||
      (differences == Differences::any && scheme == Scheme::central)) {
    const T weight = index > 0 && index < last ? T(0.5) : T(1);
    return weight * (after - before);
  }
  const bool next = scheme == Scheme::forward ? index < last : index == 0;
  return (next ? after : here) - (next ? here : before);
}

// What an offset within a component, or a count of its voxels in whole blocks, can come to.
inline std::int64_t field_reach(const Tensor& field) {
  constexpr std::int64_t kMargin = std::int64_t{1} << 20;
  return std::max(channel_reach(field), voxel_count(field)) + kMargin;
}

}  // namespace plasticine::cuda
