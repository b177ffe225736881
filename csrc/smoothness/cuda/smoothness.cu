// The smoothness energies on the GPU, forward and backward: bound by memory. A thread goes along
// axis 0 of one component and keeps what it has read of the planes around it in registers; of its
// neighbours in a plane it finds the others in the cache. Sums are taken in a fixed order.
#include "core/cuda/memory.cuh"
#include "core/cuda/sums.cuh"
#include "jacobian/cuda/stencil.cuh"
#include "smoothness/math/smoothness.h"
#include "smoothness/smoothness.h"

namespace plasticine::cuda {
namespace {

constexpr int kPlanes = 16;

// A field, and what the terms are multiplied by.
template <int D, typename Index>
struct Weighted : Layout<D, Index> {
  std::int64_t samples;
  std::int64_t voxels;
  double weight[kSmoothnessTerms];

  Weighted(const Tensor& field, int order, Scheme scheme, const std::vector<double>& spacing)
      : Layout<D, Index>(field), samples(field.shape[0]), voxels(voxel_count(field)) {
    std::int64_t size[3] = {1, 1, 1};
    double unit[3] = {1, 1, 1};
    for (int axis = 0; axis < D; ++axis) {
      size[3 - D + axis] = field.shape[2 + axis];
      unit[3 - D + axis] = spacing[axis];
    }
    const SmoothnessWeights weights(size, unit, order, scheme);
    for (int term = 0; term < kSmoothnessTerms; ++term) {
      weight[term] = weights.of[term];
    }
  }
};

// The term along two axes of the grid, or one.
template <int D>
constexpr int pure_term(int axis) {
  return axis + 3 - D;
}
template <int D>
constexpr int mixed_term(int first, int second) {
  return D == 2 ? 5 : first + second + 2;
}

// The addresses of the voxels around one, as far as they exist: steps along an axis are in
// elements.
template <int D, typename Stored, typename Index>
struct Around {
  using T = accumulator_t<Stored>;

  const Stored* at;
  const Index (&position)[D];
  const Layout<D, Index>& layout;

  __device__ __forceinline__ bool has(int axis, int step) const {
    const Index index = position[axis] + step;
    return index >= 0 && index < layout.size[axis];
  }

  __device__ __forceinline__ T value(int axis, int step) const {
    return read(at + step * layout.stride[axis]);
  }

