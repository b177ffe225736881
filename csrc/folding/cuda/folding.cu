// The folding statistics on the GPU: each block adds up its share of a sample, one more kernel what
// the blocks have found, both in a fixed order. The Jacobian is not written anywhere.
//
// Scheme and region are known at run time only: the arithmetic of the cells outweighs them.

#include "folding/cuda/folding.h"
#include "folding/math/folding.h"
#include "jacobian/cuda/stencil.cuh"

namespace plasticine::cuda {
namespace {

constexpr int kFoldingThreads = 128;
// A thread goes along axis 0 and keeps the planes around it in registers.
constexpr int kPlanes = 16;

// Statistics of a set of voxels and cells. `squares` is the sum of squared distances of the logs
// from their mean: sets are merged without losing what their means have in common.
struct Record {
  double voxels, folds, nan, minimum, maximum, mean, squares, volume;
};

__device__ __forceinline__ Record empty_record() {
  const double infinity = std::numeric_limits<double>::infinity();
  return {0.0, 0.0, 0.0, infinity, -infinity, 0.0, 0.0, 0.0};
}

// Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American
// Statistician 37(3), 1983.
__device__ __forceinline__ Record merge(const Record& a, const Record& b) {
  Record both;
  both.voxels = a.voxels + b.voxels;
  both.folds = a.folds + b.folds;
  both.nan = a.nan + b.nan;
  both.minimum = b.minimum < a.minimum ? b.minimum : a.minimum;
  both.maximum = b.maximum > a.maximum ? b.maximum : a.maximum;
  both.volume = a.volume + b.volume;
  const double share = b.voxels > 0.0 ? b.voxels / both.voxels : 0.0;
  const double apart = b.mean - a.mean;
  both.mean = share < 1.0 ? a.mean + apart * share : b.mean;
  both.squares = a.squares + b.squares + (share < 1.0 ? apart * apart * share * a.voxels : 0.0);
  return both;
}

// What a thread adds up; in the type of the Jacobian, for it meets few voxels.
template <typename T>
struct ThreadSums {
  int voxels = 0;
  int folds = 0;
  int nan = 0;
  T minimum = std::numeric_limits<T>::infinity();
  T maximum = -std::numeric_limits<T>::infinity();
  T shift = T(0);  // the first log, less which the others are summed
  T logs = T(0);
  T squares = T(0);
  T volume = T(0);

  __device__ __forceinline__ void add_jacobian(T jacobian) {
    const T logarithm = clipped_log(jacobian);
    shift = voxels == 0 && isfinite(logarithm) ? logarithm : shift;
    const T distance = logarithm - shift;
    ++voxels;
    folds += jacobian > T(0) ? 0 : 1;  // NaN is no sign of a map without folds
    nan += jacobian == jacobian ? 0 : 1;
    minimum = jacobian < minimum ? jacobian : minimum;
    maximum = jacobian > maximum ? jacobian : maximum;
    logs += distance;
    squares += distance * distance;
  }

  __device__ __forceinline__ Record record() const {
    Record result = empty_record();
    result.volume = static_cast<double>(volume);
    if (voxels > 0) {
      const double mean = static_cast<double>(logs) / voxels;
      const double about_mean = static_cast<double>(squares) - mean * static_cast<double>(logs);
      result.voxels = voxels;
      result.folds = folds;
      result.nan = nan;
      result.minimum = static_cast<double>(minimum);
      result.maximum = static_cast<double>(maximum);
      result.mean = static_cast<double>(shift) + mean;
      result.squares = about_mean < 0.0 ? 0.0 : about_mean;
    }
    return result;
  }
};

// The voxels that count.
template <int D, typename Index>
struct Region {
  Index first[D];
  Index end[D];

  Region(const Tensor& field, bool interior) {
    for (int axis = 0; axis < D; ++axis) {
      const Index size = static_cast<Index>(field.shape[2 + axis]);
      const Index layer = interior && size > 2 ? 1 : 0;
      first[axis] = layer;
      end[axis] = size - layer;
    }
  }

  __device__ __forceinline__ bool has(int axis, Index index) const {
    return index >= first[axis] && index < end[axis];
  }
};

// The values of a plane at the corners of the cell that begins at a voxel; the voxel's own where
// there is no next row or column. In memory order.
template <int D, typename T>
struct PlaneCorners {
  T value[1 << (D - 1)][D];

