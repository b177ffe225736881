// compose backward on the GPU, and with it the adjoint of every step of an exponential: one pass
// over the gradient for both gradients. The field's is scattered (warp_cuda_scatter.cuh); where the
// field is its own displacement, the two meet in one buffer.
//
// Compiled as compose_cuda.cu.
#include "compose/compose_cuda.h"
#include "compose/compose_cuda_field.cuh"
#include "warp/warp_cuda_scatter.cuh"

namespace plasticine::cuda {
namespace {

template <int D, typename Stored, typename Index>
struct ComposeBackwardArguments {
  using T = accumulator_t<Stored>;

  const Stored* field;
  const Stored* displacement;
  const Stored* grad;
  const Stored* added;
  FieldShape<D, Index> field_shape, displacement_shape, grad_shape, added_shape;
  Boxes<D, Index> boxes;
  std::int64_t voxels = 0;
  std::int64_t samples = 0;
  T scale = 1;
  T location_scale = 1;
  T added_scale = 0;
  T* grad_field = nullptr;
  unsigned long long* grad_field_fixed = nullptr;
  const double* fixed_scale = nullptr;
  Stored* grad_displacement = nullptr;
  bool is_same = false;
  Padding padding;  // where the kernel does not know it

  ComposeBackwardArguments(const Tensor& grad_tensor, const Composition& composition,
                           const CompositionGradients& gradients, Padding padding_of_call)
      : field(composition.field.as<const Stored>()),
        displacement(composition.displacement.as<const Stored>()),
        grad(grad_tensor.as<const Stored>()),
        added(gradients.added.as<const Stored>()),
        field_shape(composition.field),
        displacement_shape(composition.displacement),
        grad_shape(grad_tensor),
        added_shape(gradients.added),
        boxes(composition.displacement, 1),
        voxels(voxel_count(composition.displacement)),
        samples(composition.displacement.shape[0]),
        scale(static_cast<T>(composition.scale)),
        location_scale(static_cast<T>(composition.location_scale)),
        added_scale(static_cast<T>(gradients.added_scale)),
        is_same(gradients.is_same),
        padding(padding_of_call) {
    if (gradients.field) {
      grad_field = gradients.field.as<T>();
    }
    if (gradients.field_fixed) {
      grad_field_fixed = gradients.field_fixed.as<unsigned long long>();
      fixed_scale = gradients.fixed_scale.as<const double>();
    }
    if (gradients.displacement) {
      grad_displacement = gradients.displacement.as<Stored>();
    }
  }

