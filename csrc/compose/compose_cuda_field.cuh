// What every kernel that samples a displacement field shares: which voxel a thread owns, and all
// components of a field at a location.
//
// A block owns a box of voxels, 32 along x, so that a warp is part of one row. The cells of a row
// of voxels lie in four rows of the field in 3D; in a box, rows next to each other share them.
#pragma once

#include <initializer_list>

#include "../warp/warp_cuda_location.cuh"

namespace plasticine::cuda {

constexpr int kBoxLength = 32;

// A block of kThreads owns 8 rows in 2D, 4 rows of 2 planes in 3D, and as many again with each turn
// of its threads, along the first axis.
template <int D>
constexpr int box_rows = D == 2 ? kThreads / kBoxLength : 4;
template <int D>
constexpr int box_planes = kThreads / kBoxLength / box_rows<D>;
template <int D>
constexpr int turn_length = D == 2 ? box_rows<D> : box_planes<D>;

// A value that no thread of the launch writes, through the read-only cache.
__device__ __forceinline__ float read_only(const float* address) { return __ldg(address); }
__device__ __forceinline__ double read_only(const double* address) { return __ldg(address); }
__device__ __forceinline__ float read_only(const Half* address) {
  return load(Half{__ldg(&address->bits)});
}
__device__ __forceinline__ float read_only(const BFloat16* address) {
  return load(BFloat16{__ldg(&address->bits)});
}

// The boxes that cover a grid of voxels, numbered along x first. A block takes `turns` of them that
// follow each other along the first axis, which spreads what a thread computes once.
template <int D, typename Index, int turns>
class Boxes {
 public:
  explicit Boxes(const Tensor& field) {
    std::int64_t boxes[D];
    for (int axis = 0; axis < D; ++axis) {
      const std::int64_t size = field.shape[2 + axis];
      const std::int64_t side = axis == D - 1 ? kBoxLength
                                : axis == 0   ? turn_length<D> * turns
                                              : box_rows<D>;
      size_[axis] = static_cast<Index>(size);
      boxes[axis] = (size + side - 1) / side;
      blocks_ *= boxes[axis];
      voxels_ *= size;
    }
    along_x_ = Divisor<Index>(boxes[D - 1]);
    along_y_ = Divisor<Index>(boxes[D - 2]);
    boxes_x_ = static_cast<Index>(boxes[D - 1]);
    boxes_y_ = static_cast<Index>(boxes[D - 2]);
  }

  // Blocks along x, samples along y, directions along z.
  dim3 launch_grid(std::int64_t samples, int directions) const {
    return dim3(static_cast<unsigned>(blocks_),
                static_cast<unsigned>(std::min(samples, kLargestGridYZ)),
                static_cast<unsigned>(directions));
  }

  // The voxel of this thread in its first turn.
  __device__ __forceinline__ void first_position(Index (&position)[D]) const {
    const Index box = static_cast<Index>(blockIdx.x);
    const Index thread = static_cast<Index>(threadIdx.x);
    const Index row = along_x_.divide(box);
    position[D - 1] = (box - row * boxes_x_) * kBoxLength + thread % kBoxLength;
    const Index thread_row = thread / kBoxLength;
    if constexpr (D == 2) {
      position[0] = row * (turn_length<D> * turns) + thread_row;
    } else {
      const Index plane = along_y_.divide(row);
      position[1] = (row - plane * boxes_y_) * box_rows<D> + thread_row % box_rows<D>;
      position[0] = plane * (turn_length<D> * turns) + thread_row / box_rows<D>;
    }
  }

  __device__ __forceinline__ bool holds(const Index (&position)[D]) const {
    bool all = true;
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      all = all && position[axis] < size_[axis];
    }
    return all;
  }

  // The offset of a voxel in a contiguous channel, and the voxels of one.
  __device__ __forceinline__ Index offset(const Index (&position)[D]) const {
    Index sum = position[0];
#pragma unroll
    for (int axis = 1; axis < D; ++axis) {
      sum = sum * size_[axis] + position[axis];
    }
    return sum;
  }
  __device__ __forceinline__ std::int64_t voxels() const { return voxels_; }

 private:
  Index size_[D];
  Index boxes_x_ = 1;
  Index boxes_y_ = 1;
  Divisor<Index> along_x_, along_y_;
  std::int64_t blocks_ = 1;
  std::int64_t voxels_ = 1;
};

// A field that is sampled between its voxels. Its rows are contiguous: two corners of a cell in one
// row share an address.
template <int D, typename Index>
struct FieldShape {
  std::int64_t sample_stride = 0;
  std::int64_t channel_stride = 0;
  Index stride[D] = {};
  Index size[D] = {};

