// Local normalised cross-correlation on the GPU. Blocks march through tiles of planes; no atomics:
// each block leaves its sums, which are added in order.
#include <stdexcept>

#include "core/cuda/dispatch.h"
#include "lncc/cuda/gradient.cuh"

namespace plasticine::cuda {
namespace {

// One that rounds nothing: where the values of a channel are within a factor of 4 of each other,
// their differences from the middle are exact, and smaller. A part of the rows is looked at.
template <typename Stored>
__global__ void __launch_bounds__(kLnccThreads)
    lncc_shift_kernel(const __grid_constant__ LnccTensor<Stored> x,
                      const __grid_constant__ LnccTensor<Stored> y, std::int64_t channels,
                      std::int64_t planes, std::int64_t rows, std::int64_t columns,
                      double* __restrict__ shifts) {
  using T = accumulator_t<Stored>;
  struct Range {
    T low;
    T high;
  };
  const LnccTensor<Stored>& image = blockIdx.y == 0 ? x : y;
  LnccPlace place;
  place.sample = blockIdx.x / channels;
  place.channel = blockIdx.x % channels;
  const std::int64_t step = kLnccSeen;
  const std::int64_t seen_rows = (rows + step - 1) / step;
  const std::int64_t seen = (planes + step - 1) / step * seen_rows * columns;
  const T infinity = static_cast<T>(HUGE_VAL);
  Range range = {infinity, -infinity};
  for (std::int64_t i = threadIdx.x; i < seen; i += kLnccThreads) {
    const std::int64_t row = i / columns;
    const T value = read(image.row(place, row / seen_rows * step, row % seen_rows * step) +
                         i % columns * image.strides[4]);
    range.low = value < range.low ? value : range.low;
    range.high = value > range.high ? value : range.high;
  }
  const Range all = merge_block<kLnccThreads>(range, [](const Range& a, const Range& b) {
    return Range{a.low < b.low ? a.low : b.low, a.high > b.high ? a.high : b.high};
  });
  if (threadIdx.x == 0) {
    const bool is_bright = all.low <= all.high && ((all.low > T(0) && all.high <= T(4) * all.low) ||
                                                   (all.high < T(0) && all.low >= T(4) * all.high));
    shifts[2 * blockIdx.x + blockIdx.y] =
        is_bright ? static_cast<double>(all.low / 2 + all.high / 2) : 0.0;
  }
}

// Where the terms are written; null, where nowhere.
template <typename T>
struct LnccTargets {
  T* by_cross;
  T* by_x;
  T* rest_x;
  T* by_y;
  T* rest_y;
};

// The same for all threads, so that a branch costs little; compiled apart they would be six
// kernels.
template <typename T>
__device__ __forceinline__ LnccTerms<T> terms_of(LnccStabiliser stabiliser, bool squared,
                                                 const LnccMoments<T>& window,
                                                 const LnccConstants<T>& constants) {
  switch (stabiliser) {
    case LnccStabiliser::floor:
      return squared ? lncc_terms<LnccStabiliser::floor, true>(window, constants)
                     : lncc_terms<LnccStabiliser::floor, false>(window, constants);
    case LnccStabiliser::offset:
      return squared ? lncc_terms<LnccStabiliser::offset, true>(window, constants)
                     : lncc_terms<LnccStabiliser::offset, false>(window, constants);
    default:
      return squared ? lncc_terms<LnccStabiliser::flat, true>(window, constants)
                     : lncc_terms<LnccStabiliser::flat, false>(window, constants);
  }
}

template <typename I, bool backward>
__global__ void __launch_bounds__(kLnccThreads, I::kResident)
    lncc_windows_kernel(const __grid_constant__ LnccImages<typename I::Stored> images,
                        const __grid_constant__ LnccFrame<typename I::T> frame,
                        LnccStabiliser stabiliser, bool squared, typename I::T epsilon,
                        typename I::T numerator, LnccSums* __restrict__ partial,
                        LnccTargets<typename I::T> targets) {
  using T = typename I::T;
  for (std::int64_t n = blockIdx.y; n < frame.samples; n += gridDim.y) {
    LnccSums mine = {};
    for (std::int64_t tile = blockIdx.x; tile < frame.tiles(); tile += gridDim.x) {
      const LnccPlace place = LnccPlace::of(I{}, frame, n, tile);
      const LnccConstants<T> constants = {images.shift(place, frame.channels, 0),
                                          images.shift(place, frame.channels, 1), epsilon,
                                          numerator};
      march_moments<I>(images, frame, place, [&](std::int64_t plane, const LnccMoments<T>& window) {
        const T weight = images.mask.data == nullptr
                             ? T(1)
                             : read(images.mask.row(place, plane, place.row) +
                                    place.column * images.mask.strides[4]);
        const LnccTerms<T> terms = terms_of(stabiliser, squared, window, constants);
        mine.weight += static_cast<double>(weight);
        if constexpr (backward) {
          const std::int64_t voxel =
              voxel_of(place, frame.channels, frame.planes, frame.rows, frame.columns, plane);
          targets.by_cross[voxel] = weight * terms.by_cross;
          if (targets.by_x != nullptr) {
            targets.by_x[voxel] = weight * terms.by_x;
            targets.rest_x[voxel] = weight * terms.rest_x;
          }
          if (targets.by_y != nullptr) {
            targets.by_y[voxel] = weight * terms.by_y;
            targets.rest_y[voxel] = weight * terms.rest_y;
          }
        } else {
          mine.value += static_cast<double>(weight * terms.value);
        }
      });
    }
    const LnccSums total = merge_block<kLnccThreads>(mine, add_sums);
    if (threadIdx.x == 0) {
      partial[n * kLnccBlocks + blockIdx.x] = total;
    }
  }
}

// One block a sample, in an order of its own: the mean; backward, what gradients are scaled by.
template <typename T>
__global__ void __launch_bounds__(kLnccThreads)
    lncc_finish_kernel(LnccSums* __restrict__ partial, int blocks, bool is_masked,
                       const T* __restrict__ grad, std::int64_t grad_stride, T* __restrict__ out) {
  const std::int64_t n = blockIdx.x;
  LnccSums mine = {};
  for (int block = threadIdx.x; block < blocks; block += kLnccThreads) {
    mine = add_sums(mine, partial[n * kLnccBlocks + block]);
  }
  const LnccSums total = merge_block<kLnccThreads>(mine, add_sums);
  if (threadIdx.x == 0) {
    if (grad == nullptr) {
      const bool is_empty = is_masked && total.weight == 0.0 && blocks > 0;
      out[n] = static_cast<T>(is_empty ? 0.0 : total.value / total.weight);
    } else {
      partial[n * kLnccBlocks].value =
          total.weight == 0.0 ? 0.0 : static_cast<double>(grad[n * grad_stride]) / total.weight;
    }
  }
}

// Calls visit(LnccInstance<...>{}).
template <typename Visit>
void dispatch_windows(const Tensor& x, const LnccOptions& options, const Visit& visit) {
  const int radius = options.window / 2;
  if (radius > kLnccLargeRadius) {
    throw std::runtime_error("lncc: the CUDA kernels serve windows of " +
                             std::to_string(2 * kLnccLargeRadius + 1) + " voxels at most, got " +
                             std::to_string(options.window));
  }
  dispatch_type(x.dtype, [&](auto tag) {
    using Stored = typename decltype(tag)::type;
    const auto of_radius = [&](auto volume) {
      constexpr bool kVolume = decltype(volume)::value;
      if constexpr (sizeof(accumulator_t<Stored>) == sizeof(float)) {
        if (radius <= kLnccSmallRadius) {
          visit(LnccInstance<Stored, kVolume, kLnccSmallRadius>{});
          return;
        }
      }
      visit(LnccInstance<Stored, kVolume, kLnccLargeRadius>{});
    };
    if (x.ndim == 5) {
      of_radius(std::true_type{});
    } else {
      of_radius(std::false_type{});
    }
  });
}

// The scratch as lncc.h has it.
template <typename T>
struct Scratch {
  LnccSums* partial;
  double* shifts;
  T* terms;

