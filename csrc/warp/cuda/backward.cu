// warp backward on the GPU, and splat: the gradients of image, displacement and affine in one pass.
//
// A thread owns output voxels. The image's gradient is scattered with atomics (scatter.cuh), in
// fixed point where a deterministic sum is asked for; the affine's is summed in a fixed order, by
// warp, then by block, then by Python over the partial sums. Whole warps stay together, lanes
// without a voxel of their own included: lanes exchange what they scatter.
#include "warp/cuda/affine_sums.cuh"
#include "warp/cuda/cubic_scatter.cuh"
#include "warp/cuda/inputs.cuh"
#include "warp/cuda/warp.h"

namespace plasticine::cuda {
namespace {

constexpr int kMostTurns = 4;

// The buffers are null where a gradient is not asked for.
template <typename I>
struct BackwardArguments {
  static constexpr int D = I::D;
  using Image = typename I::Image;
  using Field = typename I::Field;
  using Index = typename I::Index;
  using T = typename I::T;

  WarpInputs<I> inputs;
  ChannelFirst<D, Image, Index> grad;
  Boxes<D, Index> boxes;
  Mode mode;
  ScatterBuffer<T> grad_image;
  Field* grad_displacement;
  T* affine_partial;

  __device__ __forceinline__ bool needs_image() const { return grad_image.values != nullptr; }
  __device__ __forceinline__ bool needs_location() const {
    return affine_partial != nullptr || grad_displacement != nullptr;
  }
  // From one of a block's channels of grad to the next.
  __device__ __forceinline__ std::int64_t grad_step() const {
    return grad.channel_stride * gridDim.z;
  }
};

// What one voxel passes on in the three modes: adds to the image's gradient, and to `gradient`,
// that with respect to the location. upstream, source and target are of the block's first channel.
// A lane that is not active adds nothing; an output that no voxel of the image entered passes
// nothing on, not even 0 * inf.
template <typename I, typename T = typename I::T>
__device__ __forceinline__ void scatter_linear(const BackwardArguments<I>& arguments,
                                               const Cell<I::D, T, typename I::Index>& cell,
                                               bool reached, const typename I::Image* upstream,
                                               ScatterTarget<T> target) {
  constexpr int D = I::D;
  typename I::Index stride[D];
  dense_strides<D>(arguments.inputs.image.size, stride);
  const std::int64_t plane = voxels_of<D>(arguments.inputs.image.size) * gridDim.z;
  const CellScatter<D, T, typename I::Index> scatter(cell, reached, stride);
  const int channels = static_cast<int>(arguments.inputs.channels);
  for (int c = blockIdx.z;;) {
    scatter.add(cell, stride, reached ? static_cast<T>(read(upstream)) : T(0), target);
    c += gridDim.z;
    if (c >= channels) {
      break;
    }
    upstream += arguments.grad_step();
    target = target.plane(plane);
  }
}

// scatters: whether the image's gradient may be asked for, which takes many registers. Without it
// the location's always is.
template <bool scatters, typename I, typename T = typename I::T>
__device__ __forceinline__ void linear_voxel(const BackwardArguments<I>& arguments,
                                             const T (&location)[I::D], bool active,
                                             const typename I::Image* upstream,
                                             const typename I::Image* source,
                                             const ScatterTarget<T>& target, T (&gradient)[I::D]) {
  constexpr int D = I::D;
  const WarpInputs<I>& inputs = arguments.inputs;
  Cell<D, T, typename I::Index> cell;
  cell.template find<I::padding>(location, inputs.image.size, inputs.padding);
  const bool reached = active && cell.reached();
  if (scatters && arguments.needs_image()) {
    scatter_linear(arguments, cell, reached, upstream, target);
  }
  if (scatters && !arguments.needs_location()) {
    return;
  }
  const int channels = static_cast<int>(inputs.channels);
  for (int c = 0;;) {  // all channels in one thread
    const T scale = reached ? static_cast<T>(read(upstream)) : T(0);
    T corner[corner_count<D>];
    read_corners<D>(source, inputs.image.stride, cell, corner);
    add_interpolation_gradient<D, T>(cell.lower, cell.upper, corner, scale, gradient);
    if (++c >= channels) {
      break;
    }
    upstream += arguments.grad_step();
    source += inputs.image.channel_stride;
  }
  for (int axis = 0; axis < D; ++axis) {
    gradient[axis] = active ? gradient[axis] * cell.derivative[axis] : T(0);
  }
}

// Nothing reaches the location.
template <typename I, typename T = typename I::T>
__device__ __forceinline__ void nearest_voxel(const BackwardArguments<I>& arguments,
                                              const T (&location)[I::D], bool active,
                                              const typename I::Image* upstream,
                                              ScatterTarget<T> target) {
  constexpr int D = I::D;
  using Index = typename I::Index;
  const WarpInputs<I>& inputs = arguments.inputs;
  NearestVoxel<D, T, Index> nearest;
  nearest.template find<Padding::any>(location, inputs.image.size, inputs.padding);
  Index stride[D];
  dense_strides<D>(inputs.image.size, stride);
  const std::int64_t plane = voxels_of<D>(inputs.image.size) * gridDim.z;
  Index offset = 0;
  for (int axis = 0; axis < D; ++axis) {
    offset += nearest.index[axis] * stride[axis];
  }
  const VoxelScatter<Index> scatter(offset, active && nearest.inside);
  for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
    scatter.add(active ? static_cast<T>(read(upstream)) : T(0), target);
    upstream += arguments.grad_step();
    target = target.plane(plane);
  }
}

// Which gradients are asked for is known at run time: the taps are read for the location's, then
// walked again to scatter the image's, which needs fewer registers than both at once. All is found
// from the position, for the same reason; `whole` is the target of all samples and channels.
template <typename I, typename T = typename I::T>
__device__ __forceinline__ void cubic_voxel(const BackwardArguments<I>& arguments, std::int64_t n,
                                            const typename I::Index (&position)[I::D], bool active,
                                            const ScatterTarget<T>& whole, T (&gradient)[I::D]) {
  constexpr int D = I::D;
  using Index = typename I::Index;
  const WarpInputs<I>& inputs = arguments.inputs;
  T location[D] = {};
  if (active) {
    sample_location(inputs, n, position, location);
  }
  CubicCell<D, true, T, Index> cell;
  cell.find(location, inputs.image.size, arguments.mode, inputs.padding);
  const bool reached = active && cell.reached();
  const CubicScatter<D, T, Index> scatter(cell, reached, inputs.image.size, whole);
  const Index offset = arguments.grad.offset(position);
  const std::int64_t plane = voxels_of<D>(inputs.image.size);
  for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
    const T upstream = reached ? static_cast<T>(read(arguments.grad.channel(n, c) + offset)) : T(0);
    if (active && arguments.needs_location()) {
      T derivative[D];
      cell.sum(inputs.image.channel(n, c), inputs.image.stride, derivative);
      for (int axis = 0; axis < D; ++axis) {
        gradient[axis] += upstream * derivative[axis];
      }
    }
    if (arguments.needs_image()) {
      scatter.add(cell, inputs.image.size, upstream,
                  whole.plane((n * inputs.channels + c) * plane));
    }
  }
}

