// The joint histogram on the GPU. Forward, 16 lanes add one voxel after another to a table of their
// own in shared memory, without atomics; tables and parts are added up in order: the same bits
// every time. Backward, a thread takes one voxel.
#include "core/cuda/dispatch.h"
#include "core/cuda/launch.h"
#include "core/cuda/memory.cuh"
#include "joint_histogram/joint_histogram.h"
#include "joint_histogram/math/parzen.h"

namespace plasticine::cuda {
namespace {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kGroup = 16;      // lanes that share a voxel
constexpr int kMostGroups = 8;  // of a block
constexpr int kPool = 5888;     // float64 of shared memory
constexpr int kThreads = 256;   // of the other kernels

// Voxels of a sample of (N, C, z, y, x), counted through its channels.
struct VoxelLayout {
  std::int64_t size[4];
  std::int64_t strides[5];

  // channels: 1 for a mask, which all of them share.
  VoxelLayout(const Tensor& image, const Tensor& tensor) {
    const int missing = 5 - image.ndim;
    for (int axis = 0; axis < 5; ++axis) {
      const int from = axis < 2 ? axis : axis - missing;
      const bool exists = axis < 2 || from >= 2;
      strides[axis] = exists && tensor ? tensor.strides[from] : 0;
      if (axis > 0) {
        size[axis - 1] = exists ? image.shape[from] : 1;
      }
    }
    if (tensor && tensor.shape[1] == 1) {
      strides[1] = 0;
    }
  }

  PLASTICINE_HOST_DEVICE std::int64_t voxels() const {
    return size[0] * size[1] * size[2] * size[3];
  }

  __device__ __forceinline__ std::int64_t offset(std::int64_t sample, std::int64_t voxel) const {
    std::int64_t sum = sample * strides[0] + voxel % size[3] * strides[4];
    voxel /= size[3];
    sum += voxel % size[2] * strides[3];
    voxel /= size[2];
    return sum + voxel % size[1] * strides[2] + voxel / size[1] * strides[1];
  }
};

struct Images {
  Tensor x, y, mask, value_range;
  VoxelLayout layout_x, layout_y, layout_mask;
  int bins;
  Parzen kernel;
  double factor;  // of the squared distance in the Gaussian's exponent

  Images(const Tensor& x_, const Tensor& y_, const Tensor& mask_, const Tensor& range, int bins_,
         Parzen kernel_, double sigma)
      : x(x_),
        y(y_),
        mask(mask_),
        value_range(range),
        layout_x(x_, x_),
        layout_y(x_, y_),
        layout_mask(x_, mask_),
        bins(bins_),
        kernel(kernel_),
        factor(-0.5 / (sigma * sigma)) {}

