// The derivative of warp's backward on the GPU, in one pass over the voxels.
//
// It is asked for seldom, so that few kernels serve all: which tensors are there, and the padding,
// is known at run time.
#include "warp_cuda_adjoint.cuh"
#include "warp_double_backward_cuda.h"
#include "warp_double_backward_math.h"

namespace plasticine::cuda {
namespace {

// The direction along which the backward is differentiated; parts without data are zero.
template <int D, typename Image, typename Field, typename Index>
struct Directions {
  ChannelFirst<D, Image, Index> image;
  ChannelFirst<D, Field, Index> field;
  const Field* affine = nullptr;
  std::int64_t affine_stride[3] = {};

  explicit Directions(const WarpDoubleBackward& call) {
    if (call.image_direction) {
      image = ChannelFirst<D, Image, Index>(call.image_direction);
    }
    if (call.field_direction) {
      field = ChannelFirst<D, Field, Index>(call.field_direction);
    }
    if (call.affine_direction) {
      affine = call.affine_direction.template as<const Field>();
      for (int axis = 0; axis < 3; ++axis) {
        affine_stride[axis] = call.affine_direction.strides[axis];
      }
    }
  }

  // How the location of a voxel moves.
  template <typename T>
  __device__ __forceinline__ void of_location(std::int64_t n, const Index (&position)[D],
                                              T (&direction)[D]) const {
    const Index offset = field.offset(position);
#pragma unroll
    for (int i = 0; i < D; ++i) {
      direction[i] = static_cast<T>(read(field.channel(n, i) + offset));
      if (affine != nullptr) {
        const Field* row = affine + n * affine_stride[0] + i * affine_stride[1];
        direction[i] += static_cast<T>(read(row + D * affine_stride[2]));
#pragma unroll
        for (int j = 0; j < D; ++j) {
          direction[i] +=
              static_cast<T>(read(row + j * affine_stride[2])) * static_cast<T>(position[j]);
        }
      }
    }
  }
};

// As a product, but zero where the padding holds the coordinate, whatever the other factor is.
template <typename T>
__device__ __forceinline__ T times_derivative(T derivative, T factor) {
  return derivative == T(0) ? T(0) : derivative * factor;
}

// One voxel: scatters to the image, writes to_grad_out, and returns its slope with respect to the
// location. Whole warps come; a lane that is not active has a position, but changes nothing, and
// its slope is zero.
template <int D, typename Image, typename Field, typename Index, typename T>
__device__ __forceinline__ void double_backward_voxel(
    const WarpInputs<D, Image, Field, Index>& inputs,
    const Directions<D, Image, Field, Index>& along, const ChannelFirst<D, Image, Index>& grad,
    const ScatterTarget<T>& target, Image* to_grad_out, bool add, std::int64_t n,
    const Index (&position)[D], bool active, T (&slope)[D]) {
  T location[D];
  sample_location(inputs, n, position, location);
  Cell<D, T, Index> cell;
  cell.template find<Padding::any>(location, inputs.image_size, inputs.padding);
  const bool reached = active && cell.reached();
  const Index grad_offset = grad.offset(position);
  const bool moves = along.field.data != nullptr;
  T direction[D] = {};
  if (moves) {
    along.of_location(n, position, direction);
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      direction[axis] = times_derivative(cell.derivative[axis], direction[axis]);
    }
  }
  if (target.values != nullptr) {
    Index stride[D];
    dense_strides<D>(inputs.image_size, stride);
    const std::int64_t plane = static_cast<std::int64_t>(stride[0]) * inputs.image_size[0];
    const CellScatter<D, T, Index> cells(cell, reached, stride);
    for (std::int64_t c = 0; c < inputs.channels; ++c) {
      const T upstream = reached ? static_cast<T>(read(grad.channel(n, c) + grad_offset)) : T(0);
      T share[corner_count<D>];
#pragma unroll
      for (int k = 0; k < corner_count<D>; ++k) {
        share[k] = upstream * directed_corner_weight<D, T>(cell.lower, cell.upper, direction, k);
      }
      cells.add(cell, stride, share, target.plane((n * inputs.channels + c) * plane));
    }
  }
  for (std::int64_t c = 0; c < inputs.channels; ++c) {
    const T upstream = reached ? static_cast<T>(read(grad.channel(n, c) + grad_offset)) : T(0);
    T value = T(0);
    T corner[corner_count<D>];
    if (along.image.data != nullptr) {
      read_corners<D>(along.image.channel(n, c), along.image.stride, cell, corner);
      value = interpolate<D, T>(cell.lower, cell.upper, corner);
      add_interpolation_gradient<D, T>(cell.lower, cell.upper, corner, upstream, slope);
    }
    if (moves) {
      read_corners<D>(inputs.image.channel(n, c), inputs.image.stride, cell, corner);
      T gradient[D] = {};
      add_interpolation_gradient<D, T>(cell.lower, cell.upper, corner, T(1), gradient);
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        value += times_derivative(direction[axis], gradient[axis]);
      }
      T mixed[axis_pairs<D>];
      mixed_derivatives<D, T>(cell.lower, cell.upper, corner, mixed);
      add_directed_gradient<D, T>(mixed, direction, upstream, slope);
      if (add) {
        value += static_cast<T>(read(along.field.channel(n, c) + along.field.offset(position)));
      }
    }
    if (to_grad_out != nullptr && active) {
      write_once(to_grad_out + c * inputs.voxels, value);
    }
  }
#pragma unroll
  for (int axis = 0; axis < D; ++axis) {
    const T factor = cell.located ? cell.derivative[axis] : std::numeric_limits<T>::quiet_NaN();
    slope[axis] = active ? times_derivative(factor, slope[axis]) : T(0);
  }
}

