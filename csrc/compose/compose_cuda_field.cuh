// What every kernel that samples a displacement field shares: all components of a field at a voxel
// and at a location. The cells of a row of voxels lie in four rows of the field in 3D; in a block's
// box, rows next to each other share them.
#pragma once

#include <initializer_list>

#include "warp/warp_cuda_location.cuh"

namespace plasticine::cuda {

// One block per box along x, samples along y, directions along z.
template <int D, typename Index>
dim3 box_grid(const Boxes<D, Index>& boxes, std::int64_t samples, int directions) {
  return dim3(static_cast<unsigned>(boxes.count()), grid_extent(samples),
              static_cast<unsigned>(directions));
}

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

// The components of one sample of a field.
template <int D, typename Stored>
struct Components {
  const Stored* channel[D];

  __device__ __forceinline__ Components(const Stored* sample, std::int64_t channel_stride) {
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      channel[axis] = settled(sample + axis * channel_stride);
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
    values[axis] = plasticine::cuda::read(sample + axis * shape.channel_stride);
  }
}

// The cell around position + scale * displacement, and the offset of its first corner, which may
// lie outside.
template <Padding padding, int D, typename T, typename Index>
struct FieldCell : Cell<D, T, Index> {
  Index first = 0;

  __device__ __forceinline__ FieldCell(const Index (&position)[D], T scale,
                                       const T (&displacement)[D],
                                       const FieldShape<D, Index>& field,
                                       Padding at_run_time = padding) {
    T location[D];
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      location[axis] = static_cast<T>(position[axis]) + scale * displacement[axis];
    }
    this->template find<padding>(location, field.size, at_run_time);
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      first += this->index[axis] * (axis == D - 1 ? 1 : field.stride[axis]);
    }
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
      corner[k] = this->inside(k) ? plasticine::cuda::read(address) : T(0);
      corner[k + 1] = this->inside(k + 1) ? plasticine::cuda::read(address + 1) : T(0);
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
  std::int64_t largest = voxel_count(field);
  for (int axis = 2; axis < field.ndim; ++axis) {
    largest = std::max<std::int64_t>(largest, field.shape[axis] + kThreads);
  }
  for (const Tensor& tensor : tensors) {
    largest = std::max(largest, channel_reach(tensor));
  }
  return largest;
}

}  // namespace plasticine::cuda
