// warp backward in the cubic modes on the GPU, and splat: the gradients of image, displacement and
// affine in one pass over the voxels, summed as the linear mode sums them.
//
// Which gradients are asked for is known at run time: the taps are read for the location's, then
// walked again to scatter the image's, which needs fewer registers than both at once.
#include "warp_cubic_cuda.h"
#include "warp_cubic_cuda_cell.cuh"
#include "warp_cuda_adjoint.cuh"

namespace plasticine::cuda {
namespace {

// Adds a voxel's weights, times `upstream`, to one contiguous channel of the image's gradient.
template <int D, typename T, typename Index>
__device__ __forceinline__ void scatter_cell(const CubicCell<D, true, T, Index>& cell,
                                             const Index (&size)[D], T upstream,
                                             const ScatterTarget<T>& target) {
  constexpr int y = D - 2;
  constexpr int x = D - 1;
#pragma unroll 1
  for (int i = 0; i < (D == 3 ? kTaps : 1); ++i) {
    if (D == 3 && !cell.is_inside(0, i)) {
      continue;
    }
    const T plane = D == 3 ? upstream * pick(cell.weight[0], i) : upstream;
    const Index first_row = D == 3 ? pick(cell.index[0], i) * size[y] : 0;
#pragma unroll 1
    for (int j = 0; j < kTaps; ++j) {
      if (!cell.is_inside(y, j)) {
        continue;
      }
      const T row = plane * pick(cell.weight[y], j);
      const Index start = (first_row + pick(cell.index[y], j)) * size[x];
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        if (cell.is_inside(x, k)) {
          target.add(start + cell.index[x][k], row * cell.weight[x][k]);
        }
      }
    }
  }
}

// What one voxel passes on: scatters to the image, and returns its slope with respect to the
// location.
template <int D, typename Image, typename Field, typename Index, typename T>
__device__ __forceinline__ void cubic_voxel(const WarpInputs<D, Image, Field, Index>& inputs,
                                            const ChannelFirst<D, Image, Index>& grad,
                                            const ScatterTarget<T>& target,
                                            const CubicOptions& options, bool needs_location,
                                            std::int64_t n, const Index (&position)[D],
                                            T (&slope)[D]) {
  T location[D];
  sample_location(inputs, n, position, location);
  CubicCell<D, true, T, Index> cell;
  cell.find(location, inputs.image_size, options);
  // An output that no voxel of the image entered passes nothing on, not even 0 * inf.
  const bool reached = cell.reached();
  const Index grad_offset = grad.offset(position);
  std::int64_t plane = 1;
  for (int axis = 0; axis < D; ++axis) {
    plane *= inputs.image_size[axis];
  }
  for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
    const T upstream = reached ? static_cast<T>(load(grad.channel(n, c)[grad_offset])) : T(0);
    if (needs_location) {
      T gradient[D];
      cell.sum(inputs.image.channel(n, c), inputs.image.stride, gradient);
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        slope[axis] += upstream * gradient[axis];
      }
    }
    if (target.values != nullptr && reached) {
      scatter_cell(cell, inputs.image_size, upstream,
                   target.plane((n * inputs.channels + c) * plane));
    }
  }
}

template <int D, typename Image, typename Field, typename Index>
__global__ void __launch_bounds__(kThreads, (resident_blocks<accumulator_t<Image>, Index>(2)))
    warp_cubic_backward_kernel(const __grid_constant__ WarpInputs<D, Image, Field, Index> inputs,
                               const __grid_constant__ ChannelFirst<D, Image, Index> grad,
                               GradientBuffers<accumulator_t<Image>, Field> buffers,
                               CubicOptions options) {
  using T = accumulator_t<Image>;
  constexpr int kMoments = D * (D + 1);
  __shared__ T sums[kWarps * kMoments];
  const bool has_affine = buffers.affine_partial != nullptr;
  const bool needs_location = has_affine || buffers.displacement != nullptr;
  const ScatterTarget<T> target = buffers.scatter_target();

  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    if (has_affine) {
      clear_affine_sums<D>(sums);
    }
    // Whole blocks turn together, since the moments are summed across the warp.
    const Index step = static_cast<Index>(gridDim.x) * kThreads;
    for (Index first = static_cast<Index>(blockIdx.x) * kThreads; first < inputs.voxels;
         first += step) {
      const Index voxel = first + static_cast<Index>(threadIdx.x);
      T slope[D] = {};
      Index position[D] = {};
      if (voxel < inputs.voxels) {
        inputs.position_of(voxel, position);
        cubic_voxel(inputs, grad, target, options, needs_location, n, position, slope);
        if (buffers.displacement != nullptr) {
#pragma unroll
          for (int axis = 0; axis < D; ++axis) {
            buffers.displacement[(n * D + axis) * inputs.voxels + voxel] =
                store<Field>(slope[axis]);
          }
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

void warp_cubic_backward(const Tensor& grad, const Tensor& image, const Tensor& displacement,
                         const std::optional<Tensor>& affine, const WarpGradients& gradients,
                         Mode mode, Padding padding, int device, std::uintptr_t stream) {
  const DeviceGuard guard(device);
  prepare_gradients(gradients, element_count(grad) == 0, stream);
  const bool needs_location =
      gradients.displacement.has_value() || gradients.affine_partial.has_value();
  if (element_count(grad) == 0 || (!gradients.image.has_value() && !needs_location)) {
    return;
  }
  const std::int64_t largest = largest_offset(grad, image, displacement);
  const std::int64_t voxels = element_count(grad) / (grad.shape[0] * grad.shape[1]);
  const dim3 grid =
      backward_grid((voxels + kThreads - 1) / kThreads, grad, gradients, needs_location);
  dispatch_dimension(displacement.shape[1], [&](auto dimension) {
    dispatch_cubic_types(grad.dtype, displacement.dtype, [&](auto image_tag, auto field_tag) {
      dispatch_index(largest, [&](auto index_tag) {
        constexpr int D = decltype(dimension)::value;
        using Image = typename decltype(image_tag)::type;
        using Field = typename decltype(field_tag)::type;
        using Index = typename decltype(index_tag)::type;
        const WarpInputs<D, Image, Field, Index> inputs(image, displacement, affine);
        const ChannelFirst<D, Image, Index> upstream(grad);
        launch("warp_cubic_backward", warp_cubic_backward_kernel<D, Image, Field, Index>, grid,
               kThreads, stream, inputs, upstream,
               buffers_of<accumulator_t<Image>, Field>(gradients), CubicOptions{mode, padding});
      });
    });
  });
}

}  // namespace plasticine::cuda
