// The Jacobian determinant's adjoint, for whatever multiplies the determinants: every voxel gathers
// from its neighbours.
//
// Compiled: central differences with 32-bit offsets in a kernel of their own; everything else is
// served by one that takes any scheme at run time.
#pragma once

#include "jacobian/cuda/stencil.cuh"

namespace plasticine::cuda {

// The values on the edges of the cube around a voxel, of which central differences beside its
// neighbours are made: 12 in 3D, each of them for two neighbours.
template <int D, typename T>
struct Edges {
  T value[D == 2 ? 1 : 3][4][D];  // pair of axes; before or after on the first, on the second

  template <typename Stored, typename Index>
  __device__ __forceinline__ Edges(const Stored* source, std::int64_t channel_stride,
                                   const Index (&lower)[D], const Index (&upper)[D]) {
#pragma unroll
    for (int second = 1; second < D; ++second) {
#pragma unroll
      for (int first = 0; first < second; ++first) {
#pragma unroll
        for (int edge = 0; edge < 4; ++edge) {
          const Index offset = ((edge & 2) != 0 ? upper[first] : lower[first]) +
                               ((edge & 1) != 0 ? upper[second] : lower[second]);
          for (int i = 0; i < D; ++i) {
            value[first + second - 1][edge][i] = load(source[i * channel_stride + offset]);
          }
        }
      }
    }
  }

  // Component i beside the neighbour on a side of an axis, on a side of another axis.
  __device__ __forceinline__ T at(int axis, int side, int other, int other_side, int i) const {
    return value[axis + other - 1][axis < other ? 2 * side + other_side : 2 * other_side + side][i];
  }
};

// One voxel, and the sum over its neighbours (and itself) of what their determinant is multiplied
// by times coefficient of the voxel's value in the neighbour's difference times cofactors there.
template <int D, typename Stored, typename Index, typename Shares>
struct Gather {
  using T = accumulator_t<Stored>;

  const FieldLayout<D, T, Index>& layout;
  const Scheme scheme;
  const Index (&position)[D];
  const Stored* source;  // at the voxel
  const Shares shares;
  // Where the voxel's own differences are taken, from it. A neighbour's are taken there, too, on
  // all axes but that on which it lies; and a column of the cofactors has only those in it.
  Index lower[D];
  Index upper[D];
  T weight[D];
  T sum[D] = {};

  __device__ __forceinline__ Gather(const Stored* field, const FieldLayout<D, T, Index>& layout,
                                    const Shares& shares, Scheme scheme, std::int64_t n,
                                    const Index (&position)[D])
      : layout(layout),
        scheme(scheme),
        position(position),
        source(field + n * layout.sample_stride + layout.offset(position)),
        shares(shares) {
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      const auto difference = difference_at<T, Index>(scheme, position[axis], layout.size[axis]);
      lower[axis] = (difference.lower - position[axis]) * layout.stride[axis];
      upper[axis] = (difference.upper - position[axis]) * layout.stride[axis];
      weight[axis] = difference.weight;
    }
  }

  // From the voxel `step` further along an axis: difference(i, other) is that of component i beside
  // it along another axis.
  template <int axis, typename DifferenceOf>
  __device__ __forceinline__ void add(Index step, T coefficient, const DifferenceOf& difference) {
    T gradient[D][D] = {};
#pragma unroll
    for (int i = 0; i < D; ++i) {
#pragma unroll
      for (int other = 0; other < D; ++other) {
        if (other != axis) {
          gradient[i][other] = weight[other] * layout.scale[i] * difference(i, other);
        }
      }
    }
    T cofactor[D][D];
    jacobian_cofactors<D>(gradient, cofactor);
    const T share = coefficient * shares.template share<axis>(*this, step, gradient);
    for (int i = 0; i < D; ++i) {
      sum[i] += share * cofactor[i][axis];
    }
  }

  // The same, its values read for this alone.
  template <int axis>
  __device__ __forceinline__ void add_at(Index step, T coefficient) {
    const Stored* at = source + step * layout.stride[axis];
    add<axis>(step, coefficient, [&](int i, int other) {
      const Stored* component = at + i * layout.channel_stride;
      return load(component[upper[other]]) - load(component[lower[other]]);
    });
  }

  // Along one axis, for any scheme.
  template <int axis>
  __device__ __forceinline__ void add_axis() {
    const Index size = layout.size[axis];
#pragma unroll 1
    for (Index step = -1; step <= 1; ++step) {
      const Index at = position[axis] + step;
      if (at >= 0 && at < size) {
        const T coefficient = difference_coefficient<T>(scheme, at, position[axis], size);
        if (coefficient != T(0)) {
          add_at<axis>(step, coefficient);
        }
      }
    }
  }

