// The passes of a MIND distance over the planes of one image: a thread for every value, no atomics.
#pragma once

#include "core/cuda/grid.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/memory.cuh"
#include "mind_distance/mind_distance.h"

namespace plasticine::cuda {

constexpr int kMindThreads = kThreads;

// Planes [first, last) of an image, for all pairs: pair, plane, y, x.
struct MindPlanes {
  std::int64_t first;
  std::int64_t last;

  PLASTICINE_INLINE std::int64_t count() const { return last - first; }
};

// What all passes over an image need to know.
template <typename T>
struct MindImage {
  MindPairs pairs;
  int dilation;
  int radius;
  const T* weights;
  std::int64_t size[3];
  std::int64_t stride[3];  // of the image

  __device__ __forceinline__ std::int64_t plane() const { return size[1] * size[2]; }
  __device__ __forceinline__ std::int64_t voxels(const MindPlanes& planes) const {
    return planes.count() * plane();
  }

  // Calls visit(voxel, its number within the planes) for those of this thread: blocks are of 32
  // voxels along x and 8 rows.
  template <typename Visit>
  __device__ __forceinline__ void for_each(const MindPlanes& planes, const Visit& visit) const {
    // Divisions of 64 bits would be calls.
    const std::uint32_t height = static_cast<std::uint32_t>(size[1]);
    const std::uint32_t rows = static_cast<std::uint32_t>(planes.count()) * height;
    std::uint32_t row = blockIdx.y * kBoxRows + threadIdx.x / kBoxLength;
    for (; row < rows; row += gridDim.y * kBoxRows) {
      const std::uint32_t z = row / height;
      const std::uint32_t y = row - z * height;
      std::int64_t x =
          static_cast<std::int64_t>(blockIdx.x) * kBoxLength + threadIdx.x % kBoxLength;
      for (; x < size[2]; x += static_cast<std::int64_t>(gridDim.x) * kBoxLength) {
        const std::int64_t at[3] = {planes.first + z, y, x};
        visit(at, row * size[2] + x);
      }
    }
  }

  __device__ __forceinline__ T weight(int axis, std::int64_t at, std::int64_t from) const {
    return mind_weight(weights, radius, at, from, size[axis]);
  }

  // How much a value counts in the patches of all voxels.
  __device__ __forceinline__ T share(const std::int64_t (&from)[3]) const {
    T product = T(1);
    for (int axis = 0; axis < 3; ++axis) {
      const std::int64_t last = size[axis] - 1;
      if (from[axis] >= radius && from[axis] <= last - radius) {
        continue;
      }
      T sum = T(0);
      const std::int64_t end = from[axis] + radius < last ? from[axis] + radius : last;
      for (std::int64_t at = from[axis] > radius ? from[axis] - radius : 0; at <= end; ++at) {
        sum += weight(axis, at, from[axis]);
      }
      product *= sum;
    }
    return product;
  }

  // Of the point of a pair, with the edge repeated.
  template <typename Stored>
  __device__ __forceinline__ T read_point(const Stored* image, const std::int64_t (&at)[3],
                                          int point) const {
    std::int64_t offset = 0;
    for (int axis = 0; axis < 3; ++axis) {
      std::int64_t place = at[axis] + dilation * pairs.step[point][axis];
      place = place < 0 ? 0 : place;
      place = place > size[axis] - 1 ? size[axis] - 1 : place;
      offset += place * stride[axis];
    }
    return read(image + offset);
  }

