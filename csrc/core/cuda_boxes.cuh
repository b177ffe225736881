// Which voxels the threads of a block own: a box of a grid, 32 voxels along x, so that a warp is
// part of one row. What neighbouring rows read together then meets in the block's first-level
// cache, and no thread divides to find its position.
#pragma once

#include "core/cuda_launch.h"
#include "core/macros.h"

namespace plasticine::cuda {

constexpr int kThreads = 256;
constexpr int kWarpSize = 32;
constexpr int kBoxLength = kWarpSize;
constexpr int kBoxRows = kThreads / kBoxLength;

// The boxes that cover a grid, numbered along x first. A thread owns `turns` voxels, one above the
// other along the first axis: it takes them in turns, and what it found for one helps the next.
template <int D, typename Index>
class Boxes {
 public:
  // How far a thread moves along the first axis from turn to turn.
  static constexpr int kStep = D == 2 ? kBoxRows : 1;

  // tensor: (N, C, *spatial). More turns than one only where the boxes of all samples still fill
  // the GPU several times over.
  Boxes(const Tensor& tensor, int most_turns) {
    const std::int64_t enough = 16 * multiprocessors();
    std::int64_t boxes[D];
    turns_ = 2 * most_turns;
    do {
      turns_ = std::max(turns_ / 2, 1);
      count_ = 1;
      for (int axis = 0; axis < D; ++axis) {
        const std::int64_t size = tensor.shape[2 + axis];
        const std::int64_t side = axis == D - 1 ? kBoxLength
                                  : axis == 0   ? kStep * std::int64_t{turns_}
                                                : kBoxRows;
        size_[axis] = static_cast<Index>(size);
        boxes[axis] = divide_up(size, side);
        count_ *= boxes[axis];
      }
    } while (turns_ > 1 && count_ * tensor.shape[0] < enough);
    boxes_x_ = static_cast<Index>(boxes[D - 1]);
    boxes_y_ = static_cast<Index>(boxes[1]);
    along_x_ = Divisor<Index>(boxes[D - 1]);
    along_y_ = Divisor<Index>(boxes[1]);
  }

  PLASTICINE_HOST_DEVICE std::int64_t count() const { return count_; }

  // How many turns any thread takes, and one from its first position: none outside of the grid.
  __device__ __forceinline__ int turns() const { return turns_; }
  __device__ __forceinline__ int turns_from(const Index (&position)[D]) const {
    bool inside = position[D - 1] < size_[D - 1];
    if constexpr (D == 3) {
      inside = inside && position[1] < size_[1];
    }
    const Index left = (size_[0] - position[0] + kStep - 1) / kStep;
    return inside ? static_cast<int>(left < turns_ ? left : turns_) : 0;
  }

  // This thread's voxel in a box at its first turn; it may lie outside of the grid.
  __device__ __forceinline__ void find(Index box, Index (&position)[D]) const {
    const Index row = along_x_.divide(box);
    const Index thread = static_cast<Index>(threadIdx.x);
    position[D - 1] = (box - row * boxes_x_) * kBoxLength + thread % kBoxLength;
    if constexpr (D == 2) {
      position[0] = row * (kBoxRows * turns_) + thread / kBoxLength;
    } else {
      const Index plane = along_y_.divide(row);
      position[1] = (row - plane * boxes_y_) * kBoxRows + thread / kBoxLength;
      position[0] = plane * turns_;
    }
  }

  // The offset of a voxel in a contiguous channel, and how far a turn moves it.
  __device__ __forceinline__ Index step_offset() const {
    Index sum = kStep;
    for (int axis = 1; axis < D; ++axis) {
      sum *= size_[axis];
    }
    return sum;
  }
  __device__ __forceinline__ Index offset(const Index (&position)[D]) const {
    Index sum = position[0];
    for (int axis = 1; axis < D; ++axis) {
      sum = sum * size_[axis] + position[axis];
    }
    return sum;
  }

 private:
  Index size_[D];
  Index boxes_x_ = 1;
  Index boxes_y_ = 1;
  Divisor<Index> along_x_, along_y_;
  std::int64_t count_ = 1;
  int turns_ = 1;
};

}  // namespace plasticine::cuda
