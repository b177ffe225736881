// warp forward on the GPU: a thread finds where its voxel is sampled once, then serves its
// channels.
#include "warp/cuda/cubic_cell.cuh"
#include "warp/cuda/inputs.cuh"
#include "warp/cuda/warp.h"

namespace plasticine::cuda {
namespace {

// Of the four planes that a voxel reads in the cubic modes, three are those of its neighbour one
// step before.
constexpr int kMostTurns = 4;

// Blocks that share a multiprocessor: as many as the compiler fits without spilling. Mode::cubic
// stands for both cubic modes.
template <Mode mode, typename I>
constexpr int forward_blocks() {
  if (mode == Mode::cubic) {
    return 2;
  }
  if (kArchitecture < 90) {
    return 3;
  }
  if (I::D == 2) {
    return 4;
  }
  if (I::padding == Padding::zeros) {
    return kArchitecture < 100 ? 3 : 2;
  }
  return I::padding == Padding::reflection || sizeof(typename I::Image) == 2 ? 3 : 4;
}

template <Mode mode, typename I>
__global__ void __launch_bounds__(
    kThreads, (resident_blocks<typename I::T, typename I::Index>(forward_blocks<mode, I>())))
    warp_forward_kernel(const __grid_constant__ WarpInputs<I> inputs,
                        const __grid_constant__ Boxes<I::D, typename I::Index> boxes,
                        Mode mode_of_call, typename I::Image* __restrict__ out) {
  constexpr int D = I::D;
  using T = typename I::T;
  using Image = typename I::Image;
  using Index = typename I::Index;
  Index position[D];
  boxes.find(static_cast<Index>(blockIdx.x), position);
  const int turns = boxes.turns_from(position);
  const std::int64_t plane = inputs.voxels * std::int64_t{gridDim.z};
  const std::int64_t channel_step = inputs.image.channel_stride * gridDim.z;
  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    LocationsOnLine<I> line(inputs, n, position, turns);
    const Image* const source = settled(inputs.image.channel(n, blockIdx.z));
    Image* target =
        settled(out + (n * inputs.channels + blockIdx.z) * inputs.voxels + boxes.offset(position));
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      T location[D];
      line.next(inputs, Boxes<D, Index>::kStep, location);
      if constexpr (mode == Mode::cubic) {
        CubicCell<D, false, T, Index> cell;
        cell.find(location, inputs.image.size, mode_of_call, inputs.padding);
        const Image* channel = source;
        Image* voxel = target;
        for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
          T unused[D];
          write_once(voxel, cell.sum(channel, inputs.image.stride, unused));
          channel += channel_step;
          voxel += plane;
        }
      } else {
        sample_channels<mode, I::padding>(inputs.image, inputs.padding,
                                          static_cast<int>(inputs.channels), location, source,
                                          channel_step, target, plane);
      }
      target += boxes.step_offset();
    }
  }
}

}  // namespace

void warp_forward(const Tensor& image, const Tensor& displacement, const Tensor& affine,
                  const Tensor& out, Mode mode, Padding padding, int device,
                  std::uintptr_t stream) {
  if (element_count(out) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  const std::int64_t largest =
      std::max({channel_reach(image), channel_reach(displacement), voxel_count(out)});
  const auto run = [&](auto chosen, auto instance) {
    using I = decltype(instance);
    const WarpInputs<I> inputs(image, displacement, affine, padding);
    const Boxes<I::D, typename I::Index> boxes(displacement, kMostTurns);
    launch("warp_forward", warp_forward_kernel<decltype(chosen)::value, I>,
           launch_grid(boxes.count(), image.shape[0], image.shape[1]), kThreads, stream, inputs,
           boxes, mode, out.as<typename I::Image>());
  };
  dispatch_warp(displacement.shape[1], image.dtype, displacement.dtype, mode, padding, largest,
                run);
}

}  // namespace plasticine::cuda