  template <typename Stored>
  __device__ __forceinline__ T difference(const Stored* image, const std::int64_t (&at)[3],
                                          int pair) const {
    return read_point(image, at, pairs.first[pair]) - read_point(image, at, pairs.second[pair]);
  }
};

// Of sums: where this block's goes.
__device__ __forceinline__ unsigned mind_block() { return blockIdx.y * gridDim.x + blockIdx.x; }

struct MindSum {
  __device__ __forceinline__ double operator()(double a, double b) const { return a + b; }
};

// The Gaussian of mind_weights.
template <typename T>
__global__ void mind_weights_kernel(int radius, double sigma, double total, T* weights) {
  for (int step = -radius; step <= radius; ++step) {
    weights[step + radius] = static_cast<T>(exp(-0.5 * (step / sigma) * (step / sigma)) / total);
  }
}

// partial[block]: the sum over voxels and pairs of all distances that the differences make.
template <typename Stored, typename T>
__global__ void __launch_bounds__(kMindThreads, 2)
    mind_variance_kernel(const __grid_constant__ MindImage<T> shape,
                         const Stored* __restrict__ image, double* __restrict__ partial) {
  const MindPlanes all{0, shape.size[0]};
  double total = 0;
  shape.for_each(all, [&](const std::int64_t (&at)[3], std::int64_t) {
    T sum = T(0);
    for (int k = 0; k < shape.pairs.count; ++k) {
      const T difference = shape.difference(image, at, k);
      sum += difference * difference;
    }
    total += static_cast<double>(sum * shape.share(at));
  });
  total = merge_block<kMindThreads>(total, MindSum());
  if (threadIdx.x == 0) {
    partial[mind_block()] = total;
  }
}

// out += or = the sum of partial[i * stride], in an order of its own.
template <bool add>
__global__ void __launch_bounds__(kMindThreads, 2)
    mind_sum_kernel(const double* __restrict__ partial, int count, int stride,
                    double* __restrict__ out) {
  double total = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kMindThreads) {
    total += partial[i * stride];
  }
  total = merge_block<kMindThreads>(total, MindSum());
  if (threadIdx.x == 0) {
    *out = add ? *out + total : total;
  }
}

// Squared differences, smoothed along x.
template <typename Stored, typename T>
__global__ void __launch_bounds__(kMindThreads, 2)
    mind_across_kernel(const __grid_constant__ MindImage<T> shape, const MindPlanes planes,
                       const Stored* __restrict__ image, T* __restrict__ out) {
  const int k = static_cast<int>(blockIdx.z);
  T* const target = out + k * shape.voxels(planes);
  shape.for_each(planes, [&](const std::int64_t (&own)[3], std::int64_t index) {
    T sum = T(0);
    for (int step = -shape.radius; step <= shape.radius; ++step) {
      const std::int64_t x = own[2] + step;
      const std::int64_t last = shape.size[2] - 1;
      const std::int64_t at[3] = {own[0], own[1], x < 0 ? 0 : x > last ? last : x};
      const T difference = shape.difference(image, at, k);
      sum += shape.weights[step + shape.radius] * difference * difference;
    }
    target[index] = sum;
  });
}

// Smooths along z and y, from one range of planes to another; or what is smoothed is a gradient.
template <bool adjoint, typename T>
__global__ void __launch_bounds__(kMindThreads, 2)
    mind_smooth_kernel(const __grid_constant__ MindImage<T> shape, const MindPlanes from,
                       const MindPlanes to, const T* __restrict__ in, T* __restrict__ out) {
  const int radius = shape.radius;
  const std::int64_t bottom = shape.size[1] - 1;
  const T* const pair = in + blockIdx.z * shape.voxels(from);
  T* const target = out + blockIdx.z * shape.voxels(to);
  shape.for_each(to, [&](const std::int64_t (&at)[3], std::int64_t index) {
    const std::int64_t first = at[0] - radius > from.first ? at[0] - radius : from.first;
    const std::int64_t last = at[0] + radius < from.last - 1 ? at[0] + radius : from.last - 1;
    const std::int64_t low = at[1] > radius ? at[1] - radius : 0;
    const std::int64_t high = at[1] + radius < bottom ? at[1] + radius : bottom;
    T sum = T(0);
    for (std::int64_t z = first; z <= last; ++z) {
      const T* const values = pair + (z - from.first) * shape.plane() + at[2];
      T line = T(0);
      for (std::int64_t y = low; y <= high; ++y) {
        const T weight = adjoint ? shape.weight(1, y, at[1]) : shape.weight(1, at[1], y);
        line += weight * values[y * shape.size[2]];
      }
      sum += (adjoint ? shape.weight(0, z, at[0]) : shape.weight(0, at[0], z)) * line;
    }
    target[index] = sum;
  });
}