// In place of LocationsOnLine.
template <typename I>
struct NoLine {
  __device__ NoLine(const WarpInputs<I>&, std::int64_t, const typename I::Index (&)[I::D], int) {}
};

constexpr int backward_blocks(Mode mode, bool scatters) {
  return mode == Mode::cubic || (mode == Mode::linear && scatters) ? 2 : 3;
}

template <Mode mode, bool scatters, typename I>
__global__ void __launch_bounds__(
    kThreads, (resident_blocks<typename I::T, typename I::Index>(backward_blocks(mode, scatters))))
    warp_backward_kernel(const __grid_constant__ BackwardArguments<I> arguments) {
  constexpr int D = I::D;
  constexpr int kStep = Boxes<D, typename I::Index>::kStep;
  using T = typename I::T;
  const WarpInputs<I>& inputs = arguments.inputs;
  const Boxes<D, typename I::Index>& boxes = arguments.boxes;
  const ScatterTarget<T> whole = arguments.grad_image.target();
  const bool has_affine = mode != Mode::nearest && arguments.affine_partial != nullptr;
  const bool has_displacement = mode != Mode::nearest && arguments.grad_displacement != nullptr;
  AffineSums<D, T> affine_sums;

  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    if (has_affine) {
      affine_sums.clear();
    }
    const auto* const source = settled(inputs.image.channel(n, blockIdx.z));
    const ScatterTarget<T> target =
        whole.plane((n * inputs.channels + blockIdx.z) * voxels_of<D>(inputs.image.size));
    // More than one box only where partial sums limit the number of blocks.
    for (std::int64_t box = blockIdx.x; box < boxes.count(); box += gridDim.x) {
      typename I::Index position[D];
      boxes.find(static_cast<typename I::Index>(box), position);
      const int own_turns = boxes.turns_from(position);
      std::conditional_t<mode == Mode::cubic, NoLine<I>, LocationsOnLine<I>> line(
          inputs, n, position, own_turns);
      const auto* upstream =
          settled(arguments.grad.channel(n, blockIdx.z) + arguments.grad.offset(position));
      auto* grad_displacement = arguments.grad_displacement;
      if (mode != Mode::cubic && has_displacement) {
        grad_displacement =
            settled(grad_displacement + n * D * inputs.voxels + boxes.offset(position));
      }
      LineMoments<D, T> moments;
#pragma unroll 1
      for (int turn = 0; turn < boxes.turns(); ++turn) {
        const bool active = turn < own_turns;
        T gradient[D] = {};
        if constexpr (mode == Mode::cubic) {
          cubic_voxel(arguments, n, position, active, whole, gradient);
        } else {
          T location[D];
          line.next(inputs, kStep, location);
          if constexpr (mode == Mode::nearest) {
            nearest_voxel(arguments, location, active, upstream, target);
          } else {
            linear_voxel<scatters>(arguments, location, active, upstream, source, target, gradient);
          }
          upstream += kStep * std::int64_t{arguments.grad.stride[0]};
        }
        if (has_displacement && active) {
          auto* component = grad_displacement;
          if constexpr (mode == Mode::cubic) {
            component += n * D * inputs.voxels + boxes.offset(position);
          }
#pragma unroll
          for (int axis = 0; axis < D; ++axis) {
            write_once(component, gradient[axis]);
            component += inputs.voxels;
          }
        }
        if (has_affine) {
          moments.add(gradient, position[0]);
        }
        if constexpr (mode != Mode::cubic) {
          grad_displacement += boxes.step_offset();
        }
        position[0] += kStep;
      }
      if (has_affine) {
        affine_sums.add(moments, position);
      }
    }
    if (has_affine) {
      affine_sums.store(arguments.affine_partial + (n * gridDim.x + blockIdx.x) * D * (D + 1));
    }
  }
}

