// A block's march through a tile of planes, one thread for each voxel of a plane: windows along the
// rows and across them meet in shared memory, those across planes in each thread's own ring.
#pragma once

#include "core/cuda/grid.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/memory.cuh"
#include "lncc/lncc.h"
#include "lncc/math/lncc.h"

namespace plasticine::cuda {

constexpr int kLnccThreads = 256;
// The rings of small windows lie in registers.
constexpr int kLnccSmallRadius = 4;
constexpr int kLnccLargeRadius = 20;
// How far a loop over a window is unrolled: in full where the ring has to stay in registers; along
// a row, whose addresses take registers, only in part.
constexpr int kLnccAlong = 3;
constexpr int lncc_unrolled(int most, int wanted) {
  return most <= 2 * kLnccSmallRadius + 1 ? wanted : 1;
}

// What one kernel is compiled for.
template <typename StoredType, bool is_volume, int most_radius>
struct LnccInstance {
  using Stored = StoredType;
  using T = accumulator_t<StoredType>;
  static constexpr bool kVolume = is_volume;
  static constexpr int kRadius = most_radius;
  static constexpr int kWindow = 2 * most_radius + 1;
  static constexpr int kColumns = !is_volume ? kLnccThreads : sizeof(T) == 8 ? 16 : 32;
  static constexpr int kRows = kLnccThreads / kColumns;
  // Blocks; of sm_100 the compiler would spill what it keeps in registers for one.
  static constexpr int kResident = sizeof(T) == 4 && kArchitecture < 100 ? 2 : 1;
  static constexpr int kHeldRows = is_volume ? kRows + 2 * most_radius : 1;
};

// The tiles of all channels of a sample, and the windows.
template <typename T>
struct LnccFrame {
  std::int64_t channels;
  std::int64_t planes;
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t tiles_x;
  std::int64_t tiles_y;
  std::int64_t tiles_z;
  std::int64_t samples;
  int depth;  // planes of a tile
  int radius;
  bool counts_zeros;
  T total;  // of the taps
  T taps[2 * kLnccLargeRadius + 1];

  LnccFrame(const LnccShape& shape, const LnccOptions& options, int tile_columns, int tile_rows)
      : channels(shape.channels),
        planes(shape.planes),
        rows(shape.rows),
        columns(shape.columns),
        tiles_x(divide_up(shape.columns, tile_columns)),
        tiles_y(divide_up(shape.rows, tile_rows)),
        samples(shape.samples),
        depth(64),
        radius(options.window / 2),
        counts_zeros(options.border == LnccBorder::zeros),
        total(0) {
    const std::int64_t across = samples * channels * tiles_x * tiles_y;
    // Many enough to fill the GPU; a tile's halo is gone through again.
    while (depth > 8 && across * divide_up(planes, depth) < 4 * multiprocessors()) {
      depth /= 2;
    }
    tiles_z = divide_up(planes, depth);
    int i = 0;
    for (const double tap : lncc_taps(options)) {
      taps[i] = static_cast<T>(tap);
      total += taps[i++];
    }
  }

  PLASTICINE_HOST_DEVICE std::int64_t tiles() const {
    return channels * tiles_z * tiles_y * tiles_x;
  }
  // Blocks along x, samples along y.
  dim3 grid() const {
    return dim3(static_cast<unsigned>(std::min<std::int64_t>(tiles(), kLnccBlocks)),
                grid_extent(samples));
  }
};

// Where a thread is.
struct LnccPlace {
  std::int64_t sample;
  std::int64_t channel;
  std::int64_t first_plane;
  std::int64_t end_plane;
  std::int64_t first_row;  // of the block
  std::int64_t first_column;
  std::int64_t row;
  std::int64_t column;
  bool inside;

  template <typename I>
  __device__ static LnccPlace of(const I&, const LnccFrame<typename I::T>& frame,
                                 std::int64_t sample, std::int64_t tile) {
    LnccPlace place;
    place.sample = sample;
    place.first_column = tile % frame.tiles_x * I::kColumns;
    tile /= frame.tiles_x;
    place.first_row = tile % frame.tiles_y * I::kRows;
    tile /= frame.tiles_y;
    place.first_plane = tile % frame.tiles_z * frame.depth;
    place.channel = tile / frame.tiles_z;
    const std::int64_t end = place.first_plane + frame.depth;
    place.end_plane = end < frame.planes ? end : frame.planes;
    place.row = place.first_row + static_cast<int>(threadIdx.x) / I::kColumns;
    place.column = place.first_column + static_cast<int>(threadIdx.x) % I::kColumns;
    place.inside = place.row < frame.rows && place.column < frame.columns;
    return place;
  }
};

// A tensor (N, C, *spatial) in planes, rows and columns.
template <typename Stored>
struct LnccTensor {
  const Stored* data;
  std::int64_t strides[5];

