// The inversion of a displacement on the GPU, and the pointwise part of its adjoint.
//
// Compiled are the instances of dispatch_instance.
#include "invert/invert_cuda.h"
#include "invert/math/invert.h"
#include "jacobian/field_cuda.cuh"
#include "warp/warp_cuda_location.cuh"

namespace plasticine::cuda {
namespace {

template <int D, typename Stored, typename Index>
struct Fields {
  ChannelFirst<D, Stored, Index> displacement;
  Divisor<Index> row_length, plane_height;
  Index size[D] = {};
  Index voxels = 1;
  Padding padding;  // where the kernel does not know it
  std::int64_t samples = 0;

  Fields(const Tensor& tensor, Padding padding_of_call)
      : displacement(tensor),
        row_length(tensor.shape[1 + D]),
        plane_height(tensor.shape[D]),
        padding(padding_of_call),
        samples(tensor.shape[0]) {
    for (int axis = 0; axis < D; ++axis) {
      size[axis] = static_cast<Index>(tensor.shape[2 + axis]);
      voxels *= size[axis];
    }
  }

  __device__ __forceinline__ void position_of(Index voxel, Index (&position)[D]) const {
    Index row = row_length.divide(voxel);
    position[D - 1] = voxel - row * size[D - 1];
    if constexpr (D == 3) {
      const Index plane = plane_height.divide(row);
      position[1] = row - plane * size[1];
      row = plane;
    }
    position[0] = row;
  }

  // u at a location, and its gradient: gradient[i][a] of component i along axis a.
  template <Padding known, typename T>
  __device__ __forceinline__ void sample(std::int64_t n, const T (&location)[D], T (&value)[D],
                                         T (&gradient)[D][D]) const {
    Cell<D, T, Index> cell;
    cell.template find<known>(location, size, padding);
#pragma unroll
    for (int i = 0; i < D; ++i) {
      const Stored* source = displacement.channel(n, i);
      T corner[corner_count<D>];
#pragma unroll
      for (int k = 0; k < corner_count<D>; ++k) {
        corner[k] = cell.inside(k) ? load(source[cell.offset(k, displacement.stride)]) : T(0);
      }
      value[i] = interpolate<D, T>(cell.lower, cell.upper, corner);
      T slope[D] = {};
      add_interpolation_gradient<D, T>(cell.lower, cell.upper, corner, T(1), slope);
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        gradient[i][axis] = slope[axis] * cell.derivative[axis];
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

template <Padding padding, int D, typename Stored, typename Index, typename T>
__device__ __forceinline__ Outcome<T> solve_voxel(const Fields<D, Stored, Index>& fields,
                                                  std::int64_t n, Index voxel, T squared_tolerance,
                                                  int limit, T (&inverse)[D]) {
  Index position[D];
  fields.position_of(voxel, position);
  const Index offset = fields.displacement.offset(position);
#pragma unroll
  for (int axis = 0; axis < D; ++axis) {
    const T value = load(fields.displacement.channel(n, axis)[offset]);
    inverse[axis] = isfinite(value) ? -value : T(0);
  }
  T relaxation = T(1);
  T before = std::numeric_limits<T>::infinity();
  for (int iteration = 0;; ++iteration) {
    T location[D];
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      location[axis] = static_cast<T>(position[axis]) + inverse[axis];
    }
    T residual[D];
    T gradient[D][D];
    fields.template sample<padding>(n, location, residual, gradient);
    T squared = T(0);
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      residual[axis] += inverse[axis];
      squared += residual[axis] * residual[axis];
    }
    if (!isfinite(squared)) {
      const T nan = std::numeric_limits<T>::quiet_NaN();
#pragma unroll
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
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      inverse[axis] += relaxation * step[axis];
    }
  }
}

template <Padding padding, int D, typename Stored, typename Index>
__global__ void __launch_bounds__(kInvertThreads, 4)
    invert_kernel(const __grid_constant__ Fields<D, Stored, Index> fields,
                  accumulator_t<Stored> squared_tolerance, int limit, Stored* __restrict__ out,
                  accumulator_t<Stored>* __restrict__ squared_residual,
                  std::int64_t* __restrict__ iterations) {
  using T = accumulator_t<Stored>;
  __shared__ Outcome<T> outcomes[kInvertThreads];
  const Index voxel =
      static_cast<Index>(blockIdx.x) * kInvertThreads + static_cast<Index>(threadIdx.x);
  for (std::int64_t n = blockIdx.y; n < fields.samples; n += gridDim.y) {
    Outcome<T> mine = {T(0), 0};
    if (voxel < fields.voxels) {
      T inverse[D];
      mine = solve_voxel<padding>(fields, n, voxel, squared_tolerance, limit, inverse);
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        out[(n * D + axis) * fields.voxels + voxel] = store<Stored>(inverse[axis]);
      }
    }
    __syncthreads();  // the outcomes of the sample before have been read
    outcomes[threadIdx.x] = mine;
    for (int half = kInvertThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < half) {
        outcomes[threadIdx.x] = worse(outcomes[threadIdx.x], outcomes[threadIdx.x + half]);
      }
    }
    if (threadIdx.x == 0) {
      squared_residual[n * gridDim.x + blockIdx.x] = outcomes[0].squared;
      iterations[n * gridDim.x + blockIdx.x] = outcomes[0].iterations;
    }
  }
}

template <Padding padding, int D, typename Stored, typename Index>
__global__ void __launch_bounds__(kInvertThreads, 4)
    adjoint_kernel(const __grid_constant__ Fields<D, Stored, Index> fields,
                   const __grid_constant__ ChannelFirst<D, Stored, Index> inverse,
                   const __grid_constant__ ChannelFirst<D, Stored, Index> grad,
                   accumulator_t<Stored>* __restrict__ adjoint) {
  using T = accumulator_t<Stored>;
  const Index voxel =
      static_cast<Index>(blockIdx.x) * kInvertThreads + static_cast<Index>(threadIdx.x);
  if (voxel >= fields.voxels) {
    return;
  }
  Index position[D];
  fields.position_of(voxel, position);
  const Index inverse_offset = inverse.offset(position);
  const Index grad_offset = grad.offset(position);
  for (std::int64_t n = blockIdx.y; n < fields.samples; n += gridDim.y) {
    T location[D];
    T right[D];
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      location[axis] =
          static_cast<T>(position[axis]) + load(inverse.channel(n, axis)[inverse_offset]);
      right[axis] = -load(grad.channel(n, axis)[grad_offset]);
    }
    T value[D];
    T gradient[D][D];
    fields.template sample<padding>(n, location, value, gradient);
    T solution[D];
    solve_moved<D, true>(gradient, right, solution);
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      adjoint[(n * D + axis) * fields.voxels + voxel] = solution[axis];
    }
  }
}