// The largest number that the kernel counts to in its type of index: a block's turn may step past
// the last voxel by a whole grid before it ends.
std::int64_t largest_offset(const Tensor& grad, const Tensor& image, const Tensor& displacement) {
  return std::max({channel_reach(grad), channel_reach(image), channel_reach(displacement),
                   2 * voxel_count(grad) + 1024 * std::int64_t{kThreads}, voxel_count(image)});
}

}  // namespace

void warp_backward(const Tensor& grad, const Tensor& image, const Tensor& displacement,
                   const Tensor& affine, const WarpGradients& gradients, Mode mode, Padding padding,
                   int device, std::uintptr_t stream) {
  const DeviceGuard guard(device);
  // What is scattered to starts at zero.
  zero_fill(gradients.image, stream);
  zero_fill(gradients.image_fixed, stream);
  const bool is_constant = element_count(grad) == 0 || mode == Mode::nearest;
  if (is_constant) {  // as a function of the location
    zero_fill(gradients.displacement, stream);
    zero_fill(gradients.affine_partial, stream);
  }
  const bool needs_image = static_cast<bool>(gradients.image);
  const bool needs_location = !is_constant && (gradients.displacement || gradients.affine_partial);
  if (element_count(grad) == 0 || (!needs_image && !needs_location)) {
    return;
  }
  const auto run = [&](auto chosen, auto instance) {
    using I = decltype(instance);
    constexpr Mode kMode = decltype(chosen)::value;
    const BackwardArguments<I> arguments{
        {image, displacement, affine, padding},
        decltype(BackwardArguments<I>::grad)(grad),
        {grad, kMostTurns},
        mode,
        {gradients.image, gradients.image_fixed, gradients.fixed_scale},
        gradients.displacement.as<typename I::Field>(),
        gradients.affine_partial.as<typename I::T>()};
    // Partial sums of the affine fix the number of blocks, and a sum over channels in one thread
    // keeps the channels together.
    const std::int64_t blocks = needs_location && gradients.affine_partial
                                    ? gradients.affine_partial.shape[1]
                                    : arguments.boxes.count();
    auto kernel = warp_backward_kernel<kMode, true, I>;
    if constexpr (kMode == Mode::linear && I::padding != Padding::any) {
      kernel = needs_image ? kernel : warp_backward_kernel<kMode, false, I>;
    }
    launch("warp_backward", kernel,
           launch_grid(blocks, grad.shape[0], needs_location ? 1 : grad.shape[1]), kThreads, stream,
           arguments);
  };
  dispatch_warp(displacement.shape[1], grad.dtype, displacement.dtype, mode, padding,
                largest_offset(grad, image, displacement), run);
}

}  // namespace plasticine::cuda
