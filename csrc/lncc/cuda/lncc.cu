// Local normalised cross-correlation on the GPU: a thread for every voxel of every pass, sums of
// float64, no atomics.
#include "core/cuda/dispatch.h"
#include "core/cuda/launch.h"
#include "core/cuda/memory.cuh"
#include "lncc/lncc.h"

namespace plasticine::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ std::int64_t voxel_index() {
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

template <typename Stored>
__device__ __forceinline__ double read_voxel(const Tensor& image, const LnccLayout& layout,
                                             std::int64_t voxel) {
  const std::int64_t x = voxel % layout.size[4];
  const std::int64_t offset = layout.row_offset(image, voxel / layout.size[4]);
  return static_cast<double>(
      read(static_cast<const Stored*>(image.data) + offset + x * image.strides[image.ndim - 1]));
}

// sums[k * voxels + voxel]: x, y and their products.
template <typename Stored>
__global__ void __launch_bounds__(kThreads)
    lncc_products_kernel(const __grid_constant__ Tensor x, const __grid_constant__ Tensor y,
                         const __grid_constant__ LnccLayout layout, double* sums) {
  const std::int64_t voxel = voxel_index();
  const std::int64_t voxels = layout.voxels();
  if (voxel >= voxels) {
    return;
  }
  const double a = read_voxel<Stored>(x, layout, voxel);
  const double b = read_voxel<Stored>(y, layout, voxel);
  const double values[kLnccSums] = {a, b, a * a, b * b, a * b};
  for (int k = 0; k < kLnccSums; ++k) {
    sums[k * voxels + voxel] = values[k];
  }
}

// Sums over the window along one axis of `size` values that are `inner` apart. Not as running sums:
// a NaN would stay in them, and a large value's rounding.
__global__ void __launch_bounds__(kThreads)
    lncc_window_kernel(const double* __restrict__ from, std::int64_t count, std::int64_t size,
                       std::int64_t inner, int radius, double* __restrict__ to) {
  const std::int64_t voxel = voxel_index();
  if (voxel >= count) {
    return;
  }
  const std::int64_t at = voxel / inner % size;
  const std::int64_t first = at > radius ? -radius : -at;
  const std::int64_t last = at < size - radius ? radius : size - 1 - at;
  double sum = 0;
  for (std::int64_t step = first; step <= last; ++step) {
    sum += from[voxel + step * inner];
  }
  to[voxel] = sum;
}

// The squared correlations take the place of the first sums or, backward, what the gradients are
// made of that of all of them.
template <bool backward>
__global__ void __launch_bounds__(kThreads)
    lncc_voxel_kernel(const __grid_constant__ LnccLayout layout, int radius, double* sums) {
  const std::int64_t voxel = voxel_index();
  const std::int64_t voxels = layout.voxels();
  if (voxel >= voxels) {
    return;
  }
  double found[kLnccSums];
  for (int k = 0; k < kLnccSums; ++k) {
    found[k] = sums[k * voxels + voxel];
  }
  const double count = layout.count(voxel / layout.size[4], voxel % layout.size[4], radius);
  const LnccVoxel result = lncc_voxel(found, count);
  if constexpr (backward) {
    for (int k = 0; k < kLnccSums; ++k) {
      sums[k * voxels + voxel] = result.terms[k];
    }
  } else {
    sums[voxel] = result.value;
  }
}

// A block takes the mean of one sample, in an order of its own.
template <typename Stored>
__global__ void __launch_bounds__(kThreads)
    lncc_mean_kernel(const double* __restrict__ values, std::int64_t voxels,
                     Stored* __restrict__ out) {
  __shared__ double sums[kThreads];
  const std::int64_t sample = blockIdx.x;
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < voxels; i += kThreads) {
    sum += values[sample * voxels + i];
  }
  sums[threadIdx.x] = sum;
  for (unsigned half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      sums[threadIdx.x] += sums[threadIdx.x + half];
    }
  }
  if (threadIdx.x == 0) {
    out[sample] =
        store<Stored>(static_cast<accumulator_t<Stored>>(sums[0] / static_cast<double>(voxels)));
  }
}

