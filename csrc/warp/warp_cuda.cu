// warp forward on the GPU: a thread finds where its voxel is sampled once, then serves its
// channels.
#include "warp/warp_cubic_cuda.h"
#include "warp/warp_cuda_location.cuh"

namespace plasticine::cuda {
namespace {

constexpr int kMostTurns = 4;

// Blocks that share a multiprocessor: as many as the compiler fits without spilling.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
template <Padding padding, int D, typename Image>
constexpr int kResidentBlocks = 3;
#else
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kResidentOfZeros = 2;
#else
constexpr int kResidentOfZeros = 3;
#endif
template <Padding padding, int D, typename Image>
constexpr int kResidentBlocks = D == 2                           ? 4
                                : padding == Padding::zeros      ? kResidentOfZeros
                                : padding == Padding::reflection ? 3
                                : sizeof(Image) == sizeof(float) ? 4
                                                                 : 3;
#endif

template <Mode mode, Padding padding, int D, typename Image, typename Field, typename Index>
__global__ void __launch_bounds__(
    kThreads, (resident_blocks<accumulator_t<Image>, Index>(kResidentBlocks<padding, D, Image>)))
    warp_forward_kernel(const __grid_constant__ WarpInputs<D, Image, Field, Index> inputs,
                        const __grid_constant__ Boxes<D, Index> boxes, Image* __restrict__ out) {
  using T = accumulator_t<Image>;
  constexpr int kStep = Boxes<D, Index>::kStep;
  Index position[D];
  boxes.find(static_cast<Index>(blockIdx.x), position);
  const int turns = boxes.turns_from(position);
  const int channels = static_cast<int>(inputs.channels);
  const std::int64_t plane = inputs.voxels * std::int64_t{gridDim.z};
  const std::int64_t channel_step = inputs.image.channel_stride * gridDim.z;
  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    LocationsOnLine<D, Image, Field, Index> line(inputs, n, position, turns);
    const Image* const first_channel = settled(inputs.image.channel(n, blockIdx.z));
    Image* first_target =
        settled(out + (n * inputs.channels + blockIdx.z) * inputs.voxels + boxes.offset(position));
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      T location[D];
      line.next(inputs, kStep, location);
      const Image* source = first_channel;
      Image* target = first_target;
      if constexpr (mode == Mode::linear) {
        Cell<D, T, Index> cell;
        cell.template find<padding>(location, inputs.image_size, inputs.padding);
        for (int c = blockIdx.z;;) {
          T corner[corner_count<D>];
          read_corners<D>(source, inputs.image.stride, cell, corner);
          write_once(target, interpolate<D, T>(cell.lower, cell.upper, corner));
          c += gridDim.z;
          if (c >= channels) {
            break;
          }
          source += channel_step;
          target += plane;
        }
      } else {
        NearestVoxel<D, T, Index> nearest;
        nearest.template find<padding>(location, inputs.image_size, inputs.padding);
        source += inputs.image.offset(nearest.index);
        for (int c = blockIdx.z; c < channels; c += gridDim.z) {
          T value = nearest.is_nan ? std::numeric_limits<T>::quiet_NaN() : T(0);
          if (nearest.inside) {
            value = static_cast<T>(read(source));
          }
          write_once(target, value);
          source += channel_step;
          target += plane;
        }
      }
      first_target += boxes.step_offset();
    }
  }
}

}  // namespace

void warp_forward(const Tensor& image, const Tensor& displacement, const Tensor& affine,
                  const Tensor& out, Mode mode, Padding padding, int device,
                  std::uintptr_t stream) {
  if (is_cubic(mode)) {
    warp_cubic_forward(image, displacement, affine, out, mode, padding, device, stream);
    return;
  }
  if (element_count(out) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  const std::int64_t voxels = voxel_count(out);
  const std::int64_t largest =
      std::max({channel_reach(image), channel_reach(displacement), voxels});
  dispatch_instance(
      displacement.shape[1], image.dtype, displacement.dtype, padding, largest, [&](auto instance) {
        using Chosen = decltype(instance);
        constexpr int D = Chosen::D;
        using Image = typename Chosen::Image;
        using Field = typename Chosen::Field;
        using Index = typename Chosen::Index;
        const WarpInputs<D, Image, Field, Index> inputs(image, displacement, affine, padding);
        const Boxes<D, Index> boxes(displacement, kMostTurns);
        const auto kernel =
            mode == Mode::linear
                ? warp_forward_kernel<Mode::linear, Chosen::padding, D, Image, Field, Index>
                : warp_forward_kernel<Mode::nearest, Padding::any, D, Image, Field, Index>;
        launch("warp_forward", kernel, launch_grid(boxes.count(), image.shape[0], image.shape[1]),
               kThreads, stream, inputs, boxes, out.as<Image>());
      });
}

}  // namespace plasticine::cuda
