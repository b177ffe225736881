// What every kernel that samples a displacement field shares: all components of a field at a voxel
// and at a location. The cells of a row of voxels lie in four rows of the field in 3D; in a block's
// box, rows next to each other share them.
#pragma once

#include <initializer_list>

#include "compose/cuda/compose.h"
#include "warp/cuda/cell.cuh"

namespace plasticine::cuda {

// The components of one sample of a field.
template <int D, typename Stored>
struct Components {
  const Stored* channel[D];

  __device__ __forceinline__ Components(const Stored* sample, std::int64_t channel_stride) {
    for (int axis = 0; axis < D; ++axis) {
      channel[axis] = settled(sample + axis * channel_stride);
    }
  }
};

// All components of a sample at a voxel.
template <int D, typename Stored, typename Index, typename T>
__device__ __forceinline__ void read_sample(const Stored* field, const Layout<D, Index>& layout,
                                            std::int64_t n, const Index (&position)[D],
                                            T (&values)[D]) {
  const Stored* sample = field + n * layout.sample_stride + layout.offset(position);
  for (int axis = 0; axis < D; ++axis) {
    values[axis] = read(sample + axis * layout.channel_stride);
  }
}

// The cell around position + scale * displacement, and the offset of its first corner, which may
// lie outside. The field's rows are contiguous: two corners in one row share an address.
template <typename I>
struct FieldCell : Cell<I::D, typename I::T, typename I::Index> {
  static constexpr int D = I::D;
  using T = typename I::T;
  using Index = typename I::Index;

  Index first = 0;

  __device__ __forceinline__ FieldCell(const Index (&position)[D], T scale,
                                       const T (&displacement)[D], const Layout<D, Index>& field,
                                       Padding at_run_time) {
    T location[D];
    for (int axis = 0; axis < D; ++axis) {
      location[axis] = static_cast<T>(position[axis]) + scale * displacement[axis];
    }
    this->template find<I::padding>(location, field.size, at_run_time);
    for (int axis = 0; axis < D; ++axis) {
      first += this->index[axis] * (axis == D - 1 ? 1 : field.stride[axis]);
    }
  }

  // One component at the corners; zero where they are not inside.
  template <typename Stored>
  __device__ __forceinline__ void read_component(const Stored* channel,
                                                 const Layout<D, Index>& field,
                                                 T (&corner)[corner_count<D>]) const {
#pragma unroll
    for (int k = 0; k < corner_count<D>; k += 2) {
      Index row = first;
#pragma unroll
      for (int axis = 0; axis < D - 1; ++axis) {
        row += (k >> (D - 1 - axis)) & 1 ? field.stride[axis] : 0;
      }
      const Stored* address = channel + row;
      corner[k] = this->inside(k) ? read(address) : T(0);
      corner[k + 1] = this->inside(k + 1) ? read(address + 1) : T(0);
    }
  }

  // All components of a sample at the location.
  template <typename Stored>
  __device__ __forceinline__ void sample(const Components<D, Stored>& source,
                                         const Layout<D, Index>& field, T (&values)[D]) const {
#pragma unroll
    for (int axis = 0; axis < D; ++axis) {
      T corner[corner_count<D>];
      read_component(source.channel[axis], field, corner);
      values[axis] = interpolate<D, T>(this->lower, this->upper, corner);
    }
  }
};

// One composition, or two that differ in their addresses and factors alone: `which` is 0 or 1.
template <typename I>
struct CompositionArguments {
  static constexpr int D = I::D;
  using Stored = typename I::Field;
  using Index = typename I::Index;
  using T = typename I::T;

  const Stored* field[2] = {};
  const Stored* displacement[2] = {};
  Stored* out[2] = {};
  T scale[2] = {};
  T location_scale[2] = {};
  bool add;
  Padding padding;  // where the kernel does not know it
  Layout<D, Index> field_layout;
  Layout<D, Index> layout;  // of the displacement
  Boxes<D, Index> boxes;
  std::int64_t voxels;
  std::int64_t samples;

  CompositionArguments(const std::vector<Composition>& compositions, Padding padding_of_call,
                       int most_turns)
      : add(compositions[0].add),
        padding(padding_of_call),
        field_layout(compositions[0].field),
        layout(compositions[0].displacement),
        boxes(compositions[0].displacement, most_turns),
        voxels(voxel_count(compositions[0].displacement)),
        samples(compositions[0].displacement.shape[0]) {
    for (std::size_t which = 0; which < compositions.size(); ++which) {
      const Composition& composition = compositions[which];
      field[which] = composition.field.as<const Stored>();
      displacement[which] = composition.displacement.as<const Stored>();
      out[which] = composition.out.as<Stored>();
      scale[which] = static_cast<T>(composition.scale);
      location_scale[which] = static_cast<T>(composition.location_scale);
    }
  }

  __device__ __forceinline__ Components<D, Stored> components(unsigned which,
                                                              std::int64_t n) const {
    return {field[which] + n * field_layout.sample_stride, field_layout.channel_stride};
  }

  __device__ __forceinline__ void read_displacement(unsigned which, std::int64_t n,
                                                    const Index (&position)[D],
                                                    T (&values)[D]) const {
    read_sample(displacement[which], layout, n, position, values);
  }

  __device__ __forceinline__ FieldCell<I> cell(const Index (&position)[D], T distance,
                                               const T (&direction)[D]) const {
    return {position, distance, direction, field_layout, padding};
  }

  // The composition at a voxel, but for its scale.
  __device__ __forceinline__ void compose(const Components<D, Stored>& source, unsigned which,
                                          std::int64_t n, const Index (&position)[D],
                                          T (&values)[D]) const {
    T own[D];
    read_displacement(which, n, position, own);
    cell(position, location_scale[which], own).sample(source, field_layout, values);
    for (int axis = 0; axis < D; ++axis) {
      values[axis] = add ? values[axis] + own[axis] : values[axis];
    }
  }
};

// The largest number that a kernel over the grid of `field` computes within a channel: an offset in
// one of the tensors, or a position in a box that stands out of the grid.
inline std::int64_t largest_offset(const Tensor& field, std::initializer_list<Tensor> tensors) {
  std::int64_t largest = std::max(voxel_count(field), channel_reach(field));
  for (int axis = 2; axis < field.ndim; ++axis) {
    largest = std::max<std::int64_t>(largest, field.shape[axis] + kThreads);
  }
  for (const Tensor& tensor : tensors) {
    largest = std::max(largest, channel_reach(tensor));
  }
  return largest;
}

}  // namespace plasticine::cuda
