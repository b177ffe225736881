// The Jacobian determinant's adjoint on the GPU: every voxel gathers from its neighbours.
//
// Compiled: 2D and 3D, float32, float16, bfloat16 with 32-bit offsets, central differences in a
// kernel of their own; the other schemes, 64-bit offsets, and float64 with those alone, are served
// by one that takes any scheme at run time.
#include "jacobian/field_cuda.cuh"
#include "jacobian/jacobian_cuda.h"

namespace plasticine::cuda {
namespace {

constexpr int kThreads = 256;
// A block goes through a tile of 32 columns and 8 rows plane by plane: neighbours meet in its
// cache. More planes read fewer twice, fewer make more blocks.
constexpr int kTileColumns = 32;
constexpr int kTileRows = kThreads / kTileColumns;
constexpr std::int64_t kMostPlanes = 8;
constexpr std::int64_t kEnoughBlocks = 1024;

template <int D, typename Index>
struct Tiles {
  Divisor<Index> per_plane, per_row;
  Index plane_tiles = 0;
  Index row_tiles = 0;
  Index planes = 1;  // of a block
  std::int64_t blocks = 0;

  explicit Tiles(const Tensor& field) {
    const std::int64_t row = divide_up(field.shape[1 + D], kTileColumns);
    const std::int64_t plane = row * divide_up(field.shape[D], kTileRows);
    const std::int64_t depth = D == 3 ? field.shape[2] : 1;
    const std::int64_t count =
        std::clamp<std::int64_t>(plane * depth * field.shape[0] / kEnoughBlocks, 1, kMostPlanes);
    row_tiles = static_cast<Index>(row);
    plane_tiles = static_cast<Index>(plane);
    planes = static_cast<Index>(count);
    blocks = plane * divide_up(depth, count);
    per_row = Divisor<Index>(row);
    per_plane = Divisor<Index>(plane);
  }

  // Calls work(n, position) for every voxel of this thread.
  template <typename T, typename Work>
  __device__ __forceinline__ void for_each_voxel(const FieldLayout<D, T, Index>& layout,
                                                 const Work& work) const {
    const Index tile = static_cast<Index>(blockIdx.x);
    const Index piece = per_plane.divide(tile);
    const Index within = tile - piece * plane_tiles;
    const Index tile_row = per_row.divide(within);
    const Index thread = static_cast<Index>(threadIdx.x);
    Index position[D];
    position[D - 1] = (within - tile_row * row_tiles) * kTileColumns + thread % kTileColumns;
    position[D - 2] = tile_row * kTileRows + thread / kTileColumns;
    if (position[D - 1] >= layout.size[D - 1] || position[D - 2] >= layout.size[D - 2]) {
      return;
    }
    for (std::int64_t n = blockIdx.y; n < layout.samples; n += gridDim.y) {
      if constexpr (D == 2) {
        work(n, position);
      } else {
        const Index first = piece * planes;
        const Index end = first + planes < layout.size[0] ? first + planes : layout.size[0];
#pragma unroll 1
        for (position[0] = first; position[0] < end; ++position[0]) {
          work(n, position);
        }
      }
    }
  }
};

template <int D, typename Index>
struct GradientLayout {
  std::int64_t sample_stride = 0;
  Index stride[D] = {};

  explicit GradientLayout(const Tensor& grad) : sample_stride(grad.strides[0]) {
    for (int axis = 0; axis < D; ++axis) {
      stride[axis] = static_cast<Index>(grad.strides[2 + axis]);
    }
  }
};

template <int D, typename Index>
__device__ __forceinline__ Index offset_of(const Index (&position)[D], const Index (&stride)[D]) {
  Index offset = 0;
#pragma unroll
  for (int axis = 0; axis < D; ++axis) {
    offset += position[axis] * stride[axis];
  }
  return offset;
}

// The values on the edges of the cube around a voxel, of which central differences beside its
// neighbours are made: 12 in 3D, each of them for two neighbours.
template <int D, typename T>
struct Edges {
  T value[D == 2 ? 1 : 3][4][D];  // pair of axes; before or after on the first, on the second

