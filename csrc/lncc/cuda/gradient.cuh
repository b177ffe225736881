// The gradients of local normalised cross-correlation, from what the windows have left.
#pragma once

#include "lncc/cuda/windows.cuh"

namespace plasticine::cuda {

// The gradient of one image, from the sums of three terms over the windows that hold a voxel.
template <typename I>
__global__ void __launch_bounds__(kLnccThreads, I::kResident)
    lncc_gradient_kernel(const __grid_constant__ LnccImages<typename I::Stored> images,
                         const __grid_constant__ LnccFrame<typename I::T> frame,
                         const LnccSums* __restrict__ scales,
                         const typename I::T* __restrict__ by_cross,
                         const typename I::T* __restrict__ by_own,
                         const typename I::T* __restrict__ rest, bool is_x,
                         typename I::Stored* __restrict__ out) {
  using T = typename I::T;
  struct Sums {
    T cross;
    T own;
    T rest;
  };
  __shared__ Sums held[I::kVolume ? I::kHeldRows * I::kColumns : 1];
  const int radius = frame.radius;
  const int window = 2 * radius + 1;
  using Whole = std::integral_constant<int, I::kWindow>;
  const auto add = [&](auto unrolled, const auto& get) {
    Sums sum = {};
    constexpr int kUnrolled = lncc_unrolled(I::kWindow, decltype(unrolled)::value);
#pragma unroll kUnrolled
    for (int j = 0; j < I::kWindow; ++j) {
      if (j < window) {
        const Sums part = get(j);
        sum.cross += frame.taps[j] * part.cross;
        sum.own += frame.taps[j] * part.own;
        sum.rest += frame.taps[j] * part.rest;
      }
    }
    return sum;
  };
  for (std::int64_t n = blockIdx.y; n < frame.samples; n += gridDim.y) {
    const T scale = static_cast<T>(scales[n * kLnccBlocks].value);
    for (std::int64_t tile = blockIdx.x; tile < frame.tiles(); tile += gridDim.x) {
      const LnccPlace place = LnccPlace::of(I{}, frame, n, tile);
      const T shift_own = images.shift(place, frame.channels, is_x ? 0 : 1);
      const T shift_other = images.shift(place, frame.channels, is_x ? 1 : 0);
      const auto& own_image = is_x ? images.x : images.y;
      const auto& other_image = is_x ? images.y : images.x;
      const auto along = [&](std::int64_t plane, std::int64_t row, std::int64_t column) {
        const std::int64_t channel = place.sample * frame.channels + place.channel;
        const std::int64_t first =
            ((channel * frame.planes + plane) * frame.rows + row) * frame.columns;
        return add(std::integral_constant<int, kLnccAlong>{}, [&](int j) {
          const std::int64_t at = column + j - radius;
          return at < 0 || at >= frame.columns
                     ? Sums{}
                     : Sums{read(by_cross + first + at), read(by_own + first + at),
                            read(rest + first + at)};
        });
      };
      Sums ring[I::kWindow];
      constexpr int kUnrolled = lncc_unrolled(I::kWindow, I::kWindow);
#pragma unroll kUnrolled
      for (int j = 0; j < I::kWindow; ++j) {
        ring[j] = Sums{};
      }
      int oldest = 0;
      for (std::int64_t plane = place.first_plane - radius; plane < place.end_plane + radius;
           ++plane) {
        Sums found = {};
        if (plane >= 0 && plane < frame.planes) {
          if constexpr (I::kVolume) {
            __syncthreads();
            for (int i = threadIdx.x; i < (I::kRows + 2 * radius) * I::kColumns;
                 i += kLnccThreads) {
              const std::int64_t row = place.first_row - radius + i / I::kColumns;
              const std::int64_t column = place.first_column + i % I::kColumns;
              held[i] = row >= 0 && row < frame.rows && column < frame.columns
                            ? along(plane, row, column)
                            : Sums{};
            }
            __syncthreads();
            found = add(Whole{}, [&](int j) {
              return held[static_cast<int>(threadIdx.x) + j * I::kColumns];
            });
          } else if (place.inside) {
            found = along(plane, 0, place.column);
          }
        }
        if constexpr (I::kRadius == kLnccSmallRadius) {
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
        const std::int64_t at = plane - radius;
        if (at >= place.first_plane && place.inside) {
          const Sums sum = add(Whole{}, [&](int j) {
            if constexpr (I::kRadius == kLnccSmallRadius) {
              return ring[j];
            } else {
              return ring[oldest + j < window ? oldest + j : oldest + j - window];
            }
          });
          const T weight = images.mask.data == nullptr
                               ? T(1)
                               : read(images.mask.row(place, at, place.row) +
                                      place.column * images.mask.strides[4]);
          T result = T(0);
          if (weight != T(0)) {
            const T own =
                read(own_image.row(place, at, place.row) + place.column * own_image.strides[4]) -
                shift_own;
            const T other = read(other_image.row(place, at, place.row) +
                                 place.column * other_image.strides[4]) -
                            shift_other;
            result = scale * weight * (sum.cross * other + sum.own * own - sum.rest);
          }
          const std::int64_t voxel =
              voxel_of(place, frame.channels, frame.planes, frame.rows, frame.columns, at);
          out[voxel] = store<typename I::Stored>(result);
        }
      }
    }
  }
}

}  // namespace plasticine::cuda