  template <typename Stored, typename Index>
  __device__ __forceinline__ void read(const Stored* source, std::int64_t channel_stride,
                                       const T (&scale)[D], Index next_row, Index next_column) {
#pragma unroll
    for (int i = 0; i < D; ++i) {
      const Stored* component = source + i * channel_stride;
#pragma unroll
      for (int corner = 0; corner < 1 << (D - 1); ++corner) {
        const Index offset =
            ((corner & 2) != 0 ? next_row : 0) + ((corner & 1) != 0 ? next_column : 0);
        value[corner][i] = scale[i] * load(component[offset]);
      }
    }
  }
};

template <int D, typename Stored, typename Index, typename T>
__device__ __forceinline__ void add_column(const Stored* __restrict__ source,
                                           const FieldLayout<D, T, Index>& layout,
                                           const Columns<D, Index>& columns,
                                           const Region<D, Index>& region, Scheme scheme,
                                           Index item, ThreadSums<T>* sums) {
  const auto [first, end, row, x] = columns.find(item, layout);
  const Index last_x = layout.size[D - 1] - 1;
  const Index last_row = D == 3 ? layout.size[1] - 1 : 0;
  const Index last_plane = layout.size[0] - 1;
  const Index row_stride = D == 3 ? layout.stride[1] : 0;
  const Index before_column = x > 0 ? -layout.stride[D - 1] : 0;
  const Index next_column = x < last_x ? layout.stride[D - 1] : 0;
  const Index before_row = row > 0 ? -row_stride : 0;
  const Index next_row = row < last_row ? row_stride : 0;
  const bool counted = region.has(D - 1, x) && (D == 2 || region.has(1, row));
  const bool has_cell = x < last_x && (D == 2 || row < last_row);

  source += row * row_stride + x * layout.stride[D - 1];
  T before[D];
  PlaneCorners<D, T> here;
  here.read(source + first * layout.stride[0], layout.channel_stride, layout.scale, next_row,
            next_column);
  for (int i = 0; i < D; ++i) {
    const Index at = (first > 0 ? first - 1 : 0) * layout.stride[0];
    before[i] = layout.scale[i] * load(source[i * layout.channel_stride + at]);
  }
#pragma unroll 1
  for (Index plane = first; plane < end; ++plane) {
    const Stored* centre = source + plane * layout.stride[0];
    PlaneCorners<D, T> after;
    after.read(centre + (plane < last_plane ? layout.stride[0] : 0), layout.channel_stride,
               layout.scale, next_row, next_column);
    T gradient[D][D];
#pragma unroll
    for (int i = 0; i < D; ++i) {
      const Stored* component = centre + i * layout.channel_stride;
      const T value = here.value[0][i];
      gradient[i][0] = difference_of<Differences::any>(scheme, plane, last_plane, before[i], value,
                                                       after.value[0][i]);
      if constexpr (D == 3) {
        const T above = layout.scale[i] * load(component[before_row]);
        gradient[i][1] =
            difference_of<Differences::any>(scheme, row, last_row, above, value, here.value[2][i]);
      }
      const T left = layout.scale[i] * load(component[before_column]);
      gradient[i][D - 1] =
          difference_of<Differences::any>(scheme, x, last_x, left, value, here.value[1][i]);
      before[i] = value;
    }
    if (counted && region.has(0, plane)) {
      sums->add_jacobian(jacobian_of<D>(gradient));
    }
    if (has_cell && plane < last_plane) {
      T corners[1 << D][D];
#pragma unroll
      for (int corner = 0; corner < 1 << (D - 1); ++corner) {
        for (int i = 0; i < D; ++i) {
          corners[corner][i] = here.value[corner][i];
          corners[corner + (1 << (D - 1))][i] = after.value[corner][i];
        }
      }
      sums->volume += cell_non_diffeomorphic_volume(corners);
    }
    here = after;
  }
}

template <typename I>
__global__ void __launch_bounds__(kFoldingThreads, 3) folding_kernel(
    const typename I::Field* __restrict__ field,
    const __grid_constant__ FieldLayout<I::D, typename I::T, typename I::Index> layout,
    const __grid_constant__ Columns<I::D, typename I::Index> columns,
    const __grid_constant__ Region<I::D, typename I::Index> region, Scheme scheme,
    Record* __restrict__ partial) {
  using Index = typename I::Index;
  for (std::int64_t n = blockIdx.y; n < layout.samples; n += gridDim.y) {
    ThreadSums<typename I::T> sums;
    const Index step = static_cast<Index>(gridDim.x) * kFoldingThreads;
    for (Index item =
             static_cast<Index>(blockIdx.x) * kFoldingThreads + static_cast<Index>(threadIdx.x);
         item < columns.items; item += step) {
      add_column(field + n * layout.sample_stride, layout, columns, region, scheme, item, &sums);
    }
    const Record total = merge_block<kFoldingThreads>(sums.record(), merge);
    if (threadIdx.x == 0) {
      partial[n * gridDim.x + blockIdx.x] = total;
    }
  }
}

// One block a sample.
__global__ void __launch_bounds__(kFoldingThreads)
    folding_finish_kernel(const Record* __restrict__ partial, int blocks,
                          double* __restrict__ statistics) {
  const std::int64_t n = blockIdx.x;
  Record mine = empty_record();
  for (int block = threadIdx.x; block < blocks; block += kFoldingThreads) {
    mine = merge(mine, partial[n * blocks + block]);
  }
  const Record total = merge_block<kFoldingThreads>(mine, merge);
  if (threadIdx.x == 0) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const bool defined = total.voxels > 0.0 && total.nan == 0.0;
    double* target = statistics + 6 * n;
    target[0] = total.folds;
    target[1] = total.voxels;
    target[2] = defined ? total.minimum : nan;
    target[3] = defined ? total.maximum : nan;
    target[4] = defined ? sqrt(total.squares / total.voxels) : nan;
    target[5] = total.volume;
  }
}

}  // namespace

void folding(const Tensor& displacement, const Tensor& partial, const Tensor& statistics,
             Scheme scheme, bool interior, const std::vector<double>& spacing, int device,
             std::uintptr_t stream) {
  if (element_count(statistics) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  const int blocks = static_cast<int>(partial.shape[1]);
  Record* records = static_cast<Record*>(partial.data);
  dispatch_field(displacement, field_reach(displacement), [&](auto instance) {
    using I = decltype(instance);
    const FieldLayout<I::D, typename I::T, typename I::Index> layout(displacement, spacing);
    const Columns<I::D, typename I::Index> columns(displacement, 1, kPlanes);
    const Region<I::D, typename I::Index> region(displacement, interior);
    launch("folding", folding_kernel<I>,
           dim3(static_cast<unsigned>(blocks), grid_extent(displacement.shape[0])), kFoldingThreads,
           stream, displacement.as<const typename I::Field>(), layout, columns, region, scheme,
           records);
  });
  launch("folding_finish", folding_finish_kernel, dim3(static_cast<unsigned>(statistics.shape[0])),
         kFoldingThreads, stream, static_cast<const Record*>(records), blocks,
         statistics.as<double>());
}

}  // namespace plasticine::cuda
