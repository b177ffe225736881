// Adding to an image from many threads. Neighbouring lanes of a warp mostly hit neighbouring
// voxels, and where a field compresses, or is clamped at a border, the same ones: what they add is
// combined in registers first, since the memory's atomics are the slowest part of a scatter.
//
// Everything here exchanges values between the lanes of a warp: whole warps call it, lanes without
// a voxel of their own included.
#pragma once

#include "warp/cuda/cell.cuh"

namespace plasticine::cuda {

// Where sums go: to values or, for a sum that does not depend on the order of the atomics, in fixed
// point to `fixed` (two's complement), times `scale`. Infinities and NaN have no fixed-point form:
// their sum is inf, -inf or NaN in any order, and goes to values.
template <typename T>
struct ScatterTarget {
  T* values = nullptr;
  unsigned long long* fixed = nullptr;
  double scale = 1.0;

  __device__ __forceinline__ ScatterTarget plane(std::int64_t offset) const {
    return {values + offset, fixed == nullptr ? nullptr : fixed + offset, scale};
  }

  template <typename Index>
  __device__ __forceinline__ void add(Index offset, T share) const {
    if (fixed != nullptr && isfinite(share)) {
      const long long integer = __double2ll_rn(static_cast<double>(share) * scale);
      atomicAdd(fixed + offset, static_cast<unsigned long long>(integer));
    } else {
      atomicAdd(values + offset, share);
    }
  }
};

// The same as a kernel's argument; values are null where no sum is asked for.
template <typename T>
struct ScatterBuffer {
  T* values;
  unsigned long long* fixed;
  const double* scale;

  ScatterBuffer(const Tensor& sums, const Tensor& fixed_sums, const Tensor& fixed_scale)
      : values(sums.as<T>()),
        fixed(fixed_sums.as<unsigned long long>()),
        scale(fixed_scale.as<const double>()) {}

  __device__ __forceinline__ ScatterTarget<T> target() const {
    return {values, fixed, fixed == nullptr ? 1.0 : *scale};
  }
};

// Adds to two voxels that lie next to each other: as one vector where the GPU has such atomics and
// the address allows it.
template <typename T>
__device__ __forceinline__ void add_pair(T* address, T first, T second) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  if constexpr (sizeof(T) == sizeof(float)) {
    if (reinterpret_cast<std::uintptr_t>(address) % sizeof(float2) == 0) {
      atomicAdd(reinterpret_cast<float2*>(address), make_float2(first, second));
      return;
    }
  }
#endif
  atomicAdd(address, first);
  atomicAdd(address + 1, second);
}

// The runs of consecutive lanes that hold the same key; a negative key equals no other. The first
// lane of a run, its head, acts for all of it.
template <typename Index>
class LaneRuns {
 public:
  __device__ __forceinline__ explicit LaneRuns(Index key) {
    lane_ = static_cast<int>(threadIdx.x) % kWarpSize;
    key_before_ = __shfl_up_sync(kWholeWarp, key, 1);
    is_head_ = lane_ == 0 || key < 0 || key != key_before_;
    heads_ = __ballot_sync(kWholeWarp, is_head_);
    const unsigned after = lane_ == kWarpSize - 1 ? 0u : heads_ >> (lane_ + 1);
    following_ = after == 0 ? kWarpSize - 1 - lane_ : __ffs(static_cast<int>(after)) - 1;
  }

  __device__ __forceinline__ bool is_head() const { return is_head_; }

  // The key of the run before this one; -1 where there is none.
  __device__ __forceinline__ Index key_before() const {
    return lane_ == 0 ? Index(-1) : key_before_;
  }

  // The heads of the runs before and after this one; the latter is 32 after the last run.
  __device__ __forceinline__ int head_before() const {
    const unsigned below = heads_ & ((1u << lane_) - 1u);
    return below == 0 ? lane_ : kWarpSize - 1 - __clz(static_cast<int>(below));
  }
  __device__ __forceinline__ int head_after() const { return lane_ + following_ + 1; }

  // In the head of each run, the sums over the run; what the other lanes hold is of no use then.
  template <int count, typename T>
  __device__ __forceinline__ void sum(T (&values)[count]) const {
    if (heads_ == kWholeWarp) {
      return;
    }
    for (int distance = 1; __any_sync(kWholeWarp, distance <= following_); distance *= 2) {
#pragma unroll
      for (int k = 0; k < count; ++k) {
        const T other = __shfl_down_sync(kWholeWarp, values[k], distance);
        values[k] += distance <= following_ ? other : T(0);
      }
    }
  }

