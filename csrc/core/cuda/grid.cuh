// Tensors and their voxels as kernels find them.
#pragma once

#include "core/cuda/launch.h"
#include "core/macros.h"

namespace plasticine::cuda {

// Division by a number that is known at launch. 32-bit: a multiplication and a shift (Granlund and
// Montgomery, "Division by invariant integers using multiplication", PLDI 1994), for dividends
// below 2^31; 64-bit: the hardware's own, for volumes that large are bound by memory anyhow.
template <typename Index>
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(std::int64_t divisor) : divisor_(divisor) {}
  __device__ __forceinline__ Index divide(Index dividend) const { return dividend / divisor_; }

 private:
  std::int64_t divisor_ = 1;
};

template <>
class Divisor<std::int32_t> {
 public:
  Divisor() = default;
  explicit Divisor(std::int64_t divisor) : divisor_(static_cast<std::uint32_t>(divisor)) {
    while ((std::uint64_t{1} << shift_) < divisor_) {
      ++shift_;
    }
    const std::uint64_t power = std::uint64_t{1} << 32;
    multiplier_ = static_cast<std::uint32_t>(
        power * ((std::uint64_t{1} << shift_) - divisor_) / divisor_ + 1);
  }
  __device__ __forceinline__ std::int32_t divide(std::int32_t dividend) const {
    const std::uint32_t value = static_cast<std::uint32_t>(dividend);
    return static_cast<std::int32_t>((__umulhi(value, multiplier_) + value) >> shift_);
  }

 private:
  std::uint32_t divisor_ = 1;
  std::uint32_t multiplier_ = 1;
  std::uint32_t shift_ = 0;
};

// A (N, C, *spatial) tensor but for its address. Offsets within a channel are of type Index;
// samples and channels are always found with 64 bits.
template <int D, typename Index>
struct Layout {
  std::int64_t sample_stride = 0;
  std::int64_t channel_stride = 0;
  Index size[D] = {};
  Index stride[D] = {};

  Layout() = default;
  explicit Layout(const Tensor& tensor)
      : sample_stride(tensor.strides[0]), channel_stride(tensor.strides[1]) {
    for (int axis = 0; axis < D; ++axis) {
      size[axis] = static_cast<Index>(tensor.shape[2 + axis]);
      stride[axis] = static_cast<Index>(tensor.strides[2 + axis]);
    }
  }

  __device__ __forceinline__ Index offset(const Index (&position)[D]) const {
    Index sum = 0;
    for (int axis = 0; axis < D; ++axis) {
      sum += position[axis] * stride[axis];
    }
    return sum;
  }
};

template <int D, typename Stored, typename Index>
struct ChannelFirst : Layout<D, Index> {
  const Stored* data = nullptr;

  ChannelFirst() = default;
  explicit ChannelFirst(const Tensor& tensor)
      : Layout<D, Index>(tensor), data(tensor.as<const Stored>()) {}

  __device__ __forceinline__ const Stored* channel(std::int64_t n, std::int64_t c) const {
    return data + n * this->sample_stride + c * this->channel_stride;
  }
};

constexpr int kThreads = 256;
constexpr int kWarpSize = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kBoxLength = kWarpSize;
constexpr int kBoxRows = kThreads / kBoxLength;

#if defined(__CUDA_ARCH__)
constexpr int kArchitecture = __CUDA_ARCH__ / 10;
#else
constexpr int kArchitecture = 90;  // which the host does not ask for
#endif

// Blocks that must fit a multiprocessor at once, which bounds the registers of a thread. Float
// coordinates with 32-bit offsets are what is run; the wide variants take what they need.
template <typename T, typename Index>
constexpr int resident_blocks(int narrow) {
  return sizeof(T) == 4 && sizeof(Index) == 4 ? narrow : 1;
}

// Which voxels the threads of a block own: a box of a grid, 32 voxels along x, so that a warp is
// part of one row. What neighbouring rows read together then meets in the block's first-level
// cache, and no thread divides to find its position. Boxes are numbered along x first. A thread
// owns `turns` voxels, one above the other along the first axis: it takes them in turns, and what
// it found for one helps the next.
template <int D, typename Index>
class Boxes {
 public:
  // How far a thread moves along the first axis from turn to turn.
  static constexpr int kStep = D == 2 ? kBoxRows : 1;

  // tensor: (N, C, *spatial). More turns than one only where there are enough boxes all the same:
  // those that fill the GPU several times over.
  Boxes(const Tensor& tensor, int most_turns) : Boxes(tensor, most_turns, 16 * multiprocessors()) {}

  Boxes(const Tensor& tensor, int most_turns, std::int64_t enough) : turns_(most_turns) {
    for (int axis = 0; axis < D; ++axis) {
      size_[axis] = static_cast<Index>(tensor.shape[2 + axis]);
    }
    const std::int64_t boxes_x = divide_up(tensor.shape[1 + D], kBoxLength);
    const std::int64_t boxes_y = D == 3 ? divide_up(tensor.shape[D], kBoxRows) : 1;
    const auto count_of = [&](int turns) {
      return boxes_x * boxes_y * divide_up(tensor.shape[2], kStep * std::int64_t{turns});
    };
    while (turns_ > 1 && count_of(turns_) * tensor.shape[0] < enough) {
      turns_ /= 2;
    }
    count_ = count_of(turns_);
    boxes_x_ = static_cast<Index>(boxes_x);
    boxes_y_ = static_cast<Index>(boxes_y);
    along_x_ = Divisor<Index>(boxes_x);
    along_y_ = Divisor<Index>(boxes_y);
  }

  PLASTICINE_HOST_DEVICE std::int64_t count() const { return count_; }

  // One block per box along x, samples along y, z as asked for.
  dim3 grid(std::int64_t samples, int z = 1) const {
    return dim3(static_cast<unsigned>(count_), grid_extent(samples), static_cast<unsigned>(z));
  }

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

// What the threads of a block hold, merged two by two in a fixed order, for all of them. Whole
// blocks call it.
template <int threads, typename Value, typename Merge>
__device__ __forceinline__ Value merge_block(const Value& mine, const Merge& merge) {
  __shared__ Value values[threads];
  const int thread = static_cast<int>(threadIdx.x);
  values[thread] = mine;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) {
      values[thread] = merge(values[thread], values[thread + half]);
    }
  }
  __syncthreads();
  const Value result = values[0];
  __syncthreads();  // before the next use
  return result;
}

}  // namespace plasticine::cuda