  template <typename T>
  __device__ __forceinline__ BinAxis axis(std::int64_t sample, int image, int taps) const {
    const T* ends = static_cast<const T*>(value_range.data) + sample * value_range.strides[0] +
                    image * value_range.strides[1];
    return BinAxis::of(static_cast<double>(ends[0]),
                       static_cast<double>(ends[value_range.strides[2]]), bins, kernel, taps);
  }
};

// A value on the axis of bins.
template <typename T>
struct Placed {
  int cell;
  T within;
  T slope;
  T norm;  // of the Gaussian
  bool is_nan;
};

template <Parzen kernel, int taps, typename T>
__device__ __forceinline__ T gaussian_tap(const Placed<T>& value, int tap, const BinAxis& axis,
                                          int bins, T factor) {
  const int bin = value.cell - axis.lead + tap;
  const T distance = value.within - static_cast<T>(tap - axis.lead);
  return bin >= 0 && bin < bins ? exp(factor * distance * distance) : T(0);
}

template <Parzen kernel, int taps, typename T>
__device__ __forceinline__ Placed<T> place(const BinAxis& axis, T value, int bins, T factor) {
  const double at = axis.place(static_cast<double>(value));
  Placed<T> placed;
  placed.is_nan = !(at == at);
  const double found = placed.is_nan ? 0 : at;
  placed.cell = axis.cell(found);
  placed.within = static_cast<T>(found - placed.cell);
  placed.slope = static_cast<T>(axis.slope(static_cast<double>(value)));
  placed.norm = T(1);
  if constexpr (kernel == Parzen::gaussian) {
    T sum = 0;
#pragma unroll
    for (int tap = 0; tap < taps; ++tap) {
      sum += gaussian_tap<kernel, taps>(placed, tap, axis, bins, factor);
    }
    placed.norm = T(1) / sum;
  }
  return placed;
}

// The weight of one tap; window: that of the kernel for x, or for y.
template <Parzen window, int taps, typename T>
__device__ __forceinline__ T weight(const Placed<T>& value, int tap, const BinAxis& axis, int bins,
                                    T factor) {
  if constexpr (window == Parzen::gaussian) {
    return gaussian_tap<window, taps>(value, tap, axis, bins, factor) * value.norm;
  } else if constexpr (window == Parzen::mattes) {
    const T away = value.within - T(0.5);
    const T tie = static_cast<T>(kParzenTie);
    const T upper = away > tie ? T(1) : away < -tie ? T(0) : T(0.5);
    return tap == 1 ? 1 - upper : tap == 2 ? upper : T(0);
  } else {
    const T distance = fabs(value.within + static_cast<T>(1 - tap));
    const T far = distance < 2 ? 2 - distance : T(0);
    return distance < 1 ? T(2) / 3 - distance * distance * (1 - distance / 2) : far * far * far / 6;
  }
}

// Its derivative by the place, but for what that of the norm takes from a Gaussian's.
template <Parzen window, int taps, typename T>
__device__ __forceinline__ T weight_slope(const Placed<T>& value, int tap, const BinAxis& axis,
                                          T weight, T factor) {
  if constexpr (window == Parzen::gaussian) {
    return weight * 2 * factor * (value.within - static_cast<T>(tap - axis.lead));
  } else if constexpr (window == Parzen::mattes) {
    return T(0);
  } else {
    const T distance = value.within + static_cast<T>(1 - tap);
    const T length = fabs(distance);
    const T far = length < 2 ? 2 - length : T(0);
    const T slope = length < 1 ? length * (T(1.5) * length - 2) : far * far / -2;
    return distance < 0 ? -slope : slope;
  }
}

template <Parzen kernel>
constexpr Parzen window_of_x() {
  return kernel == Parzen::mattes ? Parzen::bspline : kernel;
}

// How much a voxel counts: NaN where that is not finite.
template <typename T>
__device__ __forceinline__ T count_of(const Images& images, std::int64_t sample,
                                      std::int64_t voxel) {
  if (images.mask.data == nullptr) {
    return T(1);
  }
  const T count = static_cast<const T*>(images.mask.data)[images.layout_mask.offset(sample, voxel)];
  return count - count == 0 ? count : count - count;
}

// groups: with a table in shared memory each; 0: one, whose table is the part's in global memory.
template <Parzen kernel, int taps, typename Stored>
__global__ void __launch_bounds__(kGroup* kMostGroups)
    joint_histogram_add_kernel(const __grid_constant__ Images images, double* __restrict__ sums,
                               std::int64_t parts, std::int64_t per_part, int groups, int stride) {
  using T = accumulator_t<Stored>;
  constexpr Parzen kX = window_of_x<kernel>();
  __shared__ double pool[kPool];
  const std::int64_t part = blockIdx.x;
  const std::int64_t sample = part / parts;
  const int bins = images.bins;
  const int area = bins * bins;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const int group = static_cast<int>(threadIdx.x) / kGroup;
  const int active_groups = groups > 0 ? groups : 1;
  double* const out = sums + part * area;
  if (groups > 0) {
    for (int i = static_cast<int>(threadIdx.x); i < groups * bins * stride;
         i += static_cast<int>(blockDim.x)) {
      pool[i] = 0;
    }
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < area; i += static_cast<int>(blockDim.x)) {
      out[i] = 0;
    }
  }
  __syncthreads();
  double* const table = groups > 0 ? pool + group * bins * stride : out;
  const int step = groups > 0 ? stride : bins;
  const T factor = static_cast<T>(images.factor);
  const BinAxis axis_x = images.axis<T>(sample, 0, taps);
  const BinAxis axis_y = images.axis<T>(sample, 1, taps);
  const std::int64_t first = part % parts * per_part;
  const std::int64_t voxels = images.layout_x.voxels();
  const std::int64_t end = first + per_part < voxels ? first + per_part : voxels;
  for (std::int64_t base = first; base < end; base += kGroup * active_groups) {
    const std::int64_t voxel = base + group * kGroup + lane;
    const bool is_active = group < active_groups && voxel < end;
    T count = 0;
    Placed<T> x = {};
    Placed<T> y = {};
    if (is_active) {
      count = count_of<T>(images, sample, voxel);
      const Stored* const from_x = static_cast<const Stored*>(images.x.data);
      const Stored* const from_y = static_cast<const Stored*>(images.y.data);
      x = place<kX, taps>(axis_x, read(from_x + images.layout_x.offset(sample, voxel)), bins,
                          factor);
      y = place<kernel, taps>(axis_y, read(from_y + images.layout_y.offset(sample, voxel)), bins,
                              factor);
      if (count != 0 && (x.is_nan || y.is_nan)) {
        count = static_cast<T>(nan(""));
      }
    }
    const int half = static_cast<int>(threadIdx.x) % 32 / kGroup * kGroup;
    for (int turn = 0; turn < kGroup; ++turn) {
      const int source = half + turn;
      const T shared_count = __shfl_sync(kWholeWarp, count, source);
      Placed<T> of_x;
      Placed<T> of_y;
      of_x.cell = __shfl_sync(kWholeWarp, x.cell, source);
      of_y.cell = __shfl_sync(kWholeWarp, y.cell, source);
      of_x.within = __shfl_sync(kWholeWarp, x.within, source);
      of_y.within = __shfl_sync(kWholeWarp, y.within, source);
      if constexpr (kernel == Parzen::gaussian) {
        of_x.norm = __shfl_sync(kWholeWarp, x.norm, source);
        of_y.norm = __shfl_sync(kWholeWarp, y.norm, source);
      }
      if (group < active_groups && shared_count != 0) {
        for (int entry = lane; entry < taps * taps; entry += kGroup) {
          const int a = entry / taps;
          const int b = entry % taps;
          const int row = of_x.cell - axis_x.lead + a;
          const int column = of_y.cell - axis_y.lead + b;
          if (row >= 0 && row < bins && column >= 0 && column < bins) {
            const T share = weight<kX, taps>(of_x, a, axis_x, bins, factor) *
                            weight<kernel, taps>(of_y, b, axis_y, bins, factor);
            table[row * step + column] +=
                static_cast<double>(shared_count) * static_cast<double>(share);
          }
        }
      }
      __syncwarp();
    }
  }
  __syncthreads();
  if (groups > 0) {
    for (int i = static_cast<int>(threadIdx.x); i < area; i += static_cast<int>(blockDim.x)) {
      double sum = 0;
      for (int k = 0; k < groups; ++k) {
        sum += pool[k * bins * stride + i / bins * stride + i % bins];
      }
      out[i] = sum;
    }
  }
}

// The sums over parts, in order. One that is NaN makes its sample NaN.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    joint_histogram_sum_kernel(const double* __restrict__ sums, std::int64_t parts, int area,
                               T* __restrict__ out) {
  __shared__ int has_nan;
  const double* const of_sample = sums + blockIdx.x * parts * area;
  if (threadIdx.x == 0) {
    has_nan = 0;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < area; i += kThreads) {
    double sum = 0;
    for (std::int64_t part = 0; part < parts; ++part) {
      sum += of_sample[part * area + i];
    }
    out[blockIdx.x * static_cast<std::int64_t>(area) + i] = static_cast<T>(sum);
    if (!(sum == sum)) {
      has_nan = 1;
    }
  }
  __syncthreads();
  if (has_nan != 0) {
    for (int i = static_cast<int>(threadIdx.x); i < area; i += kThreads) {
      out[blockIdx.x * static_cast<std::int64_t>(area) + i] = static_cast<T>(nan(""));
    }
  }
}

