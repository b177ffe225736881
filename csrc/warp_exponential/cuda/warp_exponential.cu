// The last squaring of an exponential and the warp by it in one pass: the displacement goes from
// registers to the image's coordinates, and is neither written nor read.
//
// Compiled are both dimensions, all paddings of the velocity and the image types named in the
// header, with 32-bit offsets; the mode and the padding of the image are chosen at run time, the
// same for a whole launch. plasticine/ops runs the exponential and the warp one after the other for
// the rest.
#include "warp_exponential/cuda/warp_exponential.h"

#include "compose/cuda/composition.cuh"

namespace plasticine::cuda {
namespace {

constexpr int kMostTurns = 4;

// Three would make sm_80's compiler spill.
constexpr int kResidentBlocks = kArchitecture < 90 ? 2 : 3;

template <typename I>
struct LastStepArguments {
  CompositionArguments<I> step;
  ChannelFirst<I::D, typename I::Image, typename I::Index> image;
  int channels;
  Mode mode;
  Padding padding;
  typename I::Image* out;
};

template <typename I>
__global__ void __launch_bounds__(kThreads, kResidentBlocks)
    warp_exponential_kernel(const __grid_constant__ LastStepArguments<I> arguments) {
  constexpr int D = I::D;
  using Index = typename I::Index;
  const CompositionArguments<I>& step = arguments.step;
  const auto& image = arguments.image;
  for (std::int64_t n = blockIdx.y; n < step.samples; n += gridDim.y) {
    const auto field = step.components(0, n);
    Index position[D];
    step.boxes.find(static_cast<Index>(blockIdx.x), position);
#pragma unroll 1
    for (int left = step.boxes.turns_from(position); left > 0;
         --left, position[0] += Boxes<D, Index>::kStep) {
      float location[D];
      step.compose(field, 0, n, position, location);
      for (int axis = 0; axis < D; ++axis) {
        location[axis] = static_cast<float>(position[axis]) + step.scale[0] * location[axis];
      }
      const auto* source = image.channel(n, 0);
      auto* target =
          arguments.out + n * arguments.channels * step.voxels + step.boxes.offset(position);
      if (arguments.mode == Mode::nearest) {
        sample_channels<Mode::nearest, Padding::any>(image, arguments.padding, arguments.channels,
                                                     location, source, image.channel_stride, target,
                                                     step.voxels);
      } else {
        sample_channels<Mode::linear, Padding::any>(image, arguments.padding, arguments.channels,
                                                    location, source, image.channel_stride, target,
                                                    step.voxels);
      }
    }
  }
}

// One step from a field to the displacement: of the velocity, or of the displacement before the
// last, which this computes.
Flow last_step(const Flow& flow, const Stages& stages, const Tensor& scratch,
               std::uintptr_t stream) {
  if (flow.steps == first_stage(flow)) {
    return flow;
  }
  std::vector<Target> targets = targets_of(flow, stages, 0, Tensor());
  targets.pop_back();  // the last stage is never in memory
  int used = 0;
  if (targets.empty() || targets.back().stage != flow.steps - 1) {
    targets.push_back({flow.steps - 1, stacked(scratch, used++)});
  }
  const bool has_spare = scratch.data != nullptr && used < scratch.shape[0];
  integrate(flow, 0, Tensor(), targets, has_spare ? stacked(scratch, used) : Tensor(), stream);
  Flow last = flow;
  last.velocity = targets.back().field;
  last.scale = 1.0;
  last.steps = 1;
  last.method = Method::euler;
  return last;
}

}  // namespace

void warp_exponential_forward(const Tensor& image, const Flow& flow, const Tensor& out,
                              const Stages& stages, const Tensor& scratch, Mode mode,
                              Padding padding, int device, std::uintptr_t stream) {
  if (is_empty(flow)) {
    return;
  }
  const DeviceGuard guard(device);
  const Flow last = last_step(flow, stages, scratch, stream);
  if (element_count(out) == 0) {
    return;
  }
  const bool is_midpoint = last.method == Method::midpoint;
  const double distance = is_midpoint ? 0.5 * last.scale : last.scale;
  const Composition step{last.velocity, last.velocity, last.scale, distance, !is_midpoint};
  const auto run = [&](auto instance) {
    using I = decltype(instance);
    const LastStepArguments<I> arguments{{{step}, last.padding, kMostTurns},
                                         decltype(LastStepArguments<I>::image)(image),
                                         static_cast<int>(image.shape[1]),
                                         mode,
                                         padding,
                                         out.as<typename I::Image>()};
    launch("warp_exponential", warp_exponential_kernel<I>,
           arguments.step.boxes.grid(arguments.step.samples), kThreads, stream, arguments);
  };
  dispatch_type(image.dtype, [&](auto tag) {
    using Image = typename decltype(tag)::type;
    if constexpr (sizeof(Image) <= sizeof(float)) {
      dispatch_padding(last.padding, [&](auto chosen) {
        if (flow.velocity.shape[1] == 2) {
          run(Instance<2, decltype(chosen)::value, Image, float, std::int32_t>{});
        } else {
          run(Instance<3, decltype(chosen)::value, Image, float, std::int32_t>{});
        }
      });
    }
  });
}

}  // namespace plasticine::cuda