  __device__ __forceinline__ T value(int first, int first_step, int second, int second_step) const {
    return read(at + first_step * layout.stride[first] + second_step * layout.stride[second]);
  }
};

// The weighted squares of the differences at a voxel. before, here, after: along axis 0.
template <int order, bool central, int D, typename Stored, typename Index>
__device__ __forceinline__ accumulator_t<Stored> energy_at(
    const Around<D, Stored, Index>& around, const accumulator_t<Stored> (&weight)[kSmoothnessTerms],
    accumulator_t<Stored> before, accumulator_t<Stored> here, accumulator_t<Stored> after) {
  using T = accumulator_t<Stored>;
  constexpr Scheme scheme = central ? Scheme::central : Scheme::forward;
  constexpr int low = central ? -1 : 0;
  constexpr T half = central ? T(0.5) : T(1);
  bool counted[D];
  bool inner[D];
  bool first[D];  // whether there is a first difference
#pragma unroll
  for (int axis = 0; axis < D; ++axis) {
    const Index size = around.layout.size[axis];
    inner[axis] = is_inner(around.position[axis], size);
    counted[axis] = is_counted(scheme, around.position[axis], size);
    first[axis] = central ? inner[axis] : around.position[axis] < size - 1;
  }
  T energy = T(0);
#pragma unroll
  for (int axis = 0; axis < D; ++axis) {
    bool exists = order == 1 ? first[axis] : inner[axis];
#pragma unroll
    for (int other = 0; other < D; ++other) {
      exists = exists && (other == axis || counted[other]);
    }
    if (exists) {
      const T upper = axis == 0 ? after : around.value(axis, 1);
      T lower = here;
      if (central || order == 2) {
        lower = axis == 0 ? before : around.value(axis, -1);
      }
      const T difference = order == 1 ? half * (upper - lower) : (upper - here) - (here - lower);
      energy += weight[pure_term<D>(axis)] * difference * difference;
    }
  }
  if constexpr (order == 2) {
#pragma unroll
    for (int j = 0; j < D - 1; ++j) {
#pragma unroll
      for (int k = j + 1; k < D; ++k) {
        const int third = 3 - j - k;
        if (first[j] && first[k] && (D == 2 || counted[D == 2 ? 0 : third])) {
          const T upper = around.value(j, 1, k, 1) - around.value(j, 1, k, low);
          const T lower = around.value(j, low, k, 1) - around.value(j, low, k, low);
          const T difference = half * half * (upper - lower);
          energy += weight[mixed_term<D>(j, k)] * difference * difference;
        }
      }
    }
  }
  return energy;
}

template <int order, bool central, typename I>
__global__ void __launch_bounds__(kThreads, resident_blocks<typename I::T, typename I::Index>(3))
    smoothness_forward_kernel(const typename I::Field* __restrict__ field,
                              const __grid_constant__ Weighted<I::D, typename I::Index> layout,
                              const __grid_constant__ Columns<I::D, typename I::Index> columns,
                              double* __restrict__ partial) {
  constexpr int D = I::D;
  using T = typename I::T;
  using Stored = typename I::Field;
  using Index = typename I::Index;
  T weight[kSmoothnessTerms];
  for (int term = 0; term < kSmoothnessTerms; ++term) {
    weight[term] = static_cast<T>(layout.weight[term]);
  }
  for (std::int64_t n = blockIdx.y; n < layout.samples; n += gridDim.y) {
    double sum = 0.0;
    const Index step = static_cast<Index>(gridDim.x) * kThreads;
    for (Index item = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
         item < columns.items; item += step) {
      const auto [first, end, row, x] = columns.find(item, layout);
      Index position[D];
      position[D - 1] = x;
      if constexpr (D == 3) {
        position[1] = row;
      }
#pragma unroll 1
      for (int i = 0; i < D; ++i) {
        position[0] = first;
        const Stored* at =
            field + n * layout.sample_stride + i * layout.channel_stride + layout.offset(position);
        T here = read(at);
        T before = first > 0 ? read(at - layout.stride[0]) : T(0);
        T energy = T(0);
#pragma unroll 1
        for (; position[0] < end; ++position[0], at += layout.stride[0]) {
          const Around<D, Stored, Index> around = {at, position, layout};
          const T after = around.has(0, 1) ? around.value(0, 1) : T(0);
          energy += energy_at<order, central>(around, weight, before, here, after);
          before = here;
          here = after;
        }
        sum += static_cast<double>(energy);
      }
    }
    const double total = merge_block<kThreads>(sum, [](double a, double b) { return a + b; });
    if (threadIdx.x == 0) {
      partial[n * gridDim.x + blockIdx.x] = total;
    }
  }
}

template <int order, bool central, typename I>
__global__ void __launch_bounds__(kThreads, resident_blocks<typename I::T, typename I::Index>(2))
    smoothness_backward_kernel(const typename I::T* __restrict__ grad, std::int64_t grad_stride,
                               const typename I::Field* __restrict__ field,
                               const __grid_constant__ Weighted<I::D, typename I::Index> layout,
                               const __grid_constant__ Columns<I::D, typename I::Index> columns,
                               typename I::Field* __restrict__ out) {
  constexpr int D = I::D;
  using T = typename I::T;
  using Stored = typename I::Field;
  using Index = typename I::Index;
  constexpr Scheme scheme = central ? Scheme::central : Scheme::forward;
  constexpr int reach = central ? 2 : 1;
  constexpr T square = central ? T(0.25) : T(1);
  const Index item = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
  if (item >= columns.items) {
    return;
  }
  const auto [first, end, row, x] = columns.find(item, layout);
  const Index row_size = layout.size[D - 1];
  const Index plane_size = row_size * (D == 3 ? layout.size[1] : 1);
  Index position[D];
  position[D - 1] = x;
  if constexpr (D == 3) {
    position[1] = row;
  }
  for (std::int64_t c = blockIdx.y; c < layout.samples * D; c += gridDim.y) {
    const double factor = 2 * static_cast<double>(grad[c / D * grad_stride]);
    T weight[kSmoothnessTerms];
    for (int term = 0; term < kSmoothnessTerms; ++term) {
      weight[term] = static_cast<T>(factor * layout.weight[term]);
    }
    position[0] = first;
    const Stored* at = field + c / D * layout.sample_stride + c % D * layout.channel_stride +
                       layout.offset(position);
    Stored* target = out + c * layout.voxels + static_cast<std::int64_t>(first) * plane_size +
                     row * row_size + x;
    // Those along axis 0 from two before to two after.
    T column[5] = {};
#pragma unroll
    for (int k = -2; k <= 1; ++k) {
      const Around<D, Stored, Index> around = {at, position, layout};
      column[k + 3] = around.has(0, k) ? around.value(0, k) : T(0);
    }
#pragma unroll 1
    for (; position[0] < end; ++position[0], at += layout.stride[0], target += plane_size) {
      const Around<D, Stored, Index> around = {at, position, layout};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        column[k] = column[k + 1];
      }
      column[4] = around.has(0, 2) ? around.value(0, 2) : T(0);
      const T here = column[2];
      bool counted[D];
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        counted[axis] = is_counted(scheme, position[axis], layout.size[axis]);
      }
      T sum = T(0);
      T sides[D][2];  // the differences to the voxels `reach` before and after
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        T adjoint = T(0);
#pragma unroll
        for (int k = -2; k <= 2; ++k) {
          const bool is_side = k == -reach || k == reach;
          if (k == 0 || (order == 1 && !is_side)) {
            continue;
          }
          T difference = T(0);
          const bool exists = around.has(axis, k);
          if (exists) {
            difference = (axis == 0 ? column[2 + k] : around.value(axis, k)) - here;
          }
          if (is_side) {
            sides[axis][k > 0] = difference;
          }
          if (order == 1) {
            adjoint -= square * difference;
          } else {
            const int coefficient = second_coefficient<Index>(position[axis], k, layout.size[axis]);
            adjoint += coefficient != 0 ? static_cast<T>(coefficient) * difference : T(0);
          }
        }
        bool taken = true;
#pragma unroll
        for (int other = 0; other < D; ++other) {
          taken = taken && (other == axis || counted[other]);
        }
        sum += taken ? weight[pure_term<D>(axis)] * adjoint : T(0);
      }
      if constexpr (order == 2) {
#pragma unroll
        for (int j = 0; j < D - 1; ++j) {
#pragma unroll
          for (int k = j + 1; k < D; ++k) {
            T corners = T(0);
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              const int a = corner & 1;
              const int b = corner >> 1;
              const int along = a == 1 ? reach : -reach;
              const int beside = b == 1 ? reach : -reach;
              if (around.has(j, along) && around.has(k, beside)) {
                corners += (around.value(j, along, k, beside) - here) - sides[j][a] - sides[k][b];
              }
            }
            const bool taken = D == 2 || counted[D == 2 ? 0 : 3 - j - k];
            sum += taken ? weight[mixed_term<D>(j, k)] * square * square * corners : T(0);
          }
        }
      }
      write_once(target, sum);
    }
  }
}