  explicit LnccTensor(const Tensor& tensor, bool shared_by_channels = false)
      : data(tensor.as<const Stored>()) {
    const bool volume = tensor.ndim == 5;
    strides[0] = tensor.strides[0];
    strides[1] = shared_by_channels ? 0 : tensor.strides[1];
    strides[2] = tensor.strides[2];
    strides[3] = volume ? tensor.strides[3] : 0;
    strides[4] = tensor.strides[volume ? 4 : 3];
  }

  __device__ __forceinline__ const Stored* row(const LnccPlace& place, std::int64_t plane,
                                               std::int64_t row) const {
    return data + place.sample * strides[0] + place.channel * strides[1] + plane * strides[2] +
           row * strides[3];
  }
};

// Both images and the mask, less the shifts; data of the mask may be null.
template <typename Stored>
struct LnccImages {
  using T = accumulator_t<Stored>;

  LnccTensor<Stored> x;
  LnccTensor<Stored> y;
  LnccTensor<T> mask;
  const double* shifts;  // of x, y for each channel

  LnccImages(const Tensor& of_x, const Tensor& of_y, const Tensor& of_mask, const double* found)
      : x(of_x), y(of_y), mask(of_mask ? of_mask : of_x, true), shifts(found) {
    if (!of_mask) {
      mask.data = nullptr;
    }
  }

