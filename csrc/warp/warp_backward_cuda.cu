// warp backward on the GPU: the gradients of image, displacement and affine in one pass.
//
// A thread owns an output voxel. The image's gradient is scattered with atomics
// (warp_cuda_scatter.cuh), in fixed point where a deterministic sum is asked for; the affine's is
// summed in a fixed order, by warp, then by block, then by Python over the partial sums.
#include "warp/warp_cubic_cuda.h"
#include "warp/warp_cuda_adjoint.cuh"

namespace plasticine::cuda {
namespace {

constexpr int kMostTurns = 4;

// What one voxel passes on: scatters to the image, and returns its slope with respect to the
// location, for linear interpolation. Whole warps come; a lane that is not active adds nothing, and
// its slope is zero. grad, source and target: of the block's first channel.
template <Padding padding, int D, typename Image, typename Field, typename Index, typename T>
__device__ __forceinline__ void linear_voxel(const WarpInputs<D, Image, Field, Index>& inputs,
                                             const T (&location)[D], bool active, const Image* grad,
                                             std::int64_t grad_step, const Image* source,
                                             ScatterTarget<T> target, bool needs_image,
                                             bool needs_location, T (&slope)[D]) {
  Cell<D, T, Index> cell;
  cell.template find<padding>(location, inputs.image_size, inputs.padding);
  // An output that no voxel of the image entered passes nothing on, not even 0 * inf.
  const bool reached = active && cell.reached();
  const int channels = static_cast<int>(inputs.channels);
  if (needs_image) {
    Index stride[D];
    dense_strides<D>(inputs.image_size, stride);
    const std::int64_t plane =
        static_cast<std::int64_t>(stride[0]) * inputs.image_size[0] * gridDim.z;
    const CellScatter<D, T, Index> cells(cell, reached, stride);
    const Image* upstream_address = grad;
    for (int c = blockIdx.z;;) {
      const T upstream = reached ? static_cast<T>(read(upstream_address)) : T(0);
      T share[corner_count<D>];
#pragma unroll
      for (int k = 0; k < corner_count<D>; ++k) {
        share[k] = upstream * corner_weight<D, T>(cell.lower, cell.upper, k);
      }
      cells.add(cell, stride, share, target);
      c += gridDim.z;
      if (c >= channels) {
        break;
      }
      upstream_address += grad_step;
      target = target.plane(plane);
    }
  }
  if (needs_location) {  // all channels in one thread
    for (int c = 0;;) {
      const T upstream = reached ? static_cast<T>(read(grad)) : T(0);
      T corner[corner_count<D>];
      read_corners<D>(source, inputs.image.stride, cell, corner);
      add_interpolation_gradient<D, T>(cell.lower, cell.upper, corner, upstream, slope);
      if (++c >= channels) {
        break;
      }
      grad += grad_step;
      source += inputs.image.channel_stride;
    }
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      slope[axis] = active ? slope[axis] * cell.derivative[axis] : T(0);
    }
  }
}

// scatters: whether the image's gradient may be asked for, which takes many registers. Without it
// the slope always is.
template <Padding padding, bool scatters, int D, typename Image, typename Field, typename Index>
__global__ void __launch_bounds__(kThreads,
                                  (resident_blocks<accumulator_t<Image>, Index>(scatters ? 2 : 3)))
    linear_backward_kernel(const __grid_constant__ WarpInputs<D, Image, Field, Index> inputs,
                           const __grid_constant__ ChannelFirst<D, Image, Index> grad,
                           const __grid_constant__ Boxes<D, Index> boxes,
                           GradientBuffers<accumulator_t<Image>, Field> buffers) {
  using T = accumulator_t<Image>;
  constexpr int kMoments = D * (D + 1);
  constexpr int kStep = Boxes<D, Index>::kStep;
  __shared__ T sums[kWarps * kMoments];
  const ScatterTarget<T> scatter_target = buffers.scatter_target();
  const bool has_affine = buffers.affine_partial != nullptr;
  const bool needs_image = scatters && scatter_target.values != nullptr;
  const bool needs_location = !scatters || has_affine || buffers.displacement != nullptr;
  const std::int64_t grad_step = grad.channel_stride * gridDim.z;
  std::int64_t image_voxels = 1;
  for (int axis = 0; axis < D; ++axis) {
    image_voxels *= inputs.image_size[axis];
  }

  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    if (has_affine) {
      clear_affine_sums<D>(sums);
    }
    const Image* const source = settled(inputs.image.channel(n, blockIdx.z));
    const ScatterTarget<T> target =
        scatter_target.plane((n * inputs.channels + blockIdx.z) * image_voxels);
    // More than one box only where partial sums limit the number of blocks. Whole blocks stay
    // together, since lanes exchange what they have.
    for (std::int64_t box = blockIdx.x; box < boxes.count(); box += gridDim.x) {
      Index position[D];
      boxes.find(static_cast<Index>(box), position);
      const int own_turns = boxes.turns_from(position);
      LocationsOnLine<D, Image, Field, Index> line(inputs, n, position, own_turns);
      const Image* upstream = settled(grad.channel(n, blockIdx.z) + grad.offset(position));
      Field* slope_target = buffers.displacement;
      if (slope_target != nullptr) {
        slope_target = settled(slope_target + n * D * inputs.voxels + boxes.offset(position));
      }
      LineMoments<D, T> moments;
#pragma unroll 1
      for (int turn = 0; turn < boxes.turns(); ++turn) {
        T location[D];
        line.next(inputs, kStep, location);
        T slope[D] = {};
        linear_voxel<padding>(inputs, location, turn < own_turns, upstream, grad_step, source,
                              target, needs_image, needs_location, slope);
        if (buffers.displacement != nullptr && turn < own_turns) {
          Field* component = slope_target;
#pragma unroll
          for (int axis = 0; axis < D; ++axis) {
            write_once(component, slope[axis]);
            component += inputs.voxels;
          }
        }
        if (has_affine) {
          moments.add(slope, position[0] + turn * kStep);
        }
        upstream += kStep * std::int64_t{grad.stride[0]};
        slope_target += boxes.step_offset();
      }
      if (has_affine) {
        moments.add_to(sums, position);
      }
    }
    if (has_affine) {
      T* const partial = buffers.affine_partial + (n * gridDim.x + blockIdx.x) * kMoments;
      store_affine_sums<D>(sums, partial);
    }
  }
}

