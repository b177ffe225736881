// compose forward on the GPU, and with it every squaring of an exponential: a thread finds where
// its voxel is sampled once, and reads all components there.
#include "compose/cuda/composition.cuh"

namespace plasticine::cuda {
namespace {

// At most, for what a thread computes once is spread over them.
constexpr int kMostTurns = 4;

// Four blocks a multiprocessor would make the compiler spill for half types.
template <typename I>
constexpr int kBlocks =
    resident_blocks<typename I::T, typename I::Index>(sizeof(typename I::Field) == 2 ? 3 : 4);

template <typename I>
__global__ void __launch_bounds__(kThreads, (kBlocks<I>))
    compose_forward_kernel(const __grid_constant__ CompositionArguments<I> arguments) {
  constexpr int D = I::D;
  using Index = typename I::Index;
  const unsigned which = blockIdx.z;
  const typename I::T scale = arguments.scale[which];
  for (std::int64_t n = blockIdx.y; n < arguments.samples; n += gridDim.y) {
    const auto field = arguments.components(which, n);
    auto* out = arguments.out[which] + n * D * arguments.voxels;
    Index position[D];
    arguments.boxes.find(static_cast<Index>(blockIdx.x), position);
#pragma unroll 1
    for (int left = arguments.boxes.turns_from(position); left > 0;
         --left, position[0] += Boxes<D, Index>::kStep) {
      typename I::T values[D];
      arguments.compose(field, which, n, position, values);
      const Index voxel = arguments.boxes.offset(position);
      for (int axis = 0; axis < D; ++axis) {
        out[axis * arguments.voxels + voxel] = store<typename I::Field>(scale * values[axis]);
      }
    }
  }
}

}  // namespace

void compose_fields(const std::vector<Composition>& compositions, Padding padding,
                    std::uintptr_t stream) {
  const Composition& first = compositions[0];
  if (element_count(first.displacement) == 0) {
    return;
  }
  const std::int64_t largest = largest_offset(first.displacement, {first.field});
  dispatch_field(first.field, largest, by_padding(padding, [&](auto instance) {
                   using I = decltype(instance);
                   const CompositionArguments<I> arguments(compositions, padding, kMostTurns);
                   launch("compose_forward", compose_forward_kernel<I>,
                          arguments.boxes.grid(arguments.samples, compositions.size()), kThreads,
                          stream, arguments);
                 }));
}

void compose(const Tensor& u, const Tensor& v, const Tensor& out, Padding padding, int device,
             std::uintptr_t stream) {
  const DeviceGuard guard(device);
  compose_fields({{u, v, 1.0, 1.0, true, out}}, padding, stream);
}

}  // namespace plasticine::cuda
