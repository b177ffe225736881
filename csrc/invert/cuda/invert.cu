// The inversion of a displacement on the GPU, and the pointwise part of its adjoint: one voxel a
// thread.
#include "invert/cuda/invert.h"

#include "invert/math/invert.h"
#include "jacobian/cuda/stencil.cuh"
#include "warp/cuda/cell.cuh"

namespace plasticine::cuda {
namespace {

template <typename I>
struct Field : ChannelFirst<I::D, typename I::Field, typename I::Index> {
  static constexpr int D = I::D;
  using Index = typename I::Index;
  using T = typename I::T;

  Divisor<Index> row_length, plane_height;
  Index voxels;
  Padding padding;  // where the kernel does not know it
  std::int64_t samples;

  Field(const Tensor& tensor, Padding padding_of_call)
      : ChannelFirst<D, typename I::Field, Index>(tensor),
        row_length(tensor.shape[1 + D]),
        plane_height(tensor.shape[D]),
        voxels(static_cast<Index>(voxel_count(tensor))),
        padding(padding_of_call),
        samples(tensor.shape[0]) {}

  // This thread's voxel, which may lie beyond the last.
  __device__ __forceinline__ Index find(Index (&position)[D]) const {
    const Index voxel =
        static_cast<Index>(blockIdx.x) * kInvertThreads + static_cast<Index>(threadIdx.x);
    Index row = row_length.divide(voxel);
    position[D - 1] = voxel - row * this->size[D - 1];
    if constexpr (D == 3) {
      const Index plane = plane_height.divide(row);
      position[1] = row - plane * this->size[1];
      row = plane;
    }
    position[0] = row;
    return voxel;
  }

