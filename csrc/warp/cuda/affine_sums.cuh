// The affine's gradient: the location's, gradient_i, and gradient_i * p_j, summed over the voxels p
// of a block.
#pragma once

#include "core/cuda/grid.cuh"

namespace plasticine::cuda {

// Of the voxels on a line along the first axis, of which one thread owns all: they have the other
// coordinates in common.
template <int D, typename T>
struct LineMoments {
  T sum[D] = {};
  T along[D] = {};

  template <typename Index>
  __device__ __forceinline__ void add(const T (&gradient)[D], Index first) {
    for (int i = 0; i < D; ++i) {
      sum[i] += gradient[i];
      along[i] += gradient[i] * static_cast<T>(first);
    }
  }
};

// Each warp has D x (D + 1) sums of its own: cleared before the first voxel, and added up after the
// last. Whole blocks call everything here. One object a kernel.
template <int D, typename T>
class AffineSums {
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kMoments = D * (D + 1);

 public:
  __device__ __forceinline__ void clear() {
    for (int k = threadIdx.x; k < kWarps * kMoments; k += kThreads) {
      sums()[k] = T(0);
    }
    __syncthreads();
  }

  // position: of any voxel on the line.
  template <typename Index>
  __device__ __forceinline__ void add(const LineMoments<D, T>& line, const Index (&position)[D]) {
    T* const warp_sums = sums() + threadIdx.x / kWarpSize * kMoments;
#pragma unroll
    for (int k = 0; k < kMoments; ++k) {
      const int i = k / (D + 1);
      const int j = k % (D + 1);
      T moment = j == 0   ? line.along[i]
                 : j == D ? line.sum[i]
                          : line.sum[i] * static_cast<T>(position[j % D]);
#pragma unroll
      for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
        moment += __shfl_down_sync(kWholeWarp, moment, offset);
      }
      if (threadIdx.x % kWarpSize == 0) {
        warp_sums[k] += moment;
      }
    }
  }

  __device__ __forceinline__ void store(T* partial) {
    __syncthreads();
    for (int k = threadIdx.x; k < kMoments; k += kThreads) {
      T total = T(0);
      for (int w = 0; w < kWarps; ++w) {
        total += sums()[w * kMoments + k];
      }
      partial[k] = total;
    }
    __syncthreads();
  }

 private:
  __device__ __forceinline__ static T* sums() {
    __shared__ T shared[kWarps * kMoments];
    return shared;
  }
};

}  // namespace plasticine::cuda
