// What an exponential on the GPU computes from the velocity alone: the first step where it is no
// composition, the slopes that its adjoint needs again, and the greatest speed.
//
// Compiled are the instances of dispatch_layout for float32 and float64, of which alone
// exponentials are computed.
#include "compose/compose_cuda_field.cuh"
#include "exponential/exponential_cuda.h"
#include "exponential/exponential_start_cuda.h"

namespace plasticine::cuda {
namespace {

template <int D, typename T, typename Index>
struct StartArguments {
  const T* velocity;
  FieldShape<D, Index> shape;
  Boxes<D, Index> boxes;
  std::int64_t voxels;
  std::int64_t samples;
  Method method;
  Padding padding;  // where the kernel does not know it
  T scale[2];
  T* out[2] = {};  // null: the slopes are wanted
  T* second = nullptr;
  T* third = nullptr;

  explicit StartArguments(const Flow& flow)
      : velocity(flow.velocity.as<const T>()),
        shape(flow.velocity),
        boxes(flow.velocity, 1),
        voxels(voxel_count(flow.velocity)),
        samples(flow.velocity.shape[0]),
        method(flow.method),
        padding(flow.padding),
        scale{static_cast<T>(flow.scale), static_cast<T>(-flow.scale)} {}
};

template <int D, typename T>
__device__ __forceinline__ void store_sample(T* channel, std::int64_t voxels,
                                             const T (&values)[D]) {
#pragma unroll
  for (int axis = 0; axis < D; ++axis) {
    channel[axis * voxels] = values[axis];
  }
}

template <Padding padding, int D, typename T, typename Index>
__global__ void __launch_bounds__(kThreads, (resident_blocks<T, Index>(3)))
    start_kernel(const __grid_constant__ StartArguments<D, T, Index> arguments) {
  const FieldShape<D, Index>& shape = arguments.shape;
  const T scale = arguments.scale[blockIdx.z];
  T* out = arguments.out[blockIdx.z];
  Index position[D];
  arguments.boxes.find(static_cast<Index>(blockIdx.x), position);
  if (arguments.boxes.turns_from(position) == 0) {
    return;
  }
  using Location = FieldCell<padding, D, T, Index>;
  const std::int64_t voxels = arguments.voxels;
  for (std::int64_t n = blockIdx.y; n < arguments.samples; n += gridDim.y) {
    const std::int64_t own = n * D * voxels + arguments.boxes.offset(position);
    T first[D];
    read_sample(arguments.velocity, shape, n, position, first);
    if (arguments.method == Method::euler) {
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        first[axis] *= scale;
      }
      store_sample(out + own, voxels, first);
      continue;
    }
    const Components<D, T> velocity(arguments.velocity + n * shape.sample_stride,
                                    shape.channel_stride);
    T second[D];
    T third[D];
    const Padding padded = arguments.padding;
    Location(position, scale / T(2), first, shape, padded).sample(velocity, shape, second);
    Location(position, scale / T(2), second, shape, padded).sample(velocity, shape, third);
    if (out == nullptr) {
      store_sample(arguments.second + own, voxels, second);
      store_sample(arguments.third + own, voxels, third);
      continue;
    }
    T fourth[D];
    Location(position, scale, third, shape, padded).sample(velocity, shape, fourth);
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      fourth[axis] =
          scale / T(6) * (first[axis] + T(2) * (second[axis] + third[axis]) + fourth[axis]);
    }
    store_sample(out + own, voxels, fourth);
  }
}

// Bits of doubles that are not negative compare as the doubles do.
template <int D, typename T, typename Index>
__global__ void __launch_bounds__(kThreads)
    peak_kernel(const __grid_constant__ StartArguments<D, T, Index> arguments,
                unsigned long long* peak) {
  Index position[D];
  arguments.boxes.find(static_cast<Index>(blockIdx.x), position);
  if (arguments.boxes.turns_from(position) == 0) {
    return;
  }
  for (std::int64_t n = blockIdx.y; n < arguments.samples; n += gridDim.y) {
    T velocity[D];
    read_sample(arguments.velocity, arguments.shape, n, position, velocity);
    double square = 0.0;
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      square += static_cast<double>(velocity[axis]) * static_cast<double>(velocity[axis]);
    }
    unsigned long long bits;
    memcpy(&bits, &square, sizeof bits);
    // What is read may be out of date, but then it is lower: few threads get to the atomic.
    if (isfinite(square) && bits > *const_cast<const volatile unsigned long long*>(peak)) {
      atomicMax(peak, bits);
    }
  }
}

template <typename Launch>
void with_arguments(const Flow& flow, const Launch& launch_with) {
  const std::int64_t largest = largest_offset(flow.velocity, {flow.velocity});
  const auto with_instance = [&](auto instance) {
    using Chosen = decltype(instance);
    launch_with(instance,
                StartArguments<Chosen::D, typename Chosen::Field, typename Chosen::Index>(flow));
  };
  dispatch_dimension(flow.velocity.shape[1], [&](auto dimension) {
    constexpr int D = decltype(dimension)::value;
    if (flow.velocity.dtype == DType::float64) {
      dispatch_layout<D, double, double>(flow.padding, largest, with_instance);
    } else {
      dispatch_layout<D, float, float>(flow.padding, largest, with_instance);
    }
  });
}

}  // namespace

void start_forward(const Flow& flow, const Tensor& out, const Tensor& inverse,
                   std::uintptr_t stream) {
  with_arguments(flow, [&](auto instance, auto arguments) {
    using Chosen = decltype(instance);
    using T = typename Chosen::Field;
    arguments.out[0] = out.as<T>();
    arguments.out[1] = inverse.as<T>();
    launch("exponential_start", start_kernel<Chosen::padding, Chosen::D, T, typename Chosen::Index>,
           box_grid(arguments.boxes, arguments.samples, inverse.data == nullptr ? 1 : 2), kThreads,
           stream, arguments);
  });
}

void store_slopes(const Flow& flow, const Tensor& second, const Tensor& third,
                  std::uintptr_t stream) {
  with_arguments(flow, [&](auto instance, auto arguments) {
    using Chosen = decltype(instance);
    using T = typename Chosen::Field;
    arguments.second = second.as<T>();
    arguments.third = third.as<T>();
    launch("exponential_slopes",
           start_kernel<Chosen::padding, Chosen::D, T, typename Chosen::Index>,
           box_grid(arguments.boxes, arguments.samples, 1), kThreads, stream, arguments);
  });
}

void exponential_peak(const Tensor& velocity, const Tensor& peak, int device,
                      std::uintptr_t stream) {
  Flow flow;
  flow.velocity = velocity;
  if (is_empty(flow)) {
    return;
  }
  const DeviceGuard guard(device);
  with_arguments(flow, [&](auto instance, auto arguments) {
    using Chosen = decltype(instance);
    launch("exponential_peak",
           peak_kernel<Chosen::D, typename Chosen::Field, typename Chosen::Index>,
           box_grid(arguments.boxes, arguments.samples, 1), kThreads, stream, arguments,
           peak.as<unsigned long long>());
  });
}

}  // namespace plasticine::cuda