template <Parzen kernel, int taps, typename Stored>
__global__ void __launch_bounds__(kThreads)
    joint_histogram_gradient_kernel(const __grid_constant__ Images images,
                                    const __grid_constant__ Tensor grad, std::int64_t samples,
                                    Stored* __restrict__ grad_x, Stored* __restrict__ grad_y) {
  using T = accumulator_t<Stored>;
  constexpr Parzen kX = window_of_x<kernel>();
  const std::int64_t voxels = images.layout_x.voxels();
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= samples * voxels) {
    return;
  }
  const std::int64_t sample = index / voxels;
  const std::int64_t voxel = index % voxels;
  const int bins = images.bins;
  const T factor = static_cast<T>(images.factor);
  const BinAxis axis_x = images.axis<T>(sample, 0, taps);
  const BinAxis axis_y = images.axis<T>(sample, 1, taps);
  const Stored* const from_x = static_cast<const Stored*>(images.x.data);
  const Stored* const from_y = static_cast<const Stored*>(images.y.data);
  const Placed<T> x =
      place<kX, taps>(axis_x, read(from_x + images.layout_x.offset(sample, voxel)), bins, factor);
  const Placed<T> y = place<kernel, taps>(
      axis_y, read(from_y + images.layout_y.offset(sample, voxel)), bins, factor);
  const T* const values = static_cast<const T*>(grad.data) + sample * grad.strides[0];
  // Of y: the weights, and their sums with the gradient and with the slopes in the place of both.
  T mean_x = 0;
  T mean_y = 0;
  T sum = 0;
  T sum_x = 0;
  T sum_y = 0;
