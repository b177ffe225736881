// Adding to an image from many threads, for the 4^D taps of the cubic modes.
#pragma once

#include "warp/cuda/cubic_cell.cuh"
#include "warp/cuda/scatter.cuh"

namespace plasticine::cuda {

// The scatter of a cell per lane into the channels of an image whose rows are contiguous. Where a
// field is smooth, the cell of a lane lies one voxel after that of the lane before: then three of
// the four voxels in each of its rows are the same, and what the lane before adds to them is handed
// on in registers, so that most rows cost one atomic instead of four.
//
// Whole warps call everything here, lanes without a voxel of their own included.
template <int D, typename T, typename Index>
class CubicScatter {
 public:
  // A lane that is not active adds nothing.
  __device__ __forceinline__ CubicScatter(const CubicCell<D, true, T, Index>& cell, bool active,
                                          const Index (&size)[D], const ScatterTarget<T>& target)
      : active_(active) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const Index own = cell.first[D - 1];
    const bool is_plain = active && own >= 0 && own <= size[D - 1] - kTaps;
    const Index before = __shfl_up_sync(kWholeWarp, is_plain ? own : Index(-2), 1);
    bool follows = lane > 0 && is_plain && before + 1 == own;
#pragma unroll
    for (int axis = 0; axis < D - 1; ++axis) {
      follows = __shfl_up_sync(kWholeWarp, cell.first[axis], 1) == cell.first[axis] && follows;
    }
    // In fixed point, the order in which lanes are combined would show in the bits.
    receives_ = follows && target.fixed == nullptr;
    const unsigned receivers = __ballot_sync(kWholeWarp, receives_);
    passes_on_ = lane < kWarpSize - 1 && (receivers >> (lane + 1) & 1u) != 0u;
  }

  // Adds the cell's weights, times `upstream`, to one channel.
  __device__ __forceinline__ void add(const CubicCell<D, true, T, Index>& cell,
                                      const Index (&size)[D], T upstream,
                                      const ScatterTarget<T>& channel) const {
    constexpr int y = D - 2;
#pragma unroll 1
    for (int i = 0; i < (D == 3 ? kTaps : 1); ++i) {
      const bool has_plane = active_ && (D == 2 || cell.is_inside(0, i));
      const T plane = D == 3 ? upstream * pick(cell.weight[0], i) : upstream;
      const Index first_row = D == 3 ? pick(cell.index[0], i) * size[y] : 0;
#pragma unroll 1
      for (int j = 0; j < kTaps; ++j) {
        add_row(cell, has_plane && cell.is_inside(y, j), plane * pick(cell.weight[y], j),
                (first_row + pick(cell.index[y], j)) * size[D - 1], channel);
      }
    }
  }

 private:
  __device__ __forceinline__ void add_row(const CubicCell<D, true, T, Index>& cell, bool has_row,
                                          T upstream, Index start,
                                          const ScatterTarget<T>& channel) const {
    constexpr int x = D - 1;
    T share[kTaps];
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      share[k] = upstream * cell.weight[x][k];
    }
#pragma unroll
    for (int k = kTaps - 1; k > 0; --k) {
      const T handed = __shfl_up_sync(kWholeWarp, share[k], 1);
      share[k - 1] += receives_ ? handed : T(0);
    }
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      if (has_row && cell.is_inside(x, k) && (k == 0 || !passes_on_)) {
        channel.add(start + cell.index[x][k], share[k]);
      }
    }
  }

  bool active_;
  bool receives_;
  bool passes_on_;
};

}  // namespace plasticine::cuda