  template <typename Stored, typename Index>
  __device__ __forceinline__ Edges(const Stored* source, std::int64_t component_stride,
                                   const Index (&lower)[D], const Index (&upper)[D]) {
#pragma unroll
    for (int second = 1; second < D; ++second) {
#pragma unroll
      for (int first = 0; first < second; ++first) {
#pragma unroll
        for (int edge = 0; edge < 4; ++edge) {
          const Index offset = ((edge & 2) != 0 ? upper[first] : lower[first]) +
                               ((edge & 1) != 0 ? upper[second] : lower[second]);
#pragma unroll
          for (int i = 0; i < D; ++i) {
            value[first + second - 1][edge][i] = load(source[i * component_stride + offset]);
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

// One voxel, and the sum over its neighbours (and itself) of upstream gradient times coefficient of
// the voxel's value in the neighbour's difference times cofactors there.
template <int D, typename Stored, typename Index>
struct Gather {
  using T = accumulator_t<Stored>;

  const FieldLayout<D, T, Index>& layout;
  const GradientLayout<D, Index>& grad_layout;
  const Scheme scheme;
  const Index (&position)[D];
  const Stored* source;  // at the voxel
  const Stored* grad;
  // Where the voxel's own differences are taken, from it. A neighbour's are taken there, too, on
  // all axes but that on which it lies; and a column of the cofactors has only those in it.
  Index lower[D];
  Index upper[D];
  T weight[D];
  T sum[D] = {};

  __device__ __forceinline__ Gather(const Stored* field, const FieldLayout<D, T, Index>& layout,
                                    const Stored* upstream,
                                    const GradientLayout<D, Index>& grad_layout, Scheme scheme,
                                    std::int64_t n, const Index (&position)[D])
      : layout(layout),
        grad_layout(grad_layout),
        scheme(scheme),
        position(position),
        source(field + n * layout.sample_stride + offset_of(position, layout.stride)),
        grad(upstream + n * grad_layout.sample_stride + offset_of(position, grad_layout.stride)) {
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      const auto difference = difference_at<T, Index>(scheme, position[axis], layout.size[axis]);
      lower[axis] = (difference.lower - position[axis]) * layout.stride[axis];
      upper[axis] = (difference.upper - position[axis]) * layout.stride[axis];
      weight[axis] = difference.weight;
    }
  }

  template <int axis>
  __device__ __forceinline__ void add(const T (&gradient)[D][D], Index step, T coefficient) {
    T cofactor[D][D];
    jacobian_cofactors<D>(gradient, cofactor);
    const T share = coefficient * load(grad[step * grad_layout.stride[axis]]);
#pragma unroll
    for (int i = 0; i < D; ++i) {
      sum[i] += share * cofactor[i][axis];
    }
  }

  // From the voxel `step` further along an axis, its values read for this alone.
  template <int axis>
  __device__ __forceinline__ void add_at(Index step, T coefficient) {
    const Stored* at = source + step * layout.stride[axis];
    T gradient[D][D];
#pragma unroll
    for (int i = 0; i < D; ++i) {
      const Stored* component = at + i * layout.component_stride;
#pragma unroll
      for (int other = 0; other < D; ++other) {
        gradient[i][other] = T(0);
        if (other != axis) {
          const T difference = load(component[upper[other]]) - load(component[lower[other]]);
          gradient[i][other] = weight[other] * layout.scale[i] * difference;
        }
      }
    }
    add<axis>(gradient, step, coefficient);
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
      T gradient[D][D];
#pragma unroll
      for (int i = 0; i < D; ++i) {
#pragma unroll
        for (int other = 0; other < D; ++other) {
          gradient[i][other] = T(0);
          if (other != axis) {
            const T difference =
                edges.at(axis, side, other, 1, i) - edges.at(axis, side, other, 0, i);
            gradient[i][other] = weight[other] * layout.scale[i] * difference;
          }
        }
      }
      if (side == 0 ? index > 0 : index < last) {
        const bool at_end = side == 0 ? index == 1 : index == last - 1;
        const T coefficient = at_end ? T(1) : T(0.5);
        add<axis>(gradient, side == 0 ? -1 : 1, side == 0 ? coefficient : -coefficient);
      }
    }
    // At an end the difference is one-sided, and the voxel itself enters its own.
    if ((index == 0) != (index == last)) {
      add_at<axis>(0, index == 0 ? T(-1) : T(1));
    }
  }

  __device__ __forceinline__ void store_to(Stored* out, std::int64_t n) const {
    Index voxel = position[0];
#pragma unroll
    for (int axis = 1; axis < D; ++axis) {
      voxel = voxel * layout.size[axis] + position[axis];
    }
#pragma unroll
    for (int i = 0; i < D; ++i) {
      out[(n * D + i) * layout.voxels + voxel] = store<Stored>(layout.scale[i] * sum[i]);
    }
  }
};

template <bool central, int D, typename Stored, typename Index>
__global__ void __launch_bounds__(kThreads, (sizeof(accumulator_t<Stored>) == 8 ? 1 : 2))
    jacobian_backward_kernel(
        const Stored* __restrict__ grad,
        const __grid_constant__ GradientLayout<D, Index> grad_layout,
        const Stored* __restrict__ field,
        const __grid_constant__ FieldLayout<D, accumulator_t<Stored>, Index> layout,
        const __grid_constant__ Tiles<D, Index> tiles, Scheme scheme, Stored* __restrict__ out) {
  using T = accumulator_t<Stored>;
  tiles.for_each_voxel(layout, [&](std::int64_t n, const Index(&position)[D]) {
    Gather<D, Stored, Index> gather(field, layout, grad, grad_layout,
                                    central ? Scheme::central : scheme, n, position);
    if constexpr (central) {
      const Edges<D, T> edges(gather.source, layout.component_stride, gather.lower, gather.upper);
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
    gather.store_to(out, n);
  });
}

template <bool central, int D, typename Stored, typename Index>
void run(const Tensor& grad_out, const Tensor& displacement, const Tensor& grad_displacement,
         Scheme scheme, const double* spacing, StreamHandle stream) {
  const FieldLayout<D, accumulator_t<Stored>, Index> layout(displacement, spacing);
  const GradientLayout<D, Index> grad_layout(grad_out);
  const Tiles<D, Index> tiles(displacement);
  launch("jacobian_backward", jacobian_backward_kernel<central, D, Stored, Index>,
         dim3(static_cast<unsigned>(tiles.blocks), grid_extent(displacement.shape[0])), kThreads,
         stream, grad_out.as<const Stored>(), grad_layout, displacement.as<const Stored>(), layout,
         tiles, scheme, grad_displacement.as<Stored>());
}

}  // namespace

void jacobian_backward(const Tensor& grad_out, const Tensor& displacement,
                       const Tensor& grad_displacement, Scheme scheme,
                       const std::vector<double>& spacing, int device, std::uintptr_t stream) {
  if (element_count(grad_displacement) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  const std::int64_t reach = std::max(field_reach(displacement), channel_reach(grad_out));
  dispatch_dimension(displacement.shape[1], [&](auto dimension) {
    dispatch_type(displacement.dtype, [&](auto tag) {
      using Stored = typename decltype(tag)::type;
      constexpr int D = decltype(dimension)::value;
      dispatch_index<Stored>(reach, [&](auto index_tag) {
        using Index = typename decltype(index_tag)::type;
        if constexpr (sizeof(Index) == 4) {
          if (scheme == Scheme::central) {
            run<true, D, Stored, Index>(grad_out, displacement, grad_displacement, scheme,
                                        spacing.data(), stream);
            return;
          }
        }
        run<false, D, Stored, Index>(grad_out, displacement, grad_displacement, scheme,
                                     spacing.data(), stream);
      });
    });
  });
}

}  // namespace plasticine::cuda
