// compose backward on the GPU, and with it the adjoint of every step of an exponential: one pass
// over the gradient for both gradients. The field's is scattered (scatter.cuh); where the field is
// its own displacement, the two meet in one buffer.
#include "compose/cuda/composition.cuh"
#include "warp/cuda/scatter.cuh"

namespace plasticine::cuda {
namespace {

template <typename I>
struct AdjointArguments {
  using Stored = typename I::Field;
  using View = ChannelFirst<I::D, Stored, typename I::Index>;

  CompositionArguments<I> composition;
  View grad;
  View added;
  typename I::T added_scale;
  ScatterBuffer<typename I::T> grad_field;
  Stored* grad_displacement;
  bool is_same;
};

// Three blocks a multiprocessor would make the compiler spill for half types.
template <typename I>
constexpr int kBlocks =
    resident_blocks<typename I::T, typename I::Index>(sizeof(typename I::Field) == 2 ? 2 : 3);

// Whole warps stay together: lanes exchange what they scatter.
template <typename I>
__global__ void __launch_bounds__(kThreads, (kBlocks<I>))
    compose_backward_kernel(const __grid_constant__ AdjointArguments<I> arguments) {
  constexpr int D = I::D;
  using T = typename I::T;
  using Index = typename I::Index;
  const CompositionArguments<I>& composition = arguments.composition;
  const Layout<D, Index>& layout = composition.field_layout;
  const T location_scale = composition.location_scale[0];
  const ScatterTarget<T> target = arguments.grad_field.target();
  Index position[D];
  composition.boxes.find(static_cast<Index>(blockIdx.x), position);
  const bool active = composition.boxes.turns_from(position) > 0;
  for (int axis = 0; axis < D; ++axis) {
    position[axis] = active ? position[axis] : 0;
  }
  for (std::int64_t n = blockIdx.y; n < composition.samples; n += gridDim.y) {
    T displacement[D];
    T grad[D];
    composition.read_displacement(0, n, position, displacement);
    read_sample(arguments.grad.data, arguments.grad, n, position, grad);
    const FieldCell<I> cell = composition.cell(position, location_scale, displacement);
    // An output that no voxel of the field entered passes nothing on to it, not even 0 * inf.
    const bool reached = active && cell.reached();
    for (int axis = 0; axis < D; ++axis) {
      grad[axis] = reached ? composition.scale[0] * grad[axis] : T(0);
    }
    if (arguments.is_same || arguments.grad_displacement != nullptr) {
      const auto field = composition.components(0, n);
      T gradient[D] = {};  // with respect to the location
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        T corner[corner_count<D>];
        cell.read_component(field.channel[axis], layout, corner);
        add_interpolation_gradient<D, T>(cell.lower, cell.upper, corner, grad[axis], gradient);
      }
      T added[D] = {};
      if (arguments.added.data != nullptr) {
        read_sample(arguments.added.data, arguments.added, n, position, added);
      }
      for (int axis = 0; axis < D; ++axis) {
        gradient[axis] = location_scale * cell.derivative[axis] * gradient[axis] +
                         arguments.added_scale * added[axis];
      }
      const std::int64_t voxels = composition.voxels;
      const std::int64_t own = n * D * voxels + composition.boxes.offset(position);
      if (active) {
#pragma unroll
        for (int axis = 0; axis < D; ++axis) {
          if (arguments.is_same) {
            atomicAdd(target.values + own + axis * voxels, gradient[axis]);
          } else {
            arguments.grad_displacement[own + axis * voxels] =
                store<typename I::Field>(gradient[axis]);
          }
        }
      }
    }
    if (target.values != nullptr) {
      Index stride[D];
      dense_strides<D>(layout.size, stride);
      const std::int64_t voxels = voxels_of<D>(layout.size);
      const CellScatter<D, T, Index> scatter(cell, reached, stride);
      for (int axis = 0; axis < D; ++axis) {
        scatter.add(cell, stride, grad[axis], target.plane((n * D + axis) * voxels));
      }
    }
  }
}

}  // namespace

void compose_adjoint(const Tensor& grad, const Composition& composition,
                     const CompositionGradients& gradients, Padding padding,
                     std::uintptr_t stream) {
  if (element_count(composition.displacement) == 0) {
    return;
  }
  const std::int64_t largest = std::max(
      voxel_count(composition.field),
      largest_offset(composition.displacement, {composition.field, grad, gradients.added}));
  dispatch_field(composition.field, largest, by_padding(padding, [&](auto instance) {
                   using I = decltype(instance);
                   using View = typename AdjointArguments<I>::View;
                   const AdjointArguments<I> arguments{
                       {{composition}, padding, 1},
                       View(grad),
                       View(gradients.added),
                       static_cast<typename I::T>(gradients.added_scale),
                       {gradients.field, gradients.field_fixed, gradients.fixed_scale},
                       gradients.displacement.as<typename I::Field>(),
                       gradients.is_same};
                   launch("compose_backward", compose_backward_kernel<I>,
                          arguments.composition.boxes.grid(arguments.composition.samples), kThreads,
                          stream, arguments);
                 }));
}

void compose_gradients(const Tensor& grad, const Tensor& u, const Tensor& v,
                       CompositionGradients gradients, Padding padding, int device,
                       std::uintptr_t stream) {
  const DeviceGuard guard(device);
  gradients.added = grad;
  gradients.added_scale = 1.0;
  zero_fill(gradients.field, stream);
  zero_fill(gradients.field_fixed, stream);
  compose_adjoint(grad, {u, v}, gradients, padding, stream);
}

}  // namespace plasticine::cuda