// The gradient of one image: own; its sums of terms are number 1 and 3, those of y 2 and 4.
template <typename Stored>
__global__ void __launch_bounds__(kThreads)
    lncc_gradient_kernel(const __grid_constant__ Tensor grad, const __grid_constant__ Tensor own,
                         const __grid_constant__ Tensor other,
                         const __grid_constant__ LnccLayout layout, const double* __restrict__ sums,
                         int which, Stored* __restrict__ out) {
  const std::int64_t voxel = voxel_index();
  const std::int64_t voxels = layout.voxels();
  if (voxel >= voxels) {
    return;
  }
  const std::int64_t sample = voxel / layout.of_sample();
  const double upstream = read(static_cast<const Stored*>(grad.data) + sample * grad.strides[0]);
  const double value = sums[voxel] * read_voxel<Stored>(other, layout, voxel) +
                       sums[which * voxels + voxel] * read_voxel<Stored>(own, layout, voxel) -
                       sums[(which + 2) * voxels + voxel];
  out[voxel] = store<Stored>(static_cast<accumulator_t<Stored>>(
      upstream / static_cast<double>(layout.of_sample()) * value));
}

unsigned blocks(std::int64_t items) { return static_cast<unsigned>(divide_up(items, kThreads)); }

// The sums over every window of what the first half of the scratch holds. Returns where they are.
double* sum_windows(const LnccLayout& layout, double* sums, double* other, int radius,
                    std::uintptr_t stream) {
  const std::int64_t count = kLnccSums * layout.voxels();
  std::int64_t inner = 1;
  for (int axis = 4; axis >= 2; --axis) {
    launch("lncc", lncc_window_kernel, blocks(count), kThreads, stream, sums, count,
           layout.size[axis], inner, radius, other);
    std::swap(sums, other);
    inner *= layout.size[axis];
  }
  return sums;
}

// The sums of x, y and their products over every window, in the scratch.
template <typename Stored>
double* sum_images(const Tensor& x, const Tensor& y, const LnccLayout& layout, double* scratch,
                   int radius, std::uintptr_t stream) {
  const std::int64_t voxels = layout.voxels();
  launch("lncc", lncc_products_kernel<Stored>, blocks(voxels), kThreads, stream, x, y, layout,
         scratch);
  return sum_windows(layout, scratch, scratch + kLnccSums * voxels, radius, stream);
}

}  // namespace

void lncc_forward(const Tensor& x, const Tensor& y, const Tensor& out, const Tensor& scratch,
                  int window, int device, std::uintptr_t stream) {
  const DeviceGuard guard(device);
  const LnccLayout layout(x);
  const std::int64_t voxels = layout.voxels();
  dispatch_type(x.dtype, [&](auto tag) {
    using Stored = typename decltype(tag)::type;
    double* sums = scratch.as<double>();
    if (voxels > 0) {
      sums = sum_images<Stored>(x, y, layout, sums, window / 2, stream);
      launch("lncc", lncc_voxel_kernel<false>, blocks(voxels), kThreads, stream, layout, window / 2,
             sums);
    }
    if (layout.size[0] > 0) {
      launch("lncc", lncc_mean_kernel<Stored>, static_cast<unsigned>(layout.size[0]), kThreads,
             stream, sums, layout.of_sample(), out.as<Stored>());
    }
  });
}

void lncc_backward(const Tensor& grad, const Tensor& x, const Tensor& y, const Tensor& grad_x,
                   const Tensor& grad_y, const Tensor& scratch, int window, int device,
                   std::uintptr_t stream) {
  const DeviceGuard guard(device);
  const LnccLayout layout(x);
  const std::int64_t voxels = layout.voxels();
  if (voxels == 0) {
    return;
  }
  dispatch_type(x.dtype, [&](auto tag) {
    using Stored = typename decltype(tag)::type;
    double* const half = scratch.as<double>() + kLnccSums * voxels;
    double* sums = sum_images<Stored>(x, y, layout, scratch.as<double>(), window / 2, stream);
    launch("lncc", lncc_voxel_kernel<true>, blocks(voxels), kThreads, stream, layout, window / 2,
           sums);
    double* const other = sums == half ? scratch.as<double>() : half;
    sums = sum_windows(layout, sums, other, window / 2, stream);
    if (grad_x) {
      launch("lncc", lncc_gradient_kernel<Stored>, blocks(voxels), kThreads, stream, grad, x, y,
             layout, sums, 1, grad_x.as<Stored>());
    }
    if (grad_y) {
      launch("lncc", lncc_gradient_kernel<Stored>, blocks(voxels), kThreads, stream, grad, y, x,
             layout, sums, 2, grad_y.as<Stored>());
    }
  });
}

}  // namespace plasticine::cuda
