// The Jacobian determinant on the GPU, bound by memory: 16 bytes a voxel in 3D float32.
//
// Compiled: in packs of 16 bytes (8 of half types) where offsets have 32 bits and sizes, strides
// and addresses allow, with central or one-sided differences at compile time; voxel by voxel, the
// scheme at run time, for everything else.
#include "jacobian/cuda/determinants.cuh"
#include "jacobian/cuda/jacobian.h"

namespace plasticine::cuda {
namespace {

// A thread goes along axis 0 and keeps the planes around it in registers. More planes read fewer
// twice, fewer make more blocks.
constexpr std::int64_t kMostPlanes = 8;
constexpr std::int64_t kEnoughBlocks = 1024;

constexpr int kPack = 4;

template <int V, typename Stored, typename T>
__device__ __forceinline__ void store_pack(Stored* target, const T (&source)[V]) {
  Pack<V, Stored> pack;
  for (int k = 0; k < V; ++k) {
    pack.value[k] = store<Stored>(source[k]);
  }
  if constexpr (sizeof(pack) == 16 || (sizeof(pack) == 8 && V > 1)) {
    // Through a word of CUDA's own: left to itself, the compiler stores value by value.
    using Word = std::conditional_t<sizeof(pack) == 16, uint4, uint2>;
    Word word;
    __builtin_memcpy(&word, &pack, sizeof word);
    __stwb(reinterpret_cast<Word*>(target), word);
  } else {
    *target = pack.value[0];
  }
}

template <Differences differences, int V, typename I>
__global__ void __launch_bounds__(kThreads, 2) jacobian_forward_kernel(
    const typename I::Field* __restrict__ field,
    const __grid_constant__ FieldLayout<I::D, typename I::T, typename I::Index> layout,
    const __grid_constant__ Columns<I::D, typename I::Index> columns, Scheme scheme,
    typename I::Field* __restrict__ out) {
  constexpr int D = I::D;
  using Index = typename I::Index;
  const Index item = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
  if (item >= columns.items) {
    return;
  }
  const auto place = columns.find(item, layout);
  const Index row_size = layout.size[D - 1];
  const Index plane_size = row_size * (D == 3 ? layout.size[1] : 1);
  for (std::int64_t n = blockIdx.y; n < layout.samples; n += gridDim.y) {
    typename I::Field* target = out + n * layout.voxels + place.row * row_size + place.x;
    for_each_determinant<differences, V>(
        field + n * layout.sample_stride, layout, place, scheme,
        [&](Index plane, const typename I::T(&determinant)[V]) {
          store_pack<V>(target + static_cast<std::int64_t>(plane) * plane_size, determinant);
        });
  }
}

template <Differences differences, int V, typename I>
void run(const Tensor& displacement, const Tensor& out, Scheme scheme,
         const std::vector<double>& spacing, std::uintptr_t stream) {
  const std::int64_t samples = displacement.shape[0];
  const std::int64_t packs = voxel_count(displacement) / V;
  const std::int64_t planes = std::clamp<std::int64_t>(
      divide_up(packs, kThreads) * samples / kEnoughBlocks, 1, kMostPlanes);
  const FieldLayout<I::D, typename I::T, typename I::Index> layout(displacement, spacing);
  const Columns<I::D, typename I::Index> columns(displacement, V, planes);
  const auto blocks = static_cast<unsigned>(divide_up(columns.items, kThreads));
  launch("jacobian_forward", jacobian_forward_kernel<differences, V, I>,
         dim3(blocks, grid_extent(samples)), kThreads, stream,
         displacement.as<const typename I::Field>(), layout, columns, scheme,
         out.as<typename I::Field>());
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
  dispatch_field(displacement, field_reach(displacement), [&](auto instance) {
    using I = decltype(instance);
    if constexpr (sizeof(typename I::Index) == 4) {
      if (is_packed(displacement, out)) {
        const auto packed = scheme == Scheme::central ? run<Differences::central, kPack, I>
                                                      : run<Differences::one_sided, kPack, I>;
        return packed(displacement, out, scheme, spacing, stream);
      }
    }
    run<Differences::any, 1, I>(displacement, out, scheme, spacing, stream);
  });
}

}  // namespace plasticine::cuda