dim3 grid_of(const Tensor& displacement) {
  const std::int64_t voxels = voxel_count(displacement);
  return dim3(static_cast<unsigned>(divide_up(voxels, kInvertThreads)),
              grid_extent(displacement.shape[0]));
}

}  // namespace

void invert_forward(const Invert& call, int device, std::uintptr_t stream) {
  if (element_count(call.out) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  dispatch_instance(call.displacement, call.padding, field_reach(call.displacement),
                    [&](auto instance) {
                      using Chosen = decltype(instance);
                      constexpr int D = Chosen::D;
                      using Stored = typename Chosen::Field;
                      using Index = typename Chosen::Index;
                      using T = accumulator_t<Stored>;
                      const Fields<D, Stored, Index> fields(call.displacement, call.padding);
                      const T tolerance = static_cast<T>(call.tolerance);
                      launch("invert_forward", invert_kernel<Chosen::padding, D, Stored, Index>,
                             grid_of(call.displacement), kInvertThreads, stream, fields,
                             tolerance * tolerance, call.limit, call.out.as<Stored>(),
                             call.squared_residual.as<T>(), call.iterations.as<std::int64_t>());
                    });
}

void invert_adjoint(const Tensor& grad, const Tensor& displacement, const Tensor& inverse,
                    const Tensor& adjoint, Padding padding, int device, std::uintptr_t stream) {
  if (element_count(adjoint) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  const std::int64_t reach =
      std::max({field_reach(displacement), channel_reach(inverse), channel_reach(grad)});
  dispatch_instance(displacement, padding, reach, [&](auto instance) {
    using Chosen = decltype(instance);
    constexpr int D = Chosen::D;
    using Stored = typename Chosen::Field;
    using Index = typename Chosen::Index;
    const Fields<D, Stored, Index> fields(displacement, padding);
    const ChannelFirst<D, Stored, Index> at(inverse);
    const ChannelFirst<D, Stored, Index> upstream(grad);
    launch("invert_adjoint", adjoint_kernel<Chosen::padding, D, Stored, Index>,
           grid_of(displacement), kInvertThreads, stream, fields, at, upstream,
           adjoint.as<accumulator_t<Stored>>());
  });
}

}  // namespace plasticine::cuda