  FieldShape() = default;
  explicit FieldShape(const Tensor& field)
      : sample_stride(field.strides[0]), channel_stride(field.strides[1]) {
    for (int axis = 0; axis < D; ++axis) {
      stride[axis] = static_cast<Index>(field.strides[2 + axis]);
      size[axis] = static_cast<Index>(field.shape[2 + axis]);
    }
  }

  __device__ __forceinline__ Index offset(const Index (&position)[D]) const {
    Index sum = 0;
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      sum += position[axis] * stride[axis];
    }
    return sum;
  }
};

// The components of one sample of a field. Their addresses stay in registers: left to itself, the
// compiler adds them up again, in 64 bits, for every corner.
template <int D, typename Stored>
struct Components {
  const Stored* channel[D];

  __device__ __forceinline__ Components(const Stored* sample, std::int64_t channel_stride) {
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      channel[axis] = sample + axis * channel_stride;
#if defined(__CUDA_ARCH__)
      asm("" : "+l"(channel[axis]));
#endif
    }
  }
};

// All components of a sample at a voxel.
template <int D, typename Stored, typename Index, typename T>
__device__ __forceinline__ void read_sample(const Stored* field, const FieldShape<D, Index>& shape,
                                            std::int64_t n, const Index (&position)[D],
                                            T (&values)[D]) {
  const Stored* sample = field + n * shape.sample_stride + shape.offset(position);
#pragma unroll
  for (int axis = 0; axis < D; ++axis) {
    values[axis] = read_only(sample + axis * shape.channel_stride);
  }
}

// The cell around position + scale * displacement, and the offset of its first corner, which may
// lie outside.
template <Padding padding, int D, typename T, typename Index>
struct FieldCell : Cell<D, T, Index> {
  Index first = 0;

  __device__ __forceinline__ FieldCell(const Index (&position)[D], T scale,
                                       const T (&displacement)[D],
                                       const FieldShape<D, Index>& field) {
    T location[D];
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      location[axis] = static_cast<T>(position[axis]) + scale * displacement[axis];
    }
    this->template find<padding>(location, field.size);
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      // Only zeros come from before the first voxel.
      const bool is_before = padding == Padding::zeros && !this->lower_inside[axis];
      const Index stride = axis == D - 1 ? 1 : field.stride[axis];
      first += (is_before ? Index(-1) : this->index_lower[axis]) * stride;
    }
  }

  // Whether a corner is to be read. Where the padding keeps locations inside, the lower neighbours
  // always exist: of a NaN location the weights are NaN, whatever is read.
  __device__ __forceinline__ bool is_readable(int corner) const {
    bool all = true;
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      const bool is_upper = (corner >> (D - 1 - axis)) & 1;
      all = all && (is_upper ? this->upper_inside[axis]
                             : padding != Padding::zeros || this->lower_inside[axis]);
    }
    return all;
  }

  // One component at the corners; zero where they are not inside.
  template <typename Stored>
  __device__ __forceinline__ void read(const Stored* channel, const FieldShape<D, Index>& field,
                                       T (&corner)[corner_count<D>]) const {
#pragma unroll
    for (int k = 0; k < corner_count<D>; k += 2) {
      Index row = first;
#pragma unroll
      for (int axis = 0; axis < D - 1; ++axis) {
        row += (k >> (D - 1 - axis)) & 1 ? field.stride[axis] : 0;
      }
      const Stored* address = channel + row;
      corner[k] = is_readable(k) ? read_only(address) : T(0);
      corner[k + 1] = is_readable(k + 1) ? read_only(address + 1) : T(0);
    }
  }

  // All components of a sample at the location.
  template <typename Stored>
  __device__ __forceinline__ void sample(const Components<D, Stored>& source,
                                         const FieldShape<D, Index>& field, T (&values)[D]) const {
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      T corner[corner_count<D>];
      read(source.channel[axis], field, corner);
      values[axis] = interpolate<D, T>(this->lower, this->upper, corner);
    }
  }
};

// The largest number that a kernel over the grid of `field` computes within a channel: an offset in
// one of the tensors, or a position in a box that stands out of the grid.
inline std::int64_t largest_offset(const Tensor& field, std::initializer_list<Tensor> tensors) {
  std::int64_t voxels = 1;
  std::int64_t largest = 0;
  for (int axis = 2; axis < field.ndim; ++axis) {
    voxels *= field.shape[axis];
    largest = std::max<std::int64_t>(largest, field.shape[axis] + kThreads);
  }
  largest = std::max(largest, voxels);
  for (const Tensor& tensor : tensors) {
    largest = std::max(largest, channel_reach(tensor));
  }
  return largest;
}

}  // namespace plasticine::cuda