  // The field at a location, and its gradient: gradient[i][a] of component i along axis a.
  __device__ __forceinline__ void sample(std::int64_t n, const T (&location)[D], T (&value)[D],
                                         T (&gradient)[D][D]) const {
    Cell<D, T, Index> cell;
    cell.template find<I::padding>(location, this->size, padding);
#pragma unroll
    for (int i = 0; i < D; ++i) {
      T corner[corner_count<D>];
      read_corners<D>(this->channel(n, i), this->stride, cell, corner);
      value[i] = interpolate<D, T>(cell.lower, cell.upper, corner);
      T along[D] = {};
      add_interpolation_gradient<D, T>(cell.lower, cell.upper, corner, T(1), along);
      for (int axis = 0; axis < D; ++axis) {
        gradient[i][axis] = along[axis] * cell.derivative[axis];
      }
    }
  }
};

// Outcomes of a block's voxels: of squared residuals, NaN is the largest.
template <typename T>
struct Outcome {
  T squared;
  int iterations;
};

template <typename T>
__device__ __forceinline__ Outcome<T> worse(const Outcome<T>& a, const Outcome<T>& b) {
  return {b.squared > a.squared || b.squared != b.squared ? b.squared : a.squared,
          b.iterations > a.iterations ? b.iterations : a.iterations};
}

template <typename I, typename T>
__device__ __forceinline__ Outcome<T> solve_voxel(const Field<I>& field, std::int64_t n,
                                                  const typename I::Index (&position)[I::D],
                                                  T squared_tolerance, int limit,
                                                  T (&inverse)[I::D]) {
  constexpr int D = I::D;
  const auto offset = field.offset(position);
  for (int axis = 0; axis < D; ++axis) {
    const T value = load(field.channel(n, axis)[offset]);
    inverse[axis] = isfinite(value) ? -value : T(0);
  }
  T relaxation = T(1);
  T before = std::numeric_limits<T>::infinity();
  for (int iteration = 0;; ++iteration) {
    T location[D];
    for (int axis = 0; axis < D; ++axis) {
      location[axis] = static_cast<T>(position[axis]) + inverse[axis];
    }
    T residual[D];
    T gradient[D][D];
    field.sample(n, location, residual, gradient);
    T squared = T(0);
    for (int axis = 0; axis < D; ++axis) {
      residual[axis] += inverse[axis];
      squared += residual[axis] * residual[axis];
    }
    if (!isfinite(squared)) {
      const T nan = std::numeric_limits<T>::quiet_NaN();
      for (int axis = 0; axis < D; ++axis) {
        inverse[axis] = nan;
      }
      return {nan, iteration};
    }
    if (squared <= squared_tolerance || iteration == limit) {
      return {squared, iteration};
    }
    T step[D];
    inversion_step<D>(gradient, residual, squared, is_newton_step(iteration), step);
    relaxation = next_relaxation(relaxation, squared, before);
    before = squared;
    for (int axis = 0; axis < D; ++axis) {
      inverse[axis] += relaxation * step[axis];
    }
  }
}

template <typename I>
__global__ void __launch_bounds__(kInvertThreads, 4)
    invert_kernel(const __grid_constant__ Field<I> field, typename I::T squared_tolerance,
                  int limit, typename I::Field* __restrict__ out,
                  typename I::T* __restrict__ squared_residual,
                  std::int64_t* __restrict__ iterations) {
  constexpr int D = I::D;
  using T = typename I::T;
  typename I::Index position[D];
  const auto voxel = field.find(position);
  for (std::int64_t n = blockIdx.y; n < field.samples; n += gridDim.y) {
    Outcome<T> mine = {T(0), 0};
    if (voxel < field.voxels) {
      T inverse[D];
      mine = solve_voxel(field, n, position, squared_tolerance, limit, inverse);
      for (int axis = 0; axis < D; ++axis) {
        out[(n * D + axis) * field.voxels + voxel] = store<typename I::Field>(inverse[axis]);
      }
    }
    const Outcome<T> worst = merge_block<kInvertThreads>(mine, worse<T>);
    if (threadIdx.x == 0) {
      squared_residual[n * gridDim.x + blockIdx.x] = worst.squared;
      iterations[n * gridDim.x + blockIdx.x] = worst.iterations;
    }
  }
}

template <typename I>
using View = ChannelFirst<I::D, typename I::Field, typename I::Index>;

template <typename I>
__global__ void __launch_bounds__(kInvertThreads, 4)
    adjoint_kernel(const __grid_constant__ Field<I> field, const __grid_constant__ View<I> inverse,
                   const __grid_constant__ View<I> grad, typename I::T* __restrict__ adjoint) {
  constexpr int D = I::D;
  using T = typename I::T;
  typename I::Index position[D];
  const auto voxel = field.find(position);
  if (voxel >= field.voxels) {
    return;
  }
  const auto inverse_offset = inverse.offset(position);
  const auto grad_offset = grad.offset(position);
  for (std::int64_t n = blockIdx.y; n < field.samples; n += gridDim.y) {
    T location[D];
    T right[D];
    for (int axis = 0; axis < D; ++axis) {
      location[axis] =
          static_cast<T>(position[axis]) + load(inverse.channel(n, axis)[inverse_offset]);
      right[axis] = -load(grad.channel(n, axis)[grad_offset]);
    }
    T value[D];
    T gradient[D][D];
    field.sample(n, location, value, gradient);
    T solution[D];
    solve_moved<D, true>(gradient, right, solution);
    for (int axis = 0; axis < D; ++axis) {
      adjoint[(n * D + axis) * field.voxels + voxel] = solution[axis];
    }
  }
}

// Launches kernel(field, arguments...) with a thread for every voxel of the displacement.
template <typename I, typename... Parameters, typename... Arguments>
void launch_voxels(const char* name, void (*kernel)(Field<I>, Parameters...),
                   const Tensor& displacement, Padding padding, std::uintptr_t stream,
                   const Arguments&... arguments) {
  const std::int64_t blocks = divide_up(voxel_count(displacement), kInvertThreads);
  launch(name, kernel, dim3(static_cast<unsigned>(blocks), grid_extent(displacement.shape[0])),
         kInvertThreads, stream, Field<I>(displacement, padding), arguments...);
}

}  // namespace

void invert_forward(const Invert& call, int device, std::uintptr_t stream) {
  if (element_count(call.out) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  dispatch_field(call.displacement, field_reach(call.displacement),
                 by_padding(call.padding, [&](auto instance) {
                   using I = decltype(instance);
                   using T = typename I::T;
                   const T tolerance = static_cast<T>(call.tolerance);
                   launch_voxels<I>("invert_forward", invert_kernel<I>, call.displacement,
                                    call.padding, stream, tolerance * tolerance, call.limit,
                                    call.out.as<typename I::Field>(), call.squared_residual.as<T>(),
                                    call.iterations.as<std::int64_t>());
                 }));
}

void invert_adjoint(const Tensor& grad, const Tensor& displacement, const Tensor& inverse,
                    const Tensor& adjoint, Padding padding, int device, std::uintptr_t stream) {
  if (element_count(adjoint) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  const std::int64_t reach =
      std::max({field_reach(displacement), channel_reach(inverse), channel_reach(grad)});
  dispatch_field(displacement, reach, by_padding(padding, [&](auto instance) {
                   using I = decltype(instance);
                   launch_voxels<I>("invert_adjoint", adjoint_kernel<I>, displacement, padding,
                                    stream, View<I>(inverse), View<I>(grad),
                                    adjoint.as<typename I::T>());
                 }));
}

}  // namespace plasticine::cuda