  // Along one axis, for central differences.
  template <int axis>
  __device__ __forceinline__ void add_axis(const Edges<D, T>& edges) {
    const Index index = position[axis];
    const Index last = layout.size[axis] - 1;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      if (side == 0 ? index > 0 : index < last) {
        const bool at_end = side == 0 ? index == 1 : index == last - 1;
        const T coefficient = at_end ? T(1) : T(0.5);
        add<axis>(side == 0 ? -1 : 1, side == 0 ? coefficient : -coefficient,
                  [&](int i, int other) {
                    return edges.at(axis, side, other, 1, i) - edges.at(axis, side, other, 0, i);
                  });
      }
    }
    // At an end the difference is one-sided, and the voxel itself enters its own.
    if ((index == 0) != (index == last)) {
      add_at<axis>(0, index == 0 ? T(-1) : T(1));
    }
  }

  // out: the voxel of the first component.
  __device__ __forceinline__ void store_to(Stored* out) const {
    for (int i = 0; i < D; ++i) {
      out[i * std::int64_t{layout.voxels}] = store<Stored>(layout.scale[i] * sum[i]);
    }
  }
};

template <bool central, typename I, typename Shares>
__global__ void __launch_bounds__(kThreads, (sizeof(typename I::T) == 8 ? 1 : 2))
    gather_jacobian_kernel(
        const __grid_constant__ Shares shares, const typename I::Field* __restrict__ field,
        const __grid_constant__ FieldLayout<I::D, typename I::T, typename I::Index> layout,
        const __grid_constant__ Boxes<I::D, typename I::Index> boxes, Scheme scheme,
        typename I::Field* __restrict__ out) {
  constexpr int D = I::D;
  using Index = typename I::Index;
  Index first[D];
  boxes.find(static_cast<Index>(blockIdx.x), first);
  const int turns = boxes.turns_from(first);
  for (std::int64_t n = blockIdx.y; n < layout.samples; n += gridDim.y) {
    Index position[D];
    for (int axis = 0; axis < D; ++axis) {
      position[axis] = first[axis];
    }
#pragma unroll 1
    for (int left = turns; left > 0; --left, position[0] += Boxes<D, Index>::kStep) {
      const auto beside = shares.of(n, position);
      Gather<D, typename I::Field, Index, decltype(beside)> gather(
          field, layout, beside, central ? Scheme::central : scheme, n, position);
      if constexpr (central) {
        const Edges<D, typename I::T> edges(gather.source, layout.channel_stride, gather.lower,
                                            gather.upper);
        gather.template add_axis<0>(edges);
        gather.template add_axis<1>(edges);
        if constexpr (D == 3) {
          gather.template add_axis<2>(edges);
        }
      } else {
        gather.template add_axis<0>();
        gather.template add_axis<1>();
        if constexpr (D == 3) {
          gather.template add_axis<2>();
        }
      }
      gather.store_to(out + n * D * layout.voxels + boxes.offset(position));
    }
  }
}

// The gradient of a sum over all voxels of share times Jacobian determinant, as far as it goes
// through the determinants. shares.of(n, position) gives those beside a voxel: share<axis>(gather,
// step, gradient) is that of the voxel `step` further along an axis, where all columns of the
// gradient but `axis` are known.
template <typename I, typename Shares>
void gather_jacobian(const char* name, const Shares& shares, const Tensor& displacement,
                     const Tensor& grad_displacement, Scheme scheme,
                     const std::vector<double>& spacing, StreamHandle stream) {
  // A block goes through its box plane by plane: neighbours meet in its cache. More planes read
  // fewer twice, fewer make more blocks.
  constexpr int kMostPlanes = 8;
  constexpr std::int64_t kEnoughBlocks = 1024;
  auto kernel = gather_jacobian_kernel<false, I, Shares>;
  if constexpr (sizeof(typename I::Index) == 4) {
    if (scheme == Scheme::central) {
      kernel = gather_jacobian_kernel<true, I, Shares>;
    }
  }
  const FieldLayout<I::D, typename I::T, typename I::Index> layout(displacement, spacing);
  const Boxes<I::D, typename I::Index> boxes(displacement, I::D == 3 ? kMostPlanes : 1,
                                             kEnoughBlocks);
  launch(name, kernel, boxes.grid(displacement.shape[0]), kThreads, stream, shares,
         displacement.as<const typename I::Field>(), layout, boxes, scheme,
         grad_displacement.as<typename I::Field>());
}

}  // namespace plasticine::cuda