template <int D, typename Image, typename Field, typename Index>
__global__ void __launch_bounds__(kThreads, (resident_blocks<accumulator_t<Image>, Index>(2)))
    double_backward_kernel(const __grid_constant__ WarpInputs<D, Image, Field, Index> inputs,
                           const __grid_constant__ Directions<D, Image, Field, Index> along,
                           const __grid_constant__ ChannelFirst<D, Image, Index> grad,
                           const __grid_constant__ Boxes<D, Index> boxes, Image* to_grad_out,
                           GradientBuffers<accumulator_t<Image>, Field> buffers, bool add) {
  using T = accumulator_t<Image>;
  constexpr int kMoments = D * (D + 1);
  __shared__ T sums[kWarps * kMoments];
  const bool has_affine = buffers.affine_partial != nullptr;
  const ScatterTarget<T> target = buffers.scatter_target();
  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    if (has_affine) {
      clear_affine_sums<D>(sums);
    }
    // Whole blocks stay together, since lanes exchange what they have.
    for (std::int64_t box = blockIdx.x; box < boxes.count(); box += gridDim.x) {
      Index position[D];
      boxes.find(static_cast<Index>(box), position);
      const bool active = boxes.turns_from(position) > 0;
      for (int axis = 0; axis < D; ++axis) {
        position[axis] = active ? position[axis] : 0;
      }
      const Index voxel = boxes.offset(position);
      Image* out = to_grad_out;
      if (out != nullptr) {
        out += n * inputs.channels * inputs.voxels + voxel;
      }
      T slope[D] = {};
      double_backward_voxel(inputs, along, grad, target, out, add, n, position, active, slope);
      if (active && buffers.displacement != nullptr) {
#pragma unroll
        for (int axis = 0; axis < D; ++axis) {
          write_once(buffers.displacement + (n * D + axis) * inputs.voxels + voxel, slope[axis]);
        }
      }
      if (has_affine) {
        add_affine_moments(slope, position, sums);
      }
    }
    if (has_affine) {
      T* const partial = buffers.affine_partial + (n * gridDim.x + blockIdx.x) * kMoments;
      store_affine_sums<D>(sums, partial);
    }
  }
}

}  // namespace

void warp_double_backward(const WarpDoubleBackward& call, int device, std::uintptr_t stream) {
  const DeviceGuard guard(device);
  const bool is_empty = element_count(call.grad_out) == 0;
  prepare_gradients(call.gradients, is_empty, stream);
  if (is_empty) {
    return;
  }
  std::int64_t largest = largest_offset(call.grad_out, call.image, call.displacement);
  for (const auto& direction : {call.image_direction, call.field_direction}) {
    if (direction) {
      largest = std::max(largest, channel_reach(*direction));
    }
  }
  dispatch_instance(
      call.displacement.shape[1], call.image.dtype, call.displacement.dtype, call.padding, largest,
      [&](auto instance) {
        using Chosen = decltype(instance);
        constexpr int D = Chosen::D;
        using Image = typename Chosen::Image;
        using Field = typename Chosen::Field;
        // Offsets of 32 bits for float32 alone: the others take longer to compile than they save.
        using Index =
            std::conditional_t<std::is_same_v<Image, float>, typename Chosen::Index, std::int64_t>;
        const WarpInputs<D, Image, Field, Index> inputs(call.image, call.displacement, call.affine,
                                                        call.padding);
        const Directions<D, Image, Field, Index> along(call);
        const ChannelFirst<D, Image, Index> grad(call.grad_out);
        const Boxes<D, Index> boxes(call.grad_out, 1);
        const auto buffers = buffers_of<accumulator_t<Image>, Field>(call.gradients);
        Image* const to_grad_out =
            call.to_grad_out ? call.to_grad_out.template as<Image>() : nullptr;
        launch("warp_double_backward", double_backward_kernel<D, Image, Field, Index>,
               backward_grid(boxes.count(), call.grad_out, call.gradients, true), kThreads, stream,
               inputs, along, grad, boxes, to_grad_out, buffers, call.add);
      });
}

}  // namespace plasticine::cuda