// The distances of the voxels of two images, or the gradients that take their places.
template <typename T>
struct MindVoxel {
  int pairs;
  std::int64_t stride;
  T* of_x;
  T* of_y;
  T floor_x;
  T floor_y;
  MindKind kind;
  T epsilon;

  __device__ __forceinline__ T mean(const T* distances) const {
    T sum = T(0);
    for (int k = 0; k < pairs; ++k) {
      sum += distances[k * stride];
    }
    return sum / static_cast<T>(pairs);
  }
  __device__ __forceinline__ static T at_least(T variance, T floor) {
    return variance > floor ? variance : floor;
  }

  __device__ __forceinline__ T compare(std::int64_t voxel) const {
    const T* const x = of_x + voxel;
    const T* const y = of_y + voxel;
    const T inverse_x = T(1) / at_least(mean(x), floor_x);
    const T inverse_y = T(1) / at_least(mean(y), floor_y);
    T sum = T(0);
    for (int k = 0; k < pairs; ++k) {
      const T difference = exp(-x[k * stride] * inverse_x) - exp(-y[k * stride] * inverse_y);
      const T squared = difference * difference;
      sum += kind == MindKind::squared ? squared : sqrt(squared + epsilon * epsilon);
    }
    return sum;
  }

  // With h the gradient to the difference of two descriptors exp(-D / V), the gradient to D of x is
  // -h exp(-D / V) / V, and that to V is the sum over the pairs of h exp(-D / V) D / V^2.
  __device__ __forceinline__ void differentiate(std::int64_t voxel, T weight,
                                                double (&floors)[2]) const {
    T* const x = of_x + voxel;
    T* const y = of_y + voxel;
    const T mean_x = mean(x);
    const T mean_y = mean(y);
    const T inverse_x = T(1) / at_least(mean_x, floor_x);
    const T inverse_y = T(1) / at_least(mean_y, floor_y);
    T sum_x = T(0);
    T sum_y = T(0);
    for (int k = 0; k < pairs; ++k) {
      const T distance_x = x[k * stride];
      const T distance_y = y[k * stride];
      const T value_x = exp(-distance_x * inverse_x);
      const T value_y = exp(-distance_y * inverse_y);
      const T difference = value_x - value_y;
      const T slope = kind == MindKind::squared
                          ? 2 * difference
                          : difference / sqrt(difference * difference + epsilon * epsilon);
      sum_x += weight * slope * value_x * distance_x;
      sum_y -= weight * slope * value_y * distance_y;
      x[k * stride] = -weight * slope * value_x * inverse_x;
      y[k * stride] = weight * slope * value_y * inverse_y;
    }
    sum_x = sum_x * inverse_x * inverse_x;
    sum_y = sum_y * inverse_y * inverse_y;
    const bool is_varied_x = mean_x > floor_x;
    const bool is_varied_y = mean_y > floor_y;
    floors[0] += is_varied_x ? 0.0 : static_cast<double>(sum_x);
    floors[1] += is_varied_y ? 0.0 : static_cast<double>(sum_y);
    const T share_x = is_varied_x ? sum_x / static_cast<T>(pairs) : T(0);
    const T share_y = is_varied_y ? sum_y / static_cast<T>(pairs) : T(0);
    for (int k = 0; k < pairs; ++k) {
      x[k * stride] += share_x;
      y[k * stride] += share_y;
    }
  }
};

// The least variance, of the sum over voxels and pairs of all distances.
template <typename T>
__device__ __forceinline__ T mind_floor(double sum, double share, T least) {
  const double floor = kMindNoise * share * sum;
  return floor < static_cast<double>(least) ? least : static_cast<T>(floor);
}

