// warp backward on the GPU: the gradients of image, displacement and affine in one pass.
//
// A thread owns an output voxel. The image's gradient is scattered with atomics
// (warp_cuda_scatter.cuh), in fixed point where a deterministic sum is asked for; the affine's is
// summed in a fixed order, by warp, then by block, then by Python over the partial sums.
#include "warp_cuda_scatter.cuh"

namespace plasticine::cuda {
namespace {

constexpr int kWarps = kThreads / kWarpSize;

// The buffers that the kernel writes; null where a gradient is not asked for.
template <typename T, typename Field>
struct GradientBuffers {
  T* image = nullptr;
  unsigned long long* image_fixed = nullptr;
  const double* fixed_scale = nullptr;
  Field* displacement = nullptr;
  T* affine_partial = nullptr;

  __device__ __forceinline__ ScatterTarget<T> scatter_target() const {
    return {image, image_fixed, image_fixed == nullptr ? 1.0 : *fixed_scale};
  }
};

// Adds slope_i * p_j and slope_i of one voxel per thread to the warp's D x (D + 1) sums.
template <int D, typename T, typename Index>
__device__ __forceinline__ void add_affine_moments(const T (&slope)[D], const Index (&position)[D],
                                                   T* warp_sums) {
#pragma unroll
  for (int i = 0; i < D; ++i) {
#pragma unroll
    for (int j = 0; j <= D; ++j) {
      T moment = j < D ? slope[i] * static_cast<T>(position[j < D ? j : 0]) : slope[i];
#pragma unroll
      for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
        moment += __shfl_down_sync(0xffffffffu, moment, offset);
      }
      if (threadIdx.x % kWarpSize == 0) {
        warp_sums[i * (D + 1) + j] += moment;
      }
    }
  }
}

// What one voxel passes on: scatters to the image, and returns its slope with respect to the
// location, for linear interpolation. Whole warps come; a lane that is not active has a position,
// but adds nothing, and its slope is zero.
template <Padding padding, bool needs_image, bool needs_location, int D, typename Image,
          typename Field, typename Index, typename T>
__device__ __forceinline__ void linear_voxel(const WarpInputs<D, Image, Field, Index>& inputs,
                                             const ChannelFirst<D, Image, Index>& grad,
                                             const ScatterTarget<T>& target, std::int64_t n,
                                             const Index (&position)[D], bool active,
                                             T (&slope)[D]) {
  T location[D];
  sample_location(inputs, n, position, location);
  Cell<D, T, Index> cell;
  cell.template find<padding>(location, inputs.image_size);
  // An output that no voxel of the image entered passes nothing on, not even 0 * inf.
  const bool reached = active && cell.reached();
  const Index grad_offset = grad.offset(position);
  if constexpr (needs_image) {
    Index dense_stride[D];
    dense_stride[D - 1] = 1;
    for (int axis = D - 2; axis >= 0; --axis) {
      dense_stride[axis] = dense_stride[axis + 1] * inputs.image_size[axis + 1];
    }
    const std::int64_t plane = static_cast<std::int64_t>(dense_stride[0]) * inputs.image_size[0];
    const CellScatter<D, T, Index> cells(cell, reached, dense_stride);
    for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
      const T upstream = reached ? static_cast<T>(load(grad.channel(n, c)[grad_offset])) : T(0);
      T share[corner_count<D>];
#pragma unroll
      for (int k = 0; k < corner_count<D>; ++k) {
        share[k] = upstream * corner_weight<D, T>(cell.lower, cell.upper, k);
      }
      cells.add(cell, dense_stride, share, target.plane((n * inputs.channels + c) * plane));
    }
  }
  if constexpr (needs_location) {
    for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
      const T upstream = reached ? static_cast<T>(load(grad.channel(n, c)[grad_offset])) : T(0);
      const Image* source = inputs.image.channel(n, c);
      T corner[corner_count<D>];
#pragma unroll
      for (int k = 0; k < corner_count<D>; ++k) {
        corner[k] = cell.inside(k) ? load(source[cell.offset(k, inputs.image.stride)]) : T(0);
      }
      add_interpolation_gradient<D, T>(cell.lower, cell.upper, corner, upstream, slope);
    }
    for (int axis = 0; axis < D; ++axis) {
      slope[axis] = active ? slope[axis] * cell.derivative[axis] : T(0);
    }
  }
}