// Calls work(order, central) with the two as constants.
template <typename Work>
void with_differences(int order, Scheme scheme, const Work& work) {
  const auto by_scheme = [&](auto chosen) {
    scheme == Scheme::central ? work(chosen, std::true_type{}) : work(chosen, std::false_type{});
  };
  order == 1 ? by_scheme(std::integral_constant<int, 1>{})
             : by_scheme(std::integral_constant<int, 2>{});
}

// What an offset within a component can come to, with what lies two voxels beyond it.
std::int64_t reach_of(const Tensor& field) {
  std::int64_t beyond = 0;
  for (int axis = 2; axis < field.ndim; ++axis) {
    beyond += 4 * std::abs(field.strides[axis]);
  }
  return field_reach(field) + beyond;
}

}  // namespace

void smoothness_forward(const Tensor& field, const Tensor& partial, const Tensor& out, int order,
                        Scheme scheme, const std::vector<double>& spacing, int device,
                        std::uintptr_t stream) {
  if (element_count(out) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  if (voxel_count(field) == 0) {
    return zero_fill(out, stream);
  }
  dispatch_field(field, reach_of(field), [&](auto instance) {
    using I = decltype(instance);
    const Weighted<I::D, typename I::Index> layout(field, order, scheme, spacing);
    const Columns<I::D, typename I::Index> columns(field, 1, kPlanes);
    const dim3 grid(static_cast<unsigned>(partial.shape[1]), grid_extent(layout.samples));
    with_differences(order, scheme, [&](auto chosen, auto central) {
      launch("smoothness_forward",
             smoothness_forward_kernel<decltype(chosen)::value, decltype(central)::value, I>, grid,
             kThreads, stream, field.as<const typename I::Field>(), layout, columns,
             partial.as<double>());
    });
  });
  finish_sums(partial, 1.0, out, stream);
}

void smoothness_backward(const Tensor& grad, const Tensor& field, const Tensor& grad_field,
                         int order, Scheme scheme, const std::vector<double>& spacing, int device,
                         std::uintptr_t stream) {
  if (element_count(grad_field) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  dispatch_field(field, reach_of(field), [&](auto instance) {
    using I = decltype(instance);
    const Weighted<I::D, typename I::Index> layout(field, order, scheme, spacing);
    const Columns<I::D, typename I::Index> columns(field, 1, kPlanes);
    const dim3 grid(static_cast<unsigned>(divide_up(columns.items, kThreads)),
                    grid_extent(layout.samples * I::D));
    with_differences(order, scheme, [&](auto chosen, auto central) {
      launch("smoothness_backward",
             smoothness_backward_kernel<decltype(chosen)::value, decltype(central)::value, I>, grid,
             kThreads, stream, grad.as<const typename I::T>(), grad.strides[0],
             field.as<const typename I::Field>(), layout, columns,
             grad_field.as<typename I::Field>());
    });
  });
}

}  // namespace plasticine::cuda
