// Jacobian determinants along a column of voxels.
#pragma once

#include "jacobian/cuda/stencil.cuh"

namespace plasticine::cuda {

// Consecutive values that one instruction loads or stores; the address must be so aligned.
template <int V, typename Stored>
struct alignas(V * sizeof(Stored)) Pack {
  Stored value[V];
};

template <int V, typename Stored, typename T>
__device__ __forceinline__ void load_pack(const Stored* source, T (&target)[V]) {
  const Pack<V, Stored> pack = *reinterpret_cast<const Pack<V, Stored>*>(source);
  for (int k = 0; k < V; ++k) {
    target[k] = load(pack.value[k]);
  }
}

// Calls visit(plane, determinants of V voxels) along the planes of a place; field: of a sample.
template <Differences differences, int V, int D, typename Stored, typename T, typename Index,
          typename Visit>
__device__ __forceinline__ void for_each_determinant(const Stored* __restrict__ field,
                                                     const FieldLayout<D, T, Index>& layout,
                                                     const typename Columns<D, Index>::Place& place,
                                                     Scheme scheme, const Visit& visit) {
  const auto [first, end, row, x] = place;
  const Index step = layout.stride[D - 1];
  const Index last_x = layout.size[D - 1] - 1;
  const Index last_plane = layout.size[0] - 1;
  const Index start = x * step + (D == 3 ? row * layout.stride[1] : 0);
  Difference<T, Index> across = {0, 0, T(0)};
  if constexpr (D == 3) {
    across = difference_at<T, Index>(scheme, row, layout.size[1]);
    across.lower = (across.lower - row) * layout.stride[1];
    across.upper = (across.upper - row) * layout.stride[1];
  }
  const Stored* source = field + start;
  T before[D][V];
  T here[D][V];
  T after[D][V];
#pragma unroll
  for (int i = 0; i < D; ++i) {
    const Stored* component = source + i * layout.channel_stride;
    load_pack<V>(component + first * layout.stride[0], here[i]);
    load_pack<V>(component + (first > 0 ? first - 1 : first) * layout.stride[0], before[i]);
  }
#pragma unroll 1
  for (Index plane = first; plane < end; ++plane) {
    T gradient[V][D][D];
#pragma unroll
    for (int i = 0; i < D; ++i) {
      const Stored* centre = source + i * layout.channel_stride + plane * layout.stride[0];
      load_pack<V>(centre + (plane < last_plane ? layout.stride[0] : 0), after[i]);
      T along[V + 2];
      along[0] = load(centre[x > 0 ? -step : 0]);
      along[V + 1] = load(centre[x + V <= last_x ? V * step : (V - 1) * step]);
      for (int k = 0; k < V; ++k) {
        along[k + 1] = here[i][k];
      }
      T lower[V];
      T upper[V];
      if constexpr (D == 3) {
        load_pack<V>(centre + across.lower, lower);
        load_pack<V>(centre + across.upper, upper);
      }
#pragma unroll
      for (int k = 0; k < V; ++k) {
        gradient[k][i][0] =
            layout.scale[i] * difference_of<differences>(scheme, plane, last_plane, before[i][k],
                                                         here[i][k], after[i][k]);
        if constexpr (D == 3) {
          gradient[k][i][1] = across.weight * layout.scale[i] * (upper[k] - lower[k]);
        }
        gradient[k][i][D - 1] =
            layout.scale[i] *
            difference_of<differences>(scheme, x + k, last_x, along[k], along[k + 1], along[k + 2]);
      }
    }
    T determinant[V];
    for (int k = 0; k < V; ++k) {
      determinant[k] = jacobian_of<D>(gradient[k]);
    }
    visit(plane, determinant);
#pragma unroll
    for (int i = 0; i < D; ++i) {
      for (int k = 0; k < V; ++k) {
        before[i][k] = here[i][k];
        here[i][k] = after[i][k];
      }
    }
  }
}

}  // namespace plasticine::cuda
