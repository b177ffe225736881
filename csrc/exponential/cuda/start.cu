// What an exponential on the GPU computes from the velocity alone: the first step where it is no
// composition, the intermediate velocities that its adjoint needs again, and the greatest speed.
// Exponentials are computed in float32 and float64 alone.
#include "compose/cuda/composition.cuh"
#include "exponential/cuda/exponential.h"

namespace plasticine::cuda {
namespace {

template <int D, typename T>
__device__ __forceinline__ void store_sample(T* channel, std::int64_t voxels,
                                             const T (&values)[D]) {
  for (int axis = 0; axis < D; ++axis) {
    channel[axis * voxels] = values[axis];
  }
}

// flow: of the velocity, over scale; without `out` the intermediate velocities are.
template <typename I>
__global__ void __launch_bounds__(kThreads, (resident_blocks<typename I::T, typename I::Index>(3)))
    start_kernel(const __grid_constant__ CompositionArguments<I> flow, Method method,
                 typename I::T* second_slope, typename I::T* third_slope) {
  constexpr int D = I::D;
  using T = typename I::T;
  using Index = typename I::Index;
  const T scale = flow.scale[blockIdx.z];
  T* out = flow.out[blockIdx.z];
  Index position[D];
  flow.boxes.find(static_cast<Index>(blockIdx.x), position);
  if (flow.boxes.turns_from(position) == 0) {
    return;
  }
  const std::int64_t voxels = flow.voxels;
  for (std::int64_t n = blockIdx.y; n < flow.samples; n += gridDim.y) {
    const std::int64_t own = n * D * voxels + flow.boxes.offset(position);
    T first[D];
    flow.read_displacement(0, n, position, first);
    if (method == Method::euler) {
      for (int axis = 0; axis < D; ++axis) {
        first[axis] *= scale;
      }
      store_sample(out + own, voxels, first);
      continue;
    }
    const auto velocity = flow.components(0, n);
    T second[D];
    T third[D];
    flow.cell(position, scale / T(2), first).sample(velocity, flow.field_layout, second);
    flow.cell(position, scale / T(2), second).sample(velocity, flow.field_layout, third);
    if (out == nullptr) {
      store_sample(second_slope + own, voxels, second);
      store_sample(third_slope + own, voxels, third);
      continue;
    }
    T fourth[D];
    flow.cell(position, scale, third).sample(velocity, flow.field_layout, fourth);
    for (int axis = 0; axis < D; ++axis) {
      fourth[axis] =
          scale / T(6) * (first[axis] + T(2) * (second[axis] + third[axis]) + fourth[axis]);
    }
    store_sample(out + own, voxels, fourth);
  }
}

// Bits of doubles that are not negative compare as the doubles do.
template <typename I>
__global__ void __launch_bounds__(kThreads)
    peak_kernel(const __grid_constant__ CompositionArguments<I> flow, unsigned long long* peak) {
  constexpr int D = I::D;
  using Index = typename I::Index;
  Index position[D];
  flow.boxes.find(static_cast<Index>(blockIdx.x), position);
  if (flow.boxes.turns_from(position) == 0) {
    return;
  }
  for (std::int64_t n = blockIdx.y; n < flow.samples; n += gridDim.y) {
    typename I::T velocity[D];
    flow.read_displacement(0, n, position, velocity);
    double square = 0.0;
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

void launch_start(const char* name, const Flow& flow, const std::vector<Tensor>& out,
                  const Tensor& second, const Tensor& third, std::uintptr_t stream) {
  const Tensor& velocity = flow.velocity;
  std::vector<Composition> steps;
  for (const Tensor& field : out) {
    const double scale = steps.empty() ? flow.scale : -flow.scale;
    steps.push_back({velocity, velocity, scale, scale, false, field});
  }
  dispatch_field<false>(
      velocity, largest_offset(velocity, {}), by_padding(flow.padding, [&](auto instance) {
        using I = decltype(instance);
        using T = typename I::T;
        const CompositionArguments<I> arguments(steps, flow.padding, 1);
        launch(name, start_kernel<I>, arguments.boxes.grid(arguments.samples, steps.size()),
               kThreads, stream, arguments, flow.method, second.as<T>(), third.as<T>());
      }));
}

}  // namespace

void take_step(const Flow& flow, const std::vector<Tensor>& out, std::uintptr_t stream) {
  launch_start("exponential_start", flow, out, {}, {}, stream);
}

void store_slopes(const Flow& flow, const Tensor& second, const Tensor& third,
                  std::uintptr_t stream) {
  launch_start("exponential_slopes", flow, {Tensor()}, second, third, stream);
}

void exponential_peak(const Tensor& velocity, const Tensor& peak, int device,
                      std::uintptr_t stream) {
  if (element_count(velocity) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  dispatch_field<false>(velocity, largest_offset(velocity, {}), [&](auto instance) {
    using I = decltype(instance);
    const CompositionArguments<I> arguments({{velocity, velocity}}, Padding::any, 1);
    launch("exponential_peak", peak_kernel<I>, arguments.boxes.grid(arguments.samples), kThreads,
           stream, arguments, peak.as<unsigned long long>());
  });
}

}  // namespace plasticine::cuda
