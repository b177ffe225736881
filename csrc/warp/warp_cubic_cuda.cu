// warp forward in the cubic modes on the GPU: a thread finds its voxel's taps once, then serves its
// channels.
#include "warp/warp_cubic_cuda.h"
#include "warp/warp_cubic_cuda_cell.cuh"

namespace plasticine::cuda {
namespace {

// Of the four planes that a voxel reads, three are those of its neighbour one step before.
constexpr int kMostTurns = 4;

template <int D, typename Image, typename Field, typename Index>
__global__ void __launch_bounds__(kThreads, (resident_blocks<accumulator_t<Image>, Index>(2)))
    warp_cubic_forward_kernel(const __grid_constant__ WarpInputs<D, Image, Field, Index> inputs,
                              const __grid_constant__ Boxes<D, Index> boxes, Mode mode,
                              Image* __restrict__ out) {
  using T = accumulator_t<Image>;
  constexpr int kStep = Boxes<D, Index>::kStep;
  Index position[D];
  boxes.find(static_cast<Index>(blockIdx.x), position);
  const int turns = boxes.turns_from(position);
  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    LocationsOnLine<D, Image, Field, Index> line(inputs, n, position, turns);
    Image* target = out + n * inputs.channels * inputs.voxels + boxes.offset(position);
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      T location[D];
      line.next(inputs, kStep, location);
      CubicCell<D, false, T, Index> cell;
      cell.find(location, inputs.image_size, mode, inputs.padding);
      for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
        T unused[D];
        const T value = cell.sum(inputs.image.channel(n, c), inputs.image.stride, unused);
        write_once(target + c * inputs.voxels, value);
      }
      target += boxes.step_offset();
    }
  }
}

}  // namespace

void warp_cubic_forward(const Tensor& image, const Tensor& displacement, const Tensor& affine,
                        const Tensor& out, Mode mode, Padding padding, int device,
                        std::uintptr_t stream) {
  if (element_count(out) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  const std::int64_t voxels = voxel_count(out);
  const std::int64_t largest =
      std::max({channel_reach(image), channel_reach(displacement), voxels});
  dispatch_cubic_instance(
      displacement.shape[1], image.dtype, displacement.dtype, largest, [&](auto instance) {
        using Chosen = decltype(instance);
        constexpr int D = Chosen::D;
        using Image = typename Chosen::Image;
        using Field = typename Chosen::Field;
        using Index = typename Chosen::Index;
        const WarpInputs<D, Image, Field, Index> inputs(image, displacement, affine, padding);
        const Boxes<D, Index> boxes(displacement, kMostTurns);
        launch("warp_cubic_forward", warp_cubic_forward_kernel<D, Image, Field, Index>,
               launch_grid(boxes.count(), image.shape[0], image.shape[1]), kThreads, stream, inputs,
               boxes, mode, out.as<Image>());
      });
}

}  // namespace plasticine::cuda
