// The Jacobian's penalty on the GPU: no determinant is written anywhere. Forward each block adds up
// its share of a sample, in a fixed order; backward every voxel gathers from its neighbours, whose
// determinants it works out.
#include "core/cuda/memory.cuh"
#include "core/cuda/sums.cuh"
#include "jacobian/cuda/determinants.cuh"
#include "jacobian/cuda/gather.cuh"
#include "jacobian_penalty/jacobian_penalty.h"
#include "jacobian_penalty/math/jacobian_penalty.h"

namespace plasticine::cuda {
namespace {

// A thread goes along axis 0 and keeps the planes around it in registers.
constexpr int kPlanes = 16;

template <bool log, typename I>
__global__ void __launch_bounds__(kThreads, 2) jacobian_penalty_forward_kernel(
    const typename I::Field* __restrict__ field,
    const __grid_constant__ FieldLayout<I::D, typename I::T, typename I::Index> layout,
    const __grid_constant__ Columns<I::D, typename I::Index> columns,
    const __grid_constant__ JacobianPenalty<typename I::T> penalty, Scheme scheme,
    double* __restrict__ partial) {
  using T = typename I::T;
  using Index = typename I::Index;
  for (std::int64_t n = blockIdx.y; n < layout.samples; n += gridDim.y) {
    double sum = 0.0;
    const Index step = static_cast<Index>(gridDim.x) * kThreads;
    for (Index item = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
         item < columns.items; item += step) {
      T paid = T(0);
      for_each_determinant<Differences::any, 1>(
          field + n * layout.sample_stride, layout, columns.find(item, layout), scheme,
          [&](Index, const T(&determinant)[1]) {
            paid += penalty.template value<log>(determinant[0]);
          });
      sum += static_cast<double>(paid);
    }
    const double total = merge_block<kThreads>(sum, [](double a, double b) { return a + b; });
    if (threadIdx.x == 0) {
      partial[n * gridDim.x + blockIdx.x] = total;
    }
  }
}

// What the determinants are multiplied by: the slopes of what they pay.
template <bool log, int D, typename T, typename Index>
struct Slopes {
  const T* grad;
  std::int64_t grad_stride;
  double voxels;
  JacobianPenalty<T> penalty;

  struct Voxel {
    const JacobianPenalty<T>& penalty;
    const T scale;

    template <int axis, typename Gathered>
    __device__ __forceinline__ T share(const Gathered& gathered, Index step,
                                       T (&gradient)[D][D]) const {
      const auto& layout = gathered.layout;
      const auto own = difference_at<T, Index>(gathered.scheme, gathered.position[axis] + step,
                                               layout.size[axis]);
      const Index upper = (own.upper - gathered.position[axis]) * layout.stride[axis];
      const Index lower = (own.lower - gathered.position[axis]) * layout.stride[axis];
#pragma unroll
      for (int i = 0; i < D; ++i) {
        const auto* component = gathered.source + i * layout.channel_stride;
        gradient[i][axis] =
            own.weight * layout.scale[i] * (load(component[upper]) - load(component[lower]));
      }
      return scale * penalty.template derivative<log>(jacobian_of<D>(gradient));
    }
  };
  __device__ __forceinline__ Voxel of(std::int64_t n, const Index (&)[D]) const {
    return {penalty, static_cast<T>(static_cast<double>(grad[n * grad_stride]) / voxels)};
  }
};

// Calls work(std::true_type) for the logarithm.
template <typename Work>
void with_kind(Penalty kind, const Work& work) {
  kind == Penalty::log ? work(std::true_type{}) : work(std::false_type{});
}

}  // namespace

void jacobian_penalty_forward(const Tensor& displacement, const Tensor& partial, const Tensor& out,
                              double threshold, Penalty kind, Scheme scheme,
                              const std::vector<double>& spacing, int device,
                              std::uintptr_t stream) {
  if (element_count(out) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  const std::int64_t voxels = voxel_count(displacement);
  if (voxels == 0) {
    return zero_fill(out, stream);
  }
  dispatch_field(displacement, field_reach(displacement), [&](auto instance) {
    using I = decltype(instance);
    using T = typename I::T;
    const FieldLayout<I::D, T, typename I::Index> layout(displacement, spacing);
    const Columns<I::D, typename I::Index> columns(displacement, 1, kPlanes);
    const dim3 grid(static_cast<unsigned>(partial.shape[1]), grid_extent(layout.samples));
    with_kind(kind, [&](auto log) {
      launch("jacobian_penalty_forward", jacobian_penalty_forward_kernel<decltype(log)::value, I>,
             grid, kThreads, stream, displacement.as<const typename I::Field>(), layout, columns,
             JacobianPenalty<T>(kind, threshold), scheme, partial.as<double>());
    });
  });
  finish_sums(partial, 1.0 / static_cast<double>(voxels), out, stream);
}

void jacobian_penalty_backward(const Tensor& grad, const Tensor& displacement,
                               const Tensor& grad_displacement, double threshold, Penalty kind,
                               Scheme scheme, const std::vector<double>& spacing, int device,
                               std::uintptr_t stream) {
  if (element_count(grad_displacement) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  dispatch_field(displacement, field_reach(displacement), [&](auto instance) {
    using I = decltype(instance);
    using T = typename I::T;
    with_kind(kind, [&](auto log) {
      const Slopes<decltype(log)::value, I::D, T, typename I::Index> slopes = {
          grad.as<const T>(), grad.strides[0], static_cast<double>(voxel_count(displacement)),
          JacobianPenalty<T>(kind, threshold)};
      gather_jacobian<I>("jacobian_penalty_backward", slopes, displacement, grad_displacement,
                         scheme, spacing, stream);
    });
  });
}

}  // namespace plasticine::cuda