template <Padding padding, bool needs_image, bool needs_location, int D, typename Image,
          typename Field, typename Index>
__global__ void __launch_bounds__(kThreads, (resident_blocks<accumulator_t<Image>, Index>(3)))
    linear_backward_kernel(const __grid_constant__ WarpInputs<D, Image, Field, Index> inputs,
                           const __grid_constant__ ChannelFirst<D, Image, Index> grad,
                           GradientBuffers<accumulator_t<Image>, Field> buffers) {
  using T = accumulator_t<Image>;
  constexpr int kMoments = D * (D + 1);
  __shared__ T sums[needs_location ? kWarps : 1][kMoments];
  const bool has_affine = needs_location && buffers.affine_partial != nullptr;
  const ScatterTarget<T> target = buffers.scatter_target();
  T* warp_sums = sums[needs_location ? threadIdx.x / kWarpSize : 0];

  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    if (has_affine) {
      for (int k = threadIdx.x; k < kWarps * kMoments; k += kThreads) {
        sums[k / kMoments][k % kMoments] = T(0);
      }
      __syncthreads();
    }
    // More than one turn only where partial sums limit the number of blocks. Whole blocks turn
    // together, since the moments are summed across the warp.
    const Index step = static_cast<Index>(gridDim.x) * kThreads;
    for (Index first = static_cast<Index>(blockIdx.x) * kThreads; first < inputs.voxels;
         first += step) {
      const Index voxel = first + static_cast<Index>(threadIdx.x);
      const bool active = voxel < inputs.voxels;
      T slope[D] = {};
      Index position[D];
      inputs.position_of(active ? voxel : 0, position);
      linear_voxel<padding, needs_image, needs_location>(inputs, grad, target, n, position, active,
                                                         slope);
      if (needs_location && active && buffers.displacement != nullptr) {
#pragma unroll
        for (int axis = 0; axis < D; ++axis) {
          buffers.displacement[(n * D + axis) * inputs.voxels + voxel] = store<Field>(slope[axis]);
        }
      }
      if (has_affine) {
        add_affine_moments<D>(slope, position, warp_sums);
      }
    }
    if (has_affine) {
      __syncthreads();
      for (int k = threadIdx.x; k < kMoments; k += kThreads) {
        T total = T(0);
        for (int w = 0; w < (needs_location ? kWarps : 1); ++w) {
          total += sums[w][k];
        }
        buffers.affine_partial[(n * gridDim.x + blockIdx.x) * kMoments + k] = total;
      }
      __syncthreads();
    }
  }
}

// Nearest has no slope: only the image receives a gradient.
template <Padding padding, int D, typename Image, typename Field, typename Index>
__global__ void __launch_bounds__(kThreads, (resident_blocks<accumulator_t<Image>, Index>(3)))
    nearest_backward_kernel(const __grid_constant__ WarpInputs<D, Image, Field, Index> inputs,
                            const __grid_constant__ ChannelFirst<D, Image, Index> grad,
                            GradientBuffers<accumulator_t<Image>, Field> buffers) {
  using T = accumulator_t<Image>;
  const Index voxel = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
  const bool active = voxel < inputs.voxels;
  const ScatterTarget<T> target = buffers.scatter_target();
  Index position[D];
  inputs.position_of(active ? voxel : 0, position);
  const Index grad_offset = grad.offset(position);
  std::int64_t plane = 1;
  for (int axis = 0; axis < D; ++axis) {
    plane *= inputs.image_size[axis];
  }
  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    T location[D];
    sample_location(inputs, n, position, location);
    NearestVoxel<D, T, Index> nearest;
    nearest.template find<padding>(location, inputs.image_size);
    Index offset = 0;
    for (int axis = 0; axis < D; ++axis) {
      offset = offset * inputs.image_size[axis] + nearest.index[axis];
    }
    const VoxelScatter<Index> scatter(offset, active && nearest.inside);
    for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
      scatter.add(static_cast<T>(load(grad.channel(n, c)[grad_offset])),
                  target.plane((n * inputs.channels + c) * plane));
    }
  }
}

