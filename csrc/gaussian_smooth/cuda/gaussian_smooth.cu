// Gaussian smoothing on the GPU: a launch for each axis, a thread for each voxel. Neighbouring
// threads take neighbouring voxels of a row, whatever the axis, and find in cache what their
// windows share. A block computes the weights for all its threads.
#include "core/cuda/dispatch.h"
#include "core/cuda/launch.h"
#include "core/cuda/memory.cuh"
#include "gaussian_smooth/gaussian_smooth.h"
#include "gaussian_smooth/math/window.h"

namespace plasticine::cuda {
namespace {

constexpr int kThreads = 256;

// One axis of a (N, C, *spatial) tensor of any strides, and its window.
template <typename T>
struct AxisWindow {
  int axes;
  std::int64_t shape[5];
  std::int64_t stride[5];
  std::int64_t count = 1;
  int axis;
  int radius;
  T sigma;
  T scale;
  T end;

  AxisWindow(const Tensor& source, int along, const GaussianWindow& window)
      : axes(source.ndim),
        axis(along),
        radius(window.radius),
        sigma(static_cast<T>(window.sigma)),
        scale(static_cast<T>(window.scale)),
        end(static_cast<T>(window.end)) {
    for (int i = 0; i < axes; ++i) {
      shape[i] = source.shape[i];
      stride[i] = source.strides[i];
      count *= shape[i];
    }
  }

  __device__ __forceinline__ T weight(int step) const {
    const T distance = static_cast<T>(step) / sigma;
    return step == radius ? end : scale * exp(T(-0.5) * distance * distance);
  }
};

template <bool adjoint, typename Source, typename Target, typename T>
__global__ void __launch_bounds__(kThreads)
    gaussian_smooth_kernel(const Source* source, Target* target,
                           const __grid_constant__ AxisWindow<T> window) {
  __shared__ T weights[kThreads];
  const std::int64_t voxel = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool is_inside = voxel < window.count;
  const std::int64_t last = window.shape[window.axis] - 1;
  const std::int64_t stride = window.stride[window.axis];
  std::int64_t place = 0;
  std::int64_t left = is_inside ? voxel : 0;
  for (int i = window.axes - 1; i >= 0; --i) {
    const std::int64_t above = left / window.shape[i];
    const std::int64_t index = left - above * window.shape[i];
    if (i == window.axis) {
      place = index;
    } else {
      source += index * window.stride[i];
    }
    left = above;
  }
  const bool is_edge = adjoint && (place == 0 || place == last);
  T sum = T(0);
  T tail = T(0);  // of the window, from its end to where the loop is
  for (int start = window.radius; start >= 0; start -= kThreads) {
    __syncthreads();
    const int own = start - static_cast<int>(threadIdx.x);
    if (own >= 0) {
      weights[threadIdx.x] = window.weight(own);
    }
    __syncthreads();
    if (!is_inside) {
      continue;
    }
    for (int i = 0; i < kThreads && i <= start; ++i) {
      const int step = start - i;
      const T weight = weights[i];
      std::int64_t below = place - step;
      std::int64_t above = place + step;
      if (adjoint) {
        tail += weight;
        if (is_edge) {
          sum += tail * read(source + (place == 0 ? above : below) * stride);
          continue;
        }
        sum += below >= 0 ? weight * read(source + below * stride) : T(0);
        sum += above <= last && step > 0 ? weight * read(source + above * stride) : T(0);
      } else {
        below = below < 0 ? 0 : below;
        above = above > last ? last : above;
        sum += weight * read(source + below * stride);
        sum += step > 0 ? weight * read(source + above * stride) : T(0);
      }
    }
  }
  if (is_inside) {
    target[voxel] = store<Target>(sum);
  }
}

template <typename Source, typename Target, typename T>
void smooth_axis(const Tensor& source, const Tensor& target, int axis, const GaussianWindow& window,
                 bool adjoint, StreamHandle stream) {
  const AxisWindow<T> along(source, axis, window);
  const dim3 blocks(static_cast<unsigned>(divide_up(along.count, kThreads)));
  launch("gaussian_smooth",
         adjoint ? gaussian_smooth_kernel<true, Source, Target, T>
                 : gaussian_smooth_kernel<false, Source, Target, T>,
         blocks, kThreads, stream, source.as<const Source>(), target.as<Target>(), along);
}

// An image of the scratch, of the shape of out.
Tensor image_of(const Tensor& scratch, const Tensor& out, int index) {
  Tensor image = out;
  image.dtype = scratch.dtype;
  image.data = mutable_element(scratch, index * element_count(out));
  return image;
}

}  // namespace

void gaussian_smooth(const Tensor& images, const Tensor& out, const Tensor& scratch,
                     const std::vector<double>& sigma, bool adjoint, int device,
                     std::uintptr_t stream) {
  if (element_count(images) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  // Axes that are smoothed; where there are none, the last is gone through all the same.
  int axes[3];
  int count = 0;
  const auto window_of = [&](int axis) {
    return GaussianWindow(sigma[axis - 2], images.shape[axis]);
  };
  for (int axis = 2; axis < images.ndim; ++axis) {
    if (window_of(axis).radius > 0 || (axis == images.ndim - 1 && count == 0)) {
      axes[count++] = axis;
    }
  }
  dispatch_type(images.dtype, [&](auto tag) {
    using Stored = typename decltype(tag)::type;
    using T = accumulator_t<Stored>;
    constexpr bool is_stored_so = sizeof(Stored) == sizeof(T);
    Tensor source = images;
    for (int i = 0; i < count; ++i) {
      const bool is_last = i == count - 1;
      // What is not the result itself is kept in T: in turn here and there, and at last in out.
      const int left = count - 1 - i;
      const bool in_out = left % 2 == 0 && (is_stored_so || is_last);
      const Tensor target = in_out ? out : image_of(scratch, out, left == 2 ? 1 : 0);
      const GaussianWindow window = window_of(axes[i]);
      const auto run = [&](auto from, auto to) {
        smooth_axis<typename decltype(from)::type, typename decltype(to)::type, T>(
            source, target, axes[i], window, adjoint, stream);
      };
      if (i == 0 && is_last) {
        run(tag, tag);
      } else if (i == 0) {
        run(tag, TypeTag<T>{});
      } else if (is_last) {
        run(TypeTag<T>{}, tag);
      } else {
        run(TypeTag<T>{}, TypeTag<T>{});
      }
      source = target;
    }
  });
}

}  // namespace plasticine::cuda