 private:
  int lane_;
  int following_;  // the lanes of the run after this one
  unsigned heads_;
  Index key_before_;
  bool is_head_;
};

// The strides of a contiguous channel, and its voxels.
template <int D, typename Index>
__device__ __forceinline__ void dense_strides(const Index (&size)[D], Index (&stride)[D]) {
  stride[D - 1] = 1;
#pragma unroll
  for (int axis = D - 2; axis >= 0; --axis) {
    stride[axis] = stride[axis + 1] * size[axis + 1];
  }
}
template <int D, typename Index>
__device__ __forceinline__ std::int64_t voxels_of(const Index (&size)[D]) {
  std::int64_t voxels = 1;
  for (int axis = 0; axis < D; ++axis) {
    voxels *= size[axis];
  }
  return voxels;
}

// The scatter of a cell per lane into contiguous channels: what lanes have in common is found once,
// for all channels. The upper corners along x of a cell are often the lower ones of the next
// lane's, which then adds both.
template <int D, typename T, typename Index>
class CellScatter {
 public:
  // A lane that is not active adds nothing. stride: of dense_strides.
  __device__ __forceinline__ CellScatter(const Cell<D, T, Index>& cell, bool active,
                                         const Index (&stride)[D])
      : active_(active), runs_(active && cell.inside(0) ? cell.offset(0, stride) : Index(-1)) {
    // Cells whose first corner is inside have the same rows where they are neighbours.
    const Index before = runs_.key_before();
    receives_ = active && cell.inside(0) && cell.index[D - 1] > 0 && before >= 0 &&
                before + 1 == cell.offset(0, stride);
    const unsigned receivers = __ballot_sync(kWholeWarp, receives_);
    const int next = runs_.head_after();
    passes_on_ = next < kWarpSize && ((receivers >> (next % kWarpSize)) & 1u) != 0u;
  }

  // Adds to the corners that are inside the image, by their weights.
  __device__ __forceinline__ void add(const Cell<D, T, Index>& cell, const Index (&stride)[D],
                                      T upstream, const ScatterTarget<T>& target) const {
    T share[corner_count<D>];
#pragma unroll
    for (int k = 0; k < corner_count<D>; ++k) {
      share[k] = upstream * corner_weight<D, T>(cell.lower, cell.upper, k);
    }
    if (target.fixed != nullptr) {  // the order in which lanes are combined would show in the bits
#pragma unroll
      for (int k = 0; k < corner_count<D>; ++k) {
        if (active_ && cell.inside(k)) {
          target.add(cell.offset(k, stride), share[k]);
        }
      }
      return;
    }
    runs_.sum(share);
    const int giver = runs_.head_before();
#pragma unroll
    for (int k = 0; k < corner_count<D>; k += 2) {
      const T received = __shfl_sync(kWholeWarp, share[k + 1], giver);
      share[k] += receives_ ? received : T(0);
    }
    if (!active_ || !runs_.is_head()) {
      return;
    }
#pragma unroll
    for (int k = 0; k < corner_count<D>; k += 2) {
      T* address = target.values + cell.offset(k, stride);
      const bool upper = !passes_on_ && cell.inside(k + 1);
      if (cell.inside(k) && upper) {
        add_pair(address, share[k], share[k + 1]);
      } else if (cell.inside(k)) {
        atomicAdd(address, share[k]);
      } else if (upper) {
        atomicAdd(target.values + cell.offset(k + 1, stride), share[k + 1]);
      }
    }
  }

 private:
  bool active_;
  LaneRuns<Index> runs_;
  bool receives_;
  bool passes_on_;
};

// The same for one voxel per lane, where index is its offset in the image.
template <typename Index>
class VoxelScatter {
 public:
  __device__ __forceinline__ VoxelScatter(Index offset, bool active)
      : offset_(offset), active_(active), runs_(active ? offset : Index(-1)) {}

  template <typename T>
  __device__ __forceinline__ void add(T share, const ScatterTarget<T>& target) const {
    T sums[1] = {share};
    const bool combines = target.fixed == nullptr;
    if (combines) {
      runs_.sum(sums);
    }
    if (active_ && (!combines || runs_.is_head())) {
      target.add(offset_, sums[0]);
    }
  }

 private:
  Index offset_;
  bool active_;
  LaneRuns<Index> runs_;
};

}  // namespace plasticine::cuda