// The gradients of all pairs to the image's differences, times these: planes to planes.
template <typename Stored, typename T>
__global__ void __launch_bounds__(kMindThreads, 2)
    mind_pull_kernel(const __grid_constant__ MindImage<T> shape, const MindPlanes planes,
                     const Stored* __restrict__ image, const T* __restrict__ in,
                     T* __restrict__ out) {
  const int k = static_cast<int>(blockIdx.z);
  const std::int64_t end = shape.size[2] - 1;
  const std::int64_t offset = k * shape.voxels(planes);
  shape.for_each(planes, [&](const std::int64_t (&at)[3], std::int64_t index) {
    const T* const row = in + offset + index - at[2];
    const std::int64_t first = at[2] > shape.radius ? at[2] - shape.radius : 0;
    const std::int64_t last = at[2] + shape.radius < end ? at[2] + shape.radius : end;
    T sum = T(0);
    for (std::int64_t x = first; x <= last; ++x) {
      sum += shape.weight(2, x, at[2]) * row[x];
    }
    out[offset + index] = 2 * sum * shape.difference(image, at, k);
  });
}

// What term(at, k), a number for each voxel and pair of points, adds to a voxel that the points of
// others are: of a pair's first point, less that of the second.
template <typename T, typename Term>
__device__ __forceinline__ T mind_gather(const MindImage<T>& shape, const std::int64_t (&own)[3],
                                         const Term& term) {
  T sum = T(0);
#pragma unroll 1
  for (int point = 0; point < shape.pairs.points; ++point) {
    // Beyond an end, all voxels' points are the last one.
    std::int64_t from[3];
    std::int64_t to[3];
    for (int axis = 0; axis < 3; ++axis) {
      const std::int64_t step = shape.dilation * shape.pairs.step[point][axis];
      const std::int64_t last = shape.size[axis] - 1;
      from[axis] = step != 0 && own[axis] == 0 ? 0 : own[axis] - step;
      to[axis] = step != 0 && own[axis] == last ? last : own[axis] - step;
      from[axis] = from[axis] < 0 ? 0 : from[axis];
      to[axis] = to[axis] > last ? last : to[axis];
    }
    for (std::int64_t z = from[0]; z <= to[0]; ++z) {
      for (std::int64_t y = from[1]; y <= to[1]; ++y) {
        for (std::int64_t x = from[2]; x <= to[2]; ++x) {
          const std::int64_t at[3] = {z, y, x};
#pragma unroll 1
          for (int k = 0; k < shape.pairs.count; ++k) {
            if (shape.pairs.first[k] == point || shape.pairs.second[k] == point) {
              const T value = term(at, k);
              sum += shape.pairs.first[k] == point ? value : -value;
            }
          }
        }
      }
    }
  }
  return sum;
}

// gradient += or =, for the voxels of some planes, what the pulled values of others make of it.
template <bool add, typename T>
__global__ void __launch_bounds__(kMindThreads, 2)
    mind_gather_kernel(const __grid_constant__ MindImage<T> shape, const MindPlanes from,
                       const MindPlanes to, const T* __restrict__ pulled,
                       T* __restrict__ gradient) {
  const std::int64_t voxels = shape.voxels(from);
  T* const targets = gradient + to.first * shape.plane();
  shape.for_each(to, [&](const std::int64_t (&own)[3], std::int64_t index) {
    const T sum = mind_gather(shape, own, [&](const std::int64_t (&at)[3], int k) {
      const std::int64_t place =
          (at[0] - from.first) * shape.plane() + at[1] * shape.size[2] + at[2];
      return pulled[k * voxels + place];
    });
    targets[index] = add ? targets[index] + sum : sum;
  });
}

// gradient += what the least variance makes of it, which is a share of the mean of all distances.
template <typename Stored, typename T>
__global__ void __launch_bounds__(kMindThreads, 2)
    mind_gather_floor_kernel(const __grid_constant__ MindImage<T> shape,
                             const Stored* __restrict__ image, const double* floor_grad,
                             const double* variance, double share, T least,
                             T* __restrict__ gradient) {
  const MindPlanes all{0, shape.size[0]};
  const double floor = kMindNoise * share * *variance;
  if (*floor_grad == 0 || floor < static_cast<double>(least)) {
    return;
  }
  const T scale = static_cast<T>(2 * *floor_grad * kMindNoise * share);
  shape.for_each(all, [&](const std::int64_t (&own)[3], std::int64_t index) {
    gradient[index] += mind_gather(shape, own, [&](const std::int64_t (&at)[3], int k) {
      return scale * shape.share(at) * shape.difference(image, at, k);
    });
  });
}

}  // namespace plasticine::cuda