#pragma unroll 1
  for (int a = 0; a < taps; ++a) {
    const int row = x.cell - axis_x.lead + a;
    if (row < 0 || row >= bins) {
      continue;
    }
    const T weight_x = weight<kX, taps>(x, a, axis_x, bins, factor);
    const T slope_x = weight_slope<kX, taps>(x, a, axis_x, weight_x, factor);
    mean_x += slope_x;
    T along = 0;
    T across = 0;
#pragma unroll
    for (int b = 0; b < taps; ++b) {
      const int column = y.cell - axis_y.lead + b;
      if (column >= 0 && column < bins) {
        const T value = values[row * grad.strides[1] + column * grad.strides[2]];
        const T weight_y = weight<kernel, taps>(y, b, axis_y, bins, factor);
        along += value * weight_y;
        across += value * weight_slope<kernel, taps>(y, b, axis_y, weight_y, factor);
      }
    }
    sum += weight_x * along;
    sum_x += slope_x * along;
    sum_y += weight_x * across;
  }
  if constexpr (kernel == Parzen::gaussian) {
    // The derivative of the norm.
    for (int b = 0; b < taps; ++b) {
      const T weight_y = weight<kernel, taps>(y, b, axis_y, bins, factor);
      mean_y += weight_slope<kernel, taps>(y, b, axis_y, weight_y, factor);
    }
    sum_x -= mean_x * sum;
    sum_y -= mean_y * sum;
  }
  const T count = count_of<T>(images, sample, voxel);
  if (grad_x != nullptr) {
    const bool is_flat = count == 0 || x.slope == 0;
    grad_x[index] = store<Stored>(is_flat ? T(0) : sum_x * (count * x.slope));
  }
  if (grad_y != nullptr) {
    const bool is_flat = count == 0 || y.slope == 0 || kernel == Parzen::mattes;
    grad_y[index] = store<Stored>(is_flat ? T(0) : sum_y * (count * y.slope));
  }
}

template <Parzen kernel, int taps>
struct Windows {
  static constexpr Parzen kKernel = kernel;
  static constexpr int kTaps = taps;
};

template <typename Visit>
void with_windows(Parzen kernel, double sigma, const Visit& visit) {
  if (kernel == Parzen::bspline) {
    visit(Windows<Parzen::bspline, 4>{});
  } else if (kernel == Parzen::mattes) {
    visit(Windows<Parzen::mattes, 4>{});
  } else if (parzen_taps(kernel, sigma) == 8) {
    visit(Windows<Parzen::gaussian, 8>{});
  } else {
    visit(Windows<Parzen::gaussian, 16>{});
  }
}

}  // namespace

void joint_histogram_forward(const Tensor& x, const Tensor& y, const Tensor& mask,
                             const Tensor& value_range, const Tensor& out, const Tensor& scratch,
                             int bins, Parzen kernel, double sigma, int device,
                             std::uintptr_t stream) {
  const DeviceGuard guard(device);
  const std::int64_t samples = x.shape[0];
  const std::int64_t parts = scratch.shape[1];
  if (samples == 0) {
    return;
  }
  const Images images(x, y, mask, value_range, bins, kernel, sigma);
  const std::int64_t per_part = divide_up(images.layout_x.voxels(), parts);
  const int stride = (bins + 3) / 4 * 4 + 4;  // rows of a window in banks of their own
  const int groups = std::min(kPool / (bins * stride), kMostGroups) / 2 * 2;
  const int threads = kGroup * std::max(groups, 2);
  dispatch_type(x.dtype, [&](auto tag) {
    using Stored = typename decltype(tag)::type;
    using T = accumulator_t<Stored>;
    with_windows(kernel, sigma, [&](auto windows) {
      using W = decltype(windows);
      launch("joint_histogram", joint_histogram_add_kernel<W::kKernel, W::kTaps, Stored>,
             static_cast<unsigned>(samples * parts), threads, stream, images, scratch.as<double>(),
             parts, per_part, groups, stride);
    });
    launch("joint_histogram", joint_histogram_sum_kernel<T>, static_cast<unsigned>(samples),
           kThreads, stream, scratch.as<double>(), parts, bins * bins, out.as<T>());
  });
}

void joint_histogram_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                              const Tensor& mask, const Tensor& value_range, const Tensor& grad_x,
                              const Tensor& grad_y, const Tensor&, int bins, Parzen kernel,
                              double sigma, int device, std::uintptr_t stream) {
  const DeviceGuard guard(device);
  const Images images(x, y, mask, value_range, bins, kernel, sigma);
  const std::int64_t voxels = x.shape[0] * images.layout_x.voxels();
  if (voxels == 0 || (!grad_x && !grad_y)) {
    return;
  }
  dispatch_type(x.dtype, [&](auto tag) {
    using Stored = typename decltype(tag)::type;
    with_windows(kernel, sigma, [&](auto windows) {
      using W = decltype(windows);
      launch("joint_histogram", joint_histogram_gradient_kernel<W::kKernel, W::kTaps, Stored>,
             static_cast<unsigned>(divide_up(voxels, kThreads)), kThreads, stream, images, grad,
             x.shape[0], grad_x.as<Stored>(), grad_y.as<Stored>());
    });
  });
}

}  // namespace plasticine::cuda