  __device__ __forceinline__ T shift(const LnccPlace& place, std::int64_t channels,
                                     int image) const {
    return static_cast<T>(shifts[2 * (place.sample * channels + place.channel) + image]);
  }
};

template <typename T>
__device__ __forceinline__ T inverse_or_zero(T count) {
  return count == T(0) ? T(0) : T(1) / count;
}

// The moments of a window, from those of `size` parts of it: get(j), whose share is its tap.
template <int most, int most_unrolled, typename T, typename Get>
__device__ __forceinline__ LnccMoments<T> merge_window(const T* taps, int size, const Get& get) {
  LnccMoments<T> sum = {};
  constexpr int kUnrolled = lncc_unrolled(most, most_unrolled);
#pragma unroll kUnrolled
  for (int j = 0; j < most; ++j) {
    if (j < size) {
      const LnccMoments<T> part = get(j);
      const T share = taps[j] * part.count;
      sum.count += share;
      sum.mean_x += share * part.mean_x;
      sum.mean_y += share * part.mean_y;
    }
  }
  const T inverse = inverse_or_zero(sum.count);
  sum.mean_x *= inverse;
  sum.mean_y *= inverse;
#pragma unroll kUnrolled
  for (int j = 0; j < most; ++j) {
    if (j < size) {
      const LnccMoments<T> part = get(j);
      const T share = taps[j] * part.count;
      const T of_x = part.mean_x - sum.mean_x;
      const T of_y = part.mean_y - sum.mean_y;
      sum.variance_x += share * (part.variance_x + of_x * of_x);
      sum.variance_y += share * (part.variance_y + of_y * of_y);
      sum.covariance += share * (part.covariance + of_x * of_y);
    }
  }
  sum.variance_x *= inverse;
  sum.variance_y *= inverse;
  sum.covariance *= inverse;
  return sum;
}

// Of the weights, and of as much of the values.
struct LnccSums {
  double weight;
  double value;
};
__device__ __forceinline__ LnccSums add_sums(const LnccSums& a, const LnccSums& b) {
  return {a.weight + b.weight, a.value + b.value};
}

__device__ __forceinline__ std::int64_t voxel_of(const LnccPlace& place, std::int64_t channels,
                                                 std::int64_t planes, std::int64_t rows,
                                                 std::int64_t columns, std::int64_t plane) {
  const std::int64_t channel = place.sample * channels + place.channel;
  return ((channel * planes + plane) * rows + place.row) * columns + place.column;
}

// Calls visit(plane, moments) in every thread for each plane of the tile.
template <typename I, typename Visit>
__device__ __forceinline__ void march_moments(const LnccImages<typename I::Stored>& images,
                                              const LnccFrame<typename I::T>& frame,
                                              const LnccPlace& place, const Visit& visit) {
  using T = typename I::T;
  __shared__ LnccMoments<T> held[I::kVolume ? I::kHeldRows * I::kColumns : 1];
  const int radius = frame.radius;
  const int window = 2 * radius + 1;
  const T shift_x = images.shift(place, frame.channels, 0);
  const T shift_y = images.shift(place, frame.channels, 1);
  // Where there is nothing, or zeros.
  LnccMoments<T> outside = {};
  if (frame.counts_zeros) {
    outside.mean_x = -shift_x;
    outside.mean_y = -shift_y;
    outside.count = T(1);
  }
  // Of the window along a row around a column.
  const auto along = [&](std::int64_t plane, std::int64_t row, std::int64_t column) {
    const auto* const x = images.x.row(place, plane, row);
    const auto* const y = images.y.row(place, plane, row);
    const T* const mask =
        images.mask.data == nullptr ? nullptr : images.mask.row(place, plane, row);
    return merge_window<I::kWindow, kLnccAlong>(frame.taps, window, [&](int j) {
      const std::int64_t at = column + j - radius;
      if (at < 0 || at >= frame.columns) {
        return outside;
      }
      LnccMoments<T> voxel = {};
      voxel.count = mask == nullptr ? T(1) : read(mask + at * images.mask.strides[4]);
      if (voxel.count != T(0)) {
        voxel.mean_x = read(x + at * images.x.strides[4]) - shift_x;
        voxel.mean_y = read(y + at * images.y.strides[4]) - shift_y;
      }
      return voxel;
    });
  };
  LnccMoments<T> outside_plane = outside;
  outside_plane.count *= I::kVolume ? frame.total * frame.total : frame.total;
  LnccMoments<T> ring[I::kWindow];  // the last planes; the newest is the last
  constexpr int kUnrolled = lncc_unrolled(I::kWindow, I::kWindow);
#pragma unroll kUnrolled
  for (int j = 0; j < I::kWindow; ++j) {
    ring[j] = LnccMoments<T>{};
  }
  int oldest = 0;
  for (std::int64_t plane = place.first_plane - radius; plane < place.end_plane + radius; ++plane) {
    LnccMoments<T> found = outside_plane;
    if (plane >= 0 && plane < frame.planes) {
      if constexpr (I::kVolume) {
        __syncthreads();  // the plane before has been read
        for (int i = threadIdx.x; i < (I::kRows + 2 * radius) * I::kColumns; i += kLnccThreads) {
          const std::int64_t row = place.first_row - radius + i / I::kColumns;
          const std::int64_t column = place.first_column + i % I::kColumns;
          LnccMoments<T> of_row = outside;
          of_row.count *= frame.total;
          if (row >= 0 && row < frame.rows && column < frame.columns) {
            of_row = along(plane, row, column);
          }
          held[i] = of_row;
        }
        __syncthreads();
        found = merge_window<I::kWindow, I::kWindow>(frame.taps, window, [&](int j) {
          return held[static_cast<int>(threadIdx.x) + j * I::kColumns];
        });
      } else if (place.inside) {
        found = along(plane, 0, place.column);
      }
    }
    if constexpr (I::kRadius == kLnccSmallRadius) {
      // By moves, so that no place in it is asked for at run time: it stays in registers.
#pragma unroll
      for (int j = 0; j + 1 < I::kWindow; ++j) {
        ring[j] = j + 1 < window ? ring[j + 1] : ring[j];
      }
#pragma unroll
      for (int j = 0; j < I::kWindow; ++j) {
        if (j == window - 1) {
          ring[j] = found;
        }
      }
    } else {
      ring[oldest] = found;
      oldest = oldest + 1 == window ? 0 : oldest + 1;
    }
    if (plane - radius >= place.first_plane && place.inside) {
      visit(plane - radius, merge_window<I::kWindow, I::kWindow>(frame.taps, window, [&](int j) {
              if constexpr (I::kRadius == kLnccSmallRadius) {
                return ring[j];
              } else {
                return ring[oldest + j < window ? oldest + j : oldest + j - window];
              }
            }));
    }
  }
}

}  // namespace plasticine::cuda