  __device__ __forceinline__ ScatterTarget<T> scatter_target() const {
    return {grad_field, grad_field_fixed, grad_field_fixed == nullptr ? 1.0 : *fixed_scale};
  }
};

// Three blocks a multiprocessor would make the compiler spill for half types.
template <typename Stored, typename Index>
constexpr int kBlocks = resident_blocks<accumulator_t<Stored>, Index>(sizeof(Stored) == 2 ? 2 : 3);

// Whole warps stay together: lanes exchange what they scatter.
template <Padding padding, int D, typename Stored, typename Index>
__global__ void __launch_bounds__(kThreads, (kBlocks<Stored, Index>)) compose_backward_kernel(
    const __grid_constant__ ComposeBackwardArguments<D, Stored, Index> arguments) {
  using T = accumulator_t<Stored>;
  const FieldShape<D, Index>& shape = arguments.field_shape;
  const ScatterTarget<T> target = arguments.scatter_target();
  Index position[D];
  arguments.boxes.find(static_cast<Index>(blockIdx.x), position);
  const bool active = arguments.boxes.turns_from(position) > 0;
#pragma unroll
  for (int axis = 0; axis < D; ++axis) {
    position[axis] = active ? position[axis] : 0;
  }
  for (std::int64_t n = blockIdx.y; n < arguments.samples; n += gridDim.y) {
    T displacement[D];
    T grad[D];
    read_sample(arguments.displacement, arguments.displacement_shape, n, position, displacement);
    read_sample(arguments.grad, arguments.grad_shape, n, position, grad);
    const FieldCell<padding, D, T, Index> cell(position, arguments.location_scale, displacement,
                                               shape, arguments.padding);
    // An output that no voxel of the field entered passes nothing on to it, not even 0 * inf.
    const bool reached = active && cell.reached();
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      grad[axis] = reached ? arguments.scale * grad[axis] : T(0);
    }
    if (arguments.is_same || arguments.grad_displacement != nullptr) {
      const Components<D, Stored> field(arguments.field + n * shape.sample_stride,
                                        shape.channel_stride);
      T slope[D] = {};
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        T corner[corner_count<D>];
        cell.read(field.channel[axis], shape, corner);
        add_interpolation_gradient<D, T>(cell.lower, cell.upper, corner, grad[axis], slope);
      }
      T added[D] = {};
      if (arguments.added != nullptr) {
        read_sample(arguments.added, arguments.added_shape, n, position, added);
      }
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        slope[axis] = arguments.location_scale * cell.derivative[axis] * slope[axis] +
                      arguments.added_scale * added[axis];
      }
      const std::int64_t voxels = arguments.voxels;
      const std::int64_t own = n * D * voxels + arguments.boxes.offset(position);
      if (active) {
#pragma unroll
        for (int axis = 0; axis < D; ++axis) {
          if (arguments.is_same) {
            atomicAdd(arguments.grad_field + own + axis * voxels, slope[axis]);
          } else {
            arguments.grad_displacement[own + axis * voxels] = store<Stored>(slope[axis]);
          }
        }
      }
    }
    if (arguments.grad_field != nullptr) {
      Index dense_stride[D];
      std::int64_t voxels = 1;
#pragma unroll
      for (int axis = D - 1; axis >= 0; --axis) {
        dense_stride[axis] = static_cast<Index>(voxels);
        voxels *= shape.size[axis];
      }
      const CellScatter<D, T, Index> scatter(cell, reached, dense_stride);
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        T share[corner_count<D>];
#pragma unroll
        for (int k = 0; k < corner_count<D>; ++k) {
          share[k] = grad[axis] * corner_weight<D, T>(cell.lower, cell.upper, k);
        }
        scatter.add(cell, dense_stride, share, target.plane((n * D + axis) * voxels));
      }
    }
  }
}

}  // namespace

void compose_backward(const Tensor& grad, const Composition& composition,
                      const CompositionGradients& gradients, Padding padding,
                      std::uintptr_t stream) {
  if (element_count(composition.displacement) == 0) {
    return;
  }
  const std::int64_t field_voxels = voxel_count(composition.field);
  const std::int64_t largest = std::max(
      field_voxels,
      largest_offset(composition.displacement,
                     {composition.field, composition.displacement, grad, gradients.added}));
  dispatch_instance(composition.field, padding, largest, [&](auto instance) {
    using Chosen = decltype(instance);
    constexpr int D = Chosen::D;
    using Stored = typename Chosen::Field;
    using Index = typename Chosen::Index;
    const ComposeBackwardArguments<D, Stored, Index> arguments(grad, composition, gradients,
                                                               padding);
    launch("compose_backward", compose_backward_kernel<Chosen::padding, D, Stored, Index>,
           box_grid(arguments.boxes, arguments.samples, 1), kThreads, stream, arguments);
  });
}

void compose_gradients(const Tensor& grad, const Tensor& u, const Tensor& v,
                       CompositionGradients gradients, Padding padding, int device,
                       std::uintptr_t stream) {
  const DeviceGuard guard(device);
  gradients.added = grad;
  gradients.added_scale = 1.0;
  for (const auto& scattered : {gradients.field, gradients.field_fixed}) {
    if (scattered) {
      zero_fill(scattered, stream);
    }
  }
  Composition composition;
  composition.field = u;
  composition.displacement = v;
  compose_backward(grad, composition, gradients, padding, stream);
}

}  // namespace plasticine::cuda