// Nearest has no slope: only the image receives a gradient.
template <int D, typename Image, typename Field, typename Index>
__global__ void __launch_bounds__(kThreads, (resident_blocks<accumulator_t<Image>, Index>(3)))
    nearest_backward_kernel(const __grid_constant__ WarpInputs<D, Image, Field, Index> inputs,
                            const __grid_constant__ ChannelFirst<D, Image, Index> grad,
                            const __grid_constant__ Boxes<D, Index> boxes,
                            GradientBuffers<accumulator_t<Image>, Field> buffers) {
  using T = accumulator_t<Image>;
  constexpr int kStep = Boxes<D, Index>::kStep;
  const ScatterTarget<T> target = buffers.scatter_target();
  Index position[D];
  boxes.find(static_cast<Index>(blockIdx.x), position);
  const int own_turns = boxes.turns_from(position);
  Index stride[D];
  dense_strides<D>(inputs.image_size, stride);
  const std::int64_t plane = static_cast<std::int64_t>(stride[0]) * inputs.image_size[0];
  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    LocationsOnLine<D, Image, Field, Index> line(inputs, n, position, own_turns);
    Index grad_offset = grad.offset(position);
#pragma unroll 1
    for (int turn = 0; turn < boxes.turns(); ++turn) {
      const bool active = turn < own_turns;
      T location[D];
      line.next(inputs, kStep, location);
      NearestVoxel<D, T, Index> nearest;
      nearest.template find<Padding::any>(location, inputs.image_size, inputs.padding);
      Index offset = 0;
      for (int axis = 0; axis < D; ++axis) {
        offset += nearest.index[axis] * stride[axis];
      }
      const VoxelScatter<Index> scatter(offset, active && nearest.inside);
      for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
        const T share = active ? static_cast<T>(read(grad.channel(n, c) + grad_offset)) : T(0);
        scatter.add(share, target.plane((n * inputs.channels + c) * plane));
      }
      grad_offset += kStep * grad.stride[0];
    }
  }
}

template <Padding padding, int D, typename Image, typename Field, typename Index>
void launch_backward(const Tensor& grad, const Tensor& image, const Tensor& displacement,
                     const Tensor& affine, const WarpGradients& gradients, Mode mode,
                     Padding padding_of_call, StreamHandle stream) {
  const bool needs_image = gradients.image.data != nullptr;
  const bool needs_location =
      mode == Mode::linear && (gradients.displacement || gradients.affine_partial);
  if (!needs_image && !needs_location) {
    return;
  }
  const WarpInputs<D, Image, Field, Index> inputs(image, displacement, affine, padding_of_call);
  const ChannelFirst<D, Image, Index> upstream(grad);
  const Boxes<D, Index> boxes(grad, kMostTurns);
  const auto buffers = buffers_of<accumulator_t<Image>, Field>(gradients);
  auto kernel = nearest_backward_kernel<D, Image, Field, Index>;
  if (mode == Mode::linear) {
    constexpr auto scattering = linear_backward_kernel<padding, true, D, Image, Field, Index>;
    if constexpr (padding == Padding::any) {
      kernel = scattering;
    } else {
      kernel =
          needs_image ? scattering : linear_backward_kernel<padding, false, D, Image, Field, Index>;
    }
  }
  launch("warp_backward", kernel, backward_grid(boxes.count(), grad, gradients, needs_location),
         kThreads, stream, inputs, upstream, boxes, buffers);
}

}  // namespace

void warp_backward(const Tensor& grad, const Tensor& image, const Tensor& displacement,
                   const Tensor& affine, const WarpGradients& gradients, Mode mode, Padding padding,
                   int device, std::uintptr_t stream) {
  if (is_cubic(mode)) {
    warp_cubic_backward(grad, image, displacement, affine, gradients, mode, padding, device,
                        stream);
    return;
  }
  const DeviceGuard guard(device);
  const bool is_empty = element_count(grad) == 0;
  prepare_gradients(gradients, is_empty || mode == Mode::nearest, stream);
  if (is_empty) {
    return;
  }
  dispatch_instance(displacement.shape[1], grad.dtype, displacement.dtype, padding,
                    largest_offset(grad, image, displacement), [&](auto instance) {
                      using Chosen = decltype(instance);
                      launch_backward<Chosen::padding, Chosen::D, typename Chosen::Image,
                                      typename Chosen::Field, typename Chosen::Index>(
                          grad, image, displacement, affine, gradients, mode, padding, stream);
                    });
}

}  // namespace plasticine::cuda
