// The Jacobian determinant on the GPU, bound by memory: 16 bytes a voxel in 3D float32.
//
// Compiled: 2D and 3D, float32, float16, bfloat16, 32-bit offsets; in packs of 16 bytes (8 of half
// types) where sizes, strides and addresses allow, with central or one-sided differences at compile
// time; voxel by voxel, the scheme at run time, for everything else, for 64-bit offsets, and for
// float64 with those alone.
#include "jacobian/field_cuda.cuh"
#include "jacobian/jacobian_cuda.h"

namespace plasticine::cuda {
namespace {

constexpr int kThreads = 256;
// A thread goes along axis 0 and keeps the planes around it in registers. More planes read fewer
// twice, fewer make more blocks.
constexpr std::int64_t kMostPlanes = 8;
constexpr std::int64_t kEnoughBlocks = 1024;

constexpr int kPack = 4;

// Items of work: packs of a plane (a row in 2D) times pieces of axis 0.
template <typename Index>
struct Columns {
  Divisor<Index> per_plane, per_row;
  Index items = 0;
  Index plane_items = 0;
  Index row_items = 0;
  Index planes = 1;  // of a piece

  Columns(const Tensor& field, int pack) {
    const int last = field.ndim - 1;
    const std::int64_t row = field.shape[last] / pack;
    const std::int64_t plane = row * (last == 4 ? field.shape[3] : 1);
    const std::int64_t blocks = divide_up(plane * field.shape[2], kThreads) * field.shape[0];
    const std::int64_t count = std::clamp<std::int64_t>(blocks / kEnoughBlocks, 1, kMostPlanes);
    row_items = static_cast<Index>(row);
    plane_items = static_cast<Index>(plane);
    planes = static_cast<Index>(count);
    items = static_cast<Index>(plane * divide_up(field.shape[2], count));
    per_row = Divisor<Index>(row);
    per_plane = Divisor<Index>(plane);
  }
};

template <Differences differences, int V, int D, typename Stored, typename Index>
__global__ void __launch_bounds__(kThreads, 2) jacobian_forward_kernel(
    const Stored* __restrict__ field,
    const __grid_constant__ FieldLayout<D, accumulator_t<Stored>, Index> layout,
    const __grid_constant__ Columns<Index> columns, Scheme scheme, Stored* __restrict__ out) {
  using T = accumulator_t<Stored>;
  const Index item = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
  if (item >= columns.items) {
    return;
  }
  const Index piece = columns.per_plane.divide(item);
  const Index within = item - piece * columns.plane_items;
  const Index row = D == 3 ? columns.per_row.divide(within) : 0;
  const Index x = (within - row * columns.row_items) * V;
  const Index step = layout.stride[D - 1];
  const Index last_x = layout.size[D - 1] - 1;
  const Index last_plane = layout.size[0] - 1;
  const Index first = piece * columns.planes;
  const Index end =
      first + columns.planes < layout.size[0] ? first + columns.planes : layout.size[0];
  const Index start = x * step + (D == 3 ? row * layout.stride[1] : 0);
  Difference<T, Index> across = {0, 0, T(0)};
  if constexpr (D == 3) {
    across = difference_at<T, Index>(scheme, row, layout.size[1]);
    across.lower = (across.lower - row) * layout.stride[1];
    across.upper = (across.upper - row) * layout.stride[1];
  }
  const Index row_size = layout.size[D - 1];
  const Index plane_size = row_size * (D == 3 ? layout.size[1] : 1);

  for (std::int64_t n = blockIdx.y; n < layout.samples; n += gridDim.y) {
    const Stored* source = field + n * layout.sample_stride + start;
    Stored* target = out + n * layout.voxels + row * row_size + x;
    T before[D][V];
    T here[D][V];
    T after[D][V];
#pragma unroll
    for (int i = 0; i < D; ++i) {
      const Stored* component = source + i * layout.component_stride;
      load_pack<V>(component + first * layout.stride[0], here[i]);
      load_pack<V>(component + (first > 0 ? first - 1 : first) * layout.stride[0], before[i]);
    }
#pragma unroll 1
    for (Index plane = first; plane < end; ++plane) {
      T gradient[V][D][D];
#pragma unroll
      for (int i = 0; i < D; ++i) {
        const Stored* centre = source + i * layout.component_stride + plane * layout.stride[0];
        load_pack<V>(centre + (plane < last_plane ? layout.stride[0] : 0), after[i]);
        T along[V + 2];
        along[0] = load(centre[x > 0 ? -step : 0]);
        along[V + 1] = load(centre[x + V <= last_x ? V * step : (V - 1) * step]);
#pragma unroll
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
              layout.scale[i] * difference_of<differences>(scheme, x + k, last_x, along[k],
                                                           along[k + 1], along[k + 2]);
        }
      }
      T determinant[V];
#pragma unroll
      for (int k = 0; k < V; ++k) {
        determinant[k] = jacobian_of<D>(gradient[k]);
      }
      store_pack<V>(target + static_cast<std::int64_t>(plane) * plane_size, determinant);
#pragma unroll
      for (int i = 0; i < D; ++i) {
#pragma unroll
        for (int k = 0; k < V; ++k) {
          before[i][k] = here[i][k];
          here[i][k] = after[i][k];
        }
      }
    }
  }
}

template <Differences differences, int V, int D, typename Stored, typename Index>
void run(const Tensor& displacement, const Tensor& out, Scheme scheme, const double* spacing,
         StreamHandle stream) {
  const FieldLayout<D, accumulator_t<Stored>, Index> layout(displacement, spacing);
  const Columns<Index> columns(displacement, V);
  const std::int64_t blocks = divide_up(columns.items, kThreads);
  launch("jacobian_forward", jacobian_forward_kernel<differences, V, D, Stored, Index>,
         dim3(static_cast<unsigned>(blocks), grid_extent(displacement.shape[0])), kThreads, stream,
         displacement.as<const Stored>(), layout, columns, scheme, out.as<Stored>());
}

// Whether every row begins where a pack may: then every pack of it does.
bool is_packed(const Tensor& displacement, const Tensor& out) {
  const int last = displacement.ndim - 1;
  bool packed = displacement.strides[last] == 1 && displacement.shape[last] % kPack == 0;
  for (int axis = 0; axis < last; ++axis) {
    packed = packed && (displacement.shape[axis] == 1 || displacement.strides[axis] % kPack == 0);
  }
  const auto bytes = static_cast<std::uintptr_t>(kPack * element_size(displacement.dtype));
  for (const Tensor& tensor : {displacement, out}) {
    packed = packed && reinterpret_cast<std::uintptr_t>(tensor.data) % bytes == 0;
  }
  return packed;
}

}  // namespace

void jacobian_forward(const Tensor& displacement, const Tensor& out, Scheme scheme,
                      const std::vector<double>& spacing, int device, std::uintptr_t stream) {
  if (element_count(out) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  dispatch_dimension(displacement.shape[1], [&](auto dimension) {
    dispatch_type(displacement.dtype, [&](auto tag) {
      using Stored = typename decltype(tag)::type;
      constexpr int D = decltype(dimension)::value;
      dispatch_index<Stored>(field_reach(displacement), [&](auto index_tag) {
        using Index = typename decltype(index_tag)::type;
        if constexpr (sizeof(Index) == 4) {
          if (is_packed(displacement, out)) {
            if (scheme == Scheme::central) {
              run<Differences::central, kPack, D, Stored, Index>(displacement, out, scheme,
                                                                 spacing.data(), stream);
            } else {
              run<Differences::one_sided, kPack, D, Stored, Index>(displacement, out, scheme,
                                                                   spacing.data(), stream);
            }
            return;
          }
        }
        run<Differences::any, 1, D, Stored, Index>(displacement, out, scheme, spacing.data(),
                                                   stream);
      });
    });
  });
}

}  // namespace plasticine::cuda
