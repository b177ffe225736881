// What the backward kernels share: the buffers that they write, and the sums of the affine's
// gradient.
#pragma once

#include "warp/warp_cuda_scatter.cuh"

namespace plasticine::cuda {

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

// The affine's gradient, slope_i * p_j and slope_i summed over the voxels of a block, each warp in
// its own D x (D + 1) of `sums`: cleared before the first voxel, and added up after the last.
template <int D, typename T>
__device__ __forceinline__ void clear_affine_sums(T* sums) {
  for (int k = threadIdx.x; k < kWarps * D * (D + 1); k += kThreads) {
    sums[k] = T(0);
  }
  __syncthreads();
}

// moments: of one thread, row by row.
template <int D, typename T>
__device__ __forceinline__ void add_moments(const T (&moments)[D * (D + 1)], T* sums) {
  T* const warp_sums = sums + threadIdx.x / kWarpSize * (D * (D + 1));
#pragma unroll
  for (int k = 0; k < D * (D + 1); ++k) {
    T moment = moments[k];
#pragma unroll
    for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
      moment += __shfl_down_sync(kWholeWarp, moment, offset);
    }
    if (threadIdx.x % kWarpSize == 0) {
      warp_sums[k] += moment;
    }
  }
}

// One voxel per thread.
template <int D, typename T, typename Index>
__device__ __forceinline__ void add_affine_moments(const T (&slope)[D], const Index (&position)[D],
                                                   T* sums) {
  T moments[D * (D + 1)];
#pragma unroll
  for (int i = 0; i < D; ++i) {
#pragma unroll
    for (int j = 0; j <= D; ++j) {
      moments[i * (D + 1) + j] =
          j < D ? slope[i] * static_cast<T>(position[j < D ? j : 0]) : slope[i];
    }
  }
  add_moments<D>(moments, sums);
}

// The moments of the voxels on a line along the first axis, of which one thread owns all: they have
// the other coordinates in common.
template <int D, typename T>
class LineMoments {
 public:
  template <typename Index>
  __device__ __forceinline__ void add(const T (&slope)[D], Index first) {
#pragma unroll
    for (int i = 0; i < D; ++i) {
      slope_[i] += slope[i];
      along_[i] += slope[i] * static_cast<T>(first);
    }
  }

  // position: of any voxel on the line.
  template <typename Index>
  __device__ __forceinline__ void add_to(T* sums, const Index (&position)[D]) const {
    T moments[D * (D + 1)];
#pragma unroll
    for (int i = 0; i < D; ++i) {
      T* const row = moments + i * (D + 1);
      row[0] = along_[i];
#pragma unroll
      for (int j = 1; j < D; ++j) {
        row[j] = slope_[i] * static_cast<T>(position[j]);
      }
      row[D] = slope_[i];
    }
    add_moments<D>(moments, sums);
  }

 private:
  T slope_[D] = {};
  T along_[D] = {};
};

template <int D, typename T>
__device__ __forceinline__ void store_affine_sums(const T* sums, T* partial) {
  constexpr int kMoments = D * (D + 1);
  __syncthreads();
  for (int k = threadIdx.x; k < kMoments; k += kThreads) {
    T total = T(0);
    for (int w = 0; w < kWarps; ++w) {
      total += sums[w * kMoments + k];
    }
    partial[k] = total;
  }
  __syncthreads();
}

template <typename T, typename Field>
GradientBuffers<T, Field> buffers_of(const WarpGradients& gradients) {
  GradientBuffers<T, Field> buffers;
  if (gradients.image) {
    buffers.image = gradients.image.as<T>();
  }
  if (gradients.image_fixed) {
    buffers.image_fixed = gradients.image_fixed.as<unsigned long long>();
    buffers.fixed_scale = gradients.fixed_scale.as<const double>();
  }
  if (gradients.displacement) {
    buffers.displacement = gradients.displacement.as<Field>();
  }
  if (gradients.affine_partial) {
    buffers.affine_partial = gradients.affine_partial.as<T>();
  }
  return buffers;
}

// What is scattered to starts at zero; so do the gradients with respect to the location where the
// result does not depend on it.
inline void prepare_gradients(const WarpGradients& gradients, bool is_constant,
                              StreamHandle stream) {
  for (const auto& scattered : {gradients.image, gradients.image_fixed}) {
    if (scattered) {
      zero_fill(scattered, stream);
    }
  }
  for (const auto& stored : {gradients.displacement, gradients.affine_partial}) {
    if (stored && is_constant) {
      zero_fill(stored, stream);
    }
  }
}

// The largest number that a backward kernel counts to in its type of index.
inline std::int64_t largest_offset(const Tensor& grad, const Tensor& image,
                                   const Tensor& displacement) {
  const std::int64_t voxels = voxel_count(grad);
  const std::int64_t image_voxels = voxel_count(image);
  // A block's turn may step past the last voxel by a whole grid before it ends.
  const std::int64_t reach = 2 * voxels + 1024 * std::int64_t{kThreads};
  return std::max({channel_reach(grad), channel_reach(image), channel_reach(displacement), reach,
                   image_voxels});
}

// The grid for a backward kernel. A sum over channels in one thread, as the slope needs, keeps the
// channels together; partial sums of the affine fix the number of blocks.
inline dim3 backward_grid(std::int64_t blocks, const Tensor& grad, const WarpGradients& gradients,
                          bool needs_location) {
  if (needs_location && gradients.affine_partial) {
    blocks = gradients.affine_partial.shape[1];
  }
  return launch_grid(blocks, grad.shape[0], needs_location ? 1 : grad.shape[1]);
}

}  // namespace plasticine::cuda
