// The last squaring of an exponential and the warp by it in one pass: the displacement goes from
// registers to the image's coordinates, and is neither written nor read.
//
// Compiled are both dimensions, all paddings of the velocity and the image types named in the
// header, with 32-bit offsets; the mode and the padding of the image are chosen at run time, the
// same for a whole launch. plasticine/ops runs the exponential and the warp one after the other for
// the rest.
#include "warp_exponential/warp_exponential_cuda.h"

#include "compose/compose_cuda_field.cuh"

namespace plasticine::cuda {
namespace {

constexpr int kTurns = 4;

// Three would make sm_80's compiler spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kResidentBlocks = 2;
#else
constexpr int kResidentBlocks = 3;
#endif

using Index = std::int32_t;

// The displacement is scale * (field(p + location_scale * field(p)) + (field(p) if add)).
template <int D, typename Image>
struct LastStepArguments {
  const float* field;
  float scale;
  float location_scale;
  bool add;
  FieldShape<D, Index> field_shape;
  ChannelFirst<D, Image, Index> image;
  Index image_size[D];
  Boxes<D, Index> boxes;
  std::int64_t voxels;
  std::int64_t samples;
  std::int64_t channels;
  Mode mode;
  Padding padding;
  Image* out;

  LastStepArguments(const Tensor& image_tensor, const Flow& last, const Tensor& out_tensor,
                    Mode image_mode, Padding image_padding)
      : field(last.velocity.as<const float>()),
        scale(static_cast<float>(last.scale)),
        location_scale(last.method == Method::midpoint ? 0.5f * scale : scale),
        add(last.method == Method::euler),
        field_shape(last.velocity),
        image(image_tensor),
        boxes(last.velocity, kTurns),
        voxels(voxel_count(last.velocity)),
        samples(last.velocity.shape[0]),
        channels(image_tensor.shape[1]),
        mode(image_mode),
        padding(image_padding),
        out(out_tensor.as<Image>()) {
    for (int axis = 0; axis < D; ++axis) {
      image_size[axis] = static_cast<Index>(image_tensor.shape[2 + axis]);
    }
  }
};

// Samples all channels of the image at a location.
template <int D, typename Image>
__device__ __forceinline__ void sample_image(const LastStepArguments<D, Image>& arguments,
                                             std::int64_t n, const float (&location)[D],
                                             Image* target, std::int64_t target_stride) {
  const ChannelFirst<D, Image, Index>& image = arguments.image;
  if (arguments.mode == Mode::nearest) {
    NearestVoxel<D, float, Index> nearest;
    nearest.template find<Padding::any>(location, arguments.image_size, arguments.padding);
    const Index offset = image.offset(nearest.index);
    for (std::int64_t c = 0; c < arguments.channels; ++c) {
      float value = nearest.is_nan ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
      if (nearest.inside) {
        value = read(image.channel(n, c) + offset);
      }
      target[c * target_stride] = store<Image>(value);
    }
    return;
  }
  Cell<D, float, Index> cell;
  cell.template find<Padding::any>(location, arguments.image_size, arguments.padding);
  for (std::int64_t c = 0; c < arguments.channels; ++c) {
    float corner[corner_count<D>];
    read_corners<D>(image.channel(n, c), image.stride, cell, corner);
    target[c * target_stride] = store<Image>(interpolate<D, float>(cell.lower, cell.upper, corner));
  }
}

template <Padding field_padding, int D, typename Image>
__global__ void __launch_bounds__(kThreads, kResidentBlocks)
    warp_exponential_kernel(const __grid_constant__ LastStepArguments<D, Image> arguments) {
  const std::int64_t voxels = arguments.voxels;
  for (std::int64_t n = blockIdx.y; n < arguments.samples; n += gridDim.y) {
    const Components<D, float> field(arguments.field + n * arguments.field_shape.sample_stride,
                                     arguments.field_shape.channel_stride);
    Index position[D];
    arguments.boxes.find(static_cast<Index>(blockIdx.x), position);
#pragma unroll 1
    for (int left = arguments.boxes.turns_from(position); left > 0;
         --left, position[0] += Boxes<D, Index>::kStep) {
      float own[D];
      float location[D];
      read_sample(arguments.field, arguments.field_shape, n, position, own);
      const FieldCell<field_padding, D, float, Index> source(position, arguments.location_scale,
                                                             own, arguments.field_shape);
      source.sample(field, arguments.field_shape, location);
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        const float sum = arguments.add ? location[axis] + own[axis] : location[axis];
        location[axis] = static_cast<float>(position[axis]) + arguments.scale * sum;
      }
      sample_image(
          arguments, n, location,
          arguments.out + n * arguments.channels * voxels + arguments.boxes.offset(position),
          voxels);
    }
  }
}

template <int D, typename Image>
void launch_last_step(const Tensor& image, const Flow& last, const Tensor& out, Mode mode,
                      Padding padding, StreamHandle stream) {
  const LastStepArguments<D, Image> arguments(image, last, out, mode, padding);
  const dim3 grid = box_grid(arguments.boxes, arguments.samples, 1);
  dispatch_padding(last.padding, [&](auto chosen) {
    constexpr Padding field_padding = decltype(chosen)::value;
    launch("warp_exponential", warp_exponential_kernel<field_padding, D, Image>, grid, kThreads,
           stream, arguments);
  });
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
  dispatch_dimension(flow.velocity.shape[1], [&](auto dimension) {
    constexpr int D = decltype(dimension)::value;
    if (image.dtype == DType::float32) {
      launch_last_step<D, float>(image, last, out, mode, padding, stream);
    } else if (image.dtype == DType::float16) {
      launch_last_step<D, Half>(image, last, out, mode, padding, stream);
    } else {
      launch_last_step<D, BFloat16>(image, last, out, mode, padding, stream);
    }
  });
}

}  // namespace plasticine::cuda