  explicit Scratch(const Tensor& scratch, const Tensor& x)
      : partial(scratch.as<LnccSums>()),
        shifts(scratch.as<double>() + 2 * x.shape[0] * kLnccBlocks),
        terms(reinterpret_cast<T*>(scratch.as<double>() + lncc_reserved(x))) {}
};

template <typename Stored>
LnccImages<Stored> images_of(const Tensor& x, const Tensor& y, const Tensor& mask,
                             const LnccShape& shape, double* shifts, std::uintptr_t stream) {
  const LnccImages<Stored> images(x, y, mask, shifts);
  launch("lncc", lncc_shift_kernel<Stored>,
         dim3(static_cast<unsigned>(shape.samples * shape.channels), 2), kLnccThreads, stream,
         images.x, images.y, shape.channels, shape.planes, shape.rows, shape.columns, shifts);
  return images;
}

// Sums, and backward the terms; returns how many blocks a sample had.
template <typename I, bool backward>
int find_windows(const LnccImages<typename I::Stored>& images,
                 const LnccFrame<typename I::T>& frame, const LnccOptions& options,
                 LnccSums* partial, const LnccTargets<typename I::T>& targets,
                 std::uintptr_t stream) {
  using T = typename I::T;
  const dim3 grid = frame.grid();
  launch("lncc", lncc_windows_kernel<I, backward>, grid, kLnccThreads, stream, images, frame,
         options.stabiliser, options.squared, static_cast<T>(options.epsilon),
         static_cast<T>(options.numerator), partial, targets);
  return static_cast<int>(grid.x);
}

}  // namespace

void lncc_forward(const LnccForward& call, int device, std::uintptr_t stream) {
  const DeviceGuard guard(device);
  const LnccShape shape(call.x);
  dispatch_windows(call.x, call.options, [&](auto instance) {
    using I = decltype(instance);
    using T = typename I::T;
    const Scratch<T> scratch(call.scratch, call.x);
    int blocks = 0;
    if (shape.voxels() > 0) {
      const auto images =
          images_of<typename I::Stored>(call.x, call.y, call.mask, shape, scratch.shifts, stream);
      const LnccFrame<T> frame(shape, call.options, I::kColumns, I::kRows);
      blocks = find_windows<I, false>(images, frame, call.options, scratch.partial,
                                      LnccTargets<T>{}, stream);
    }
    if (shape.samples > 0) {
      launch("lncc", lncc_finish_kernel<T>, dim3(static_cast<unsigned>(shape.samples)),
             kLnccThreads, stream, scratch.partial, blocks, static_cast<bool>(call.mask),
             static_cast<const T*>(nullptr), std::int64_t{0}, call.out.as<T>());
    }
  });
}

void lncc_backward(const LnccBackward& call, int device, std::uintptr_t stream) {
  const DeviceGuard guard(device);
  const LnccShape shape(call.x);
  if (shape.voxels() == 0 || (!call.grad_x && !call.grad_y)) {
    return;
  }
  dispatch_windows(call.x, call.options, [&](auto instance) {
    using I = decltype(instance);
    using T = typename I::T;
    using Stored = typename I::Stored;
    const Scratch<T> scratch(call.scratch, call.x);
    const auto images = images_of<Stored>(call.x, call.y, call.mask, shape, scratch.shifts, stream);
    const LnccFrame<T> frame(shape, call.options, I::kColumns, I::kRows);
    T* next = scratch.terms;
    const auto take = [&](bool wanted) {
      T* const image = wanted ? next : nullptr;
      next += wanted ? shape.voxels() : 0;
      return image;
    };
    LnccTargets<T> terms;
    terms.by_cross = take(true);
    terms.by_x = take(static_cast<bool>(call.grad_x));
    terms.rest_x = take(static_cast<bool>(call.grad_x));
    terms.by_y = take(static_cast<bool>(call.grad_y));
    terms.rest_y = take(static_cast<bool>(call.grad_y));
    const int blocks =
        find_windows<I, true>(images, frame, call.options, scratch.partial, terms, stream);
    launch("lncc", lncc_finish_kernel<T>, dim3(static_cast<unsigned>(shape.samples)), kLnccThreads,
           stream, scratch.partial, blocks, static_cast<bool>(call.mask), call.grad.as<const T>(),
           call.grad.strides[0], static_cast<T*>(nullptr));
    for (const bool is_x : {true, false}) {
      const Tensor& gradient = is_x ? call.grad_x : call.grad_y;
      if (gradient) {
        launch("lncc", lncc_gradient_kernel<I>, frame.grid(), kLnccThreads, stream, images, frame,
               static_cast<const LnccSums*>(scratch.partial), static_cast<const T*>(terms.by_cross),
               static_cast<const T*>(is_x ? terms.by_x : terms.by_y),
               static_cast<const T*>(is_x ? terms.rest_x : terms.rest_y), is_x,
               gradient.as<Stored>());
      }
    }
  });
}

}  // namespace plasticine::cuda