template <typename T, typename Field>
GradientBuffers<T, Field> buffers_of(const WarpGradients& gradients) {
  GradientBuffers<T, Field> buffers;
  if (gradients.image) {
    buffers.image = gradients.image->as<T>();
  }
  if (gradients.image_fixed) {
    buffers.image_fixed = gradients.image_fixed->as<unsigned long long>();
    buffers.fixed_scale = gradients.fixed_scale->as<const double>();
  }
  if (gradients.displacement) {
    buffers.displacement = gradients.displacement->as<Field>();
  }
  if (gradients.affine_partial) {
    buffers.affine_partial = gradients.affine_partial->as<T>();
  }
  return buffers;
}

// The grid for a backward kernel. A sum over channels in one thread, as the slope needs, keeps the
// channels together; partial sums of the affine fix the number of blocks.
dim3 backward_grid(std::int64_t voxels, const Tensor& image, const WarpGradients& gradients,
                   bool needs_location) {
  std::int64_t blocks = (voxels + kThreads - 1) / kThreads;
  if (needs_location && gradients.affine_partial) {
    blocks = gradients.affine_partial->shape[1];
  }
  return launch_grid(blocks, image.shape[0], needs_location ? 1 : image.shape[1]);
}

template <Padding padding, int D, typename Image, typename Field, typename Index>
void launch_backward(const Tensor& grad, const Tensor& image, const Tensor& displacement,
                     const std::optional<Tensor>& affine, const WarpGradients& gradients, Mode mode,
                     StreamHandle stream) {
  const WarpInputs<D, Image, Field, Index> inputs(image, displacement, affine);
  const ChannelFirst<D, Image, Index> upstream(grad);
  const auto buffers = buffers_of<accumulator_t<Image>, Field>(gradients);
  const bool needs_image = gradients.image.has_value();
  const bool needs_location = mode == Mode::linear && (gradients.displacement.has_value() ||
                                                       gradients.affine_partial.has_value());
  const dim3 grid = backward_grid(inputs.voxels, image, gradients, needs_location);
  if (!needs_image && !needs_location) {
    return;
  }
  auto kernel = nearest_backward_kernel<padding, D, Image, Field, Index>;
  if (mode == Mode::linear) {
    constexpr auto both = linear_backward_kernel<padding, true, true, D, Image, Field, Index>;
    constexpr auto location = linear_backward_kernel<padding, false, true, D, Image, Field, Index>;
    constexpr auto scattered = linear_backward_kernel<padding, true, false, D, Image, Field, Index>;
    kernel = !needs_image ? location : !needs_location ? scattered : both;
  }
  launch("warp_backward", kernel, grid, kThreads, stream, inputs, upstream, buffers);
}

}  // namespace

void warp_backward(const Tensor& grad, const Tensor& image, const Tensor& displacement,
                   const std::optional<Tensor>& affine, const WarpGradients& gradients, Mode mode,
                   Padding padding, int device, std::uintptr_t stream) {
  const DeviceGuard guard(device);
  const bool is_empty = element_count(grad) == 0;
  const bool is_constant = is_empty || mode == Mode::nearest;
  for (const auto& scattered : {gradients.image, gradients.image_fixed}) {
    if (scattered) {
      zero_fill(*scattered, stream);
    }
  }
  for (const auto& stored : {gradients.displacement, gradients.affine_partial}) {
    if (stored && is_constant) {
      zero_fill(*stored, stream);
    }
  }
  if (is_empty) {
    return;
  }
  const std::int64_t voxels = element_count(grad) / (grad.shape[0] * grad.shape[1]);
  const std::int64_t image_voxels =
      element_count(image) / std::max<std::int64_t>(image.shape[0] * image.shape[1], 1);
  // A block's turn may step past the last voxel by a whole grid before it ends.
  const std::int64_t reach = 2 * voxels + 1024 * std::int64_t{kThreads};
  const std::int64_t largest = std::max({channel_reach(grad), channel_reach(image),
                                         channel_reach(displacement), reach, image_voxels});
  dispatch_dimension(displacement.shape[1], [&](auto dimension) {
    dispatch_types(image.dtype, displacement.dtype, [&](auto image_tag, auto field_tag) {
      dispatch_padding(padding, [&](auto padding_tag) {
        dispatch_index(largest, [&](auto index_tag) {
          launch_backward<decltype(padding_tag)::value, decltype(dimension)::value,
                          typename decltype(image_tag)::type, typename decltype(field_tag)::type,
                          typename decltype(index_tag)::type>(grad, image, displacement, affine,
                                                              gradients, mode, stream);
        });
      });
    });
  });
}

}  // namespace plasticine::cuda
