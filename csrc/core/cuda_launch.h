// What every CUDA operator needs around its kernels: checked calls, the device guard, index
// arithmetic and the run-time dispatch to compile-time arguments.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "core/tensor.h"
#include "core/types.h"

namespace plasticine {

// A stream as Python passes it: the address of a cudaStream_t, 0 for the default stream.
using StreamHandle = std::uintptr_t;

inline cudaStream_t as_stream(StreamHandle stream) {
  return reinterpret_cast<cudaStream_t>(stream);
}

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(error) + " (" +
                             cudaGetErrorString(error) + ")");
  }
}

// Launches a kernel on a stream; nothing waits for it. Raises where the launch is refused, or where
// an earlier kernel has failed since.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads,
            StreamHandle stream, Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = as_stream(stream);
  check_cuda(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), name);
}

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check_cuda(cudaGetDevice(&previous_), "cudaGetDevice");
    if (device != previous_) {
      check_cuda(cudaSetDevice(device), "cudaSetDevice");
      changed_ = true;
    }
  }
  ~DeviceGuard() {
    if (changed_) {
      cudaSetDevice(previous_);
    }
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

// Of the current device.
inline int multiprocessors() {
  int device = 0;
  int count = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "cudaDeviceGetAttribute");
  return count;
}

inline std::int64_t element_count(const Tensor& tensor) {
  std::int64_t count = 1;
  for (int axis = 0; axis < tensor.ndim; ++axis) {
    count *= tensor.shape[axis];
  }
  return count;
}

// The voxels of a channel of a (N, C, *spatial) tensor.
inline std::int64_t voxel_count(const Tensor& tensor) {
  std::int64_t count = 1;
  for (int axis = 2; axis < tensor.ndim; ++axis) {
    count *= tensor.shape[axis];
  }
  return count;
}

// Blocks along y or z for so many items; where there are fewer, each goes on in strides of the
// grid.
inline unsigned grid_extent(std::int64_t items) {
  constexpr std::int64_t most = 65535;
  return static_cast<unsigned>(std::min(items, most));
}

// On the stream, as every launch; the tensor must be contiguous.
inline void zero_fill(const Tensor& tensor, StreamHandle stream) {
  const std::int64_t bytes = element_count(tensor) * element_size(tensor.dtype);
  if (bytes > 0) {
    check_cuda(cudaMemsetAsync(tensor.data, 0, static_cast<std::size_t>(bytes), as_stream(stream)),
               "cudaMemsetAsync");
  }
}

// The largest offset within one channel of a (N, C, *spatial) tensor, in elements.
inline std::int64_t channel_reach(const Tensor& tensor) {
  std::int64_t reach = 0;
  for (int axis = 2; axis < tensor.ndim; ++axis) {
    reach += std::max<std::int64_t>(tensor.shape[axis] - 1, 0) * std::abs(tensor.strides[axis]);
  }
  return reach;
}

// Division by a number that is known at launch. 32-bit: a multiplication and a shift (Granlund and
// Montgomery, "Division by invariant integers using multiplication", PLDI 1994), for dividends
// below 2^31; 64-bit: the hardware's own, for volumes that large are bound by memory anyhow.
template <typename Index>
class Divisor;

template <>
class Divisor<std::int32_t> {
 public:
  Divisor() = default;
  explicit Divisor(std::int64_t divisor) : divisor_(static_cast<std::uint32_t>(divisor)) {
    while ((std::uint64_t{1} << shift_) < divisor_) {
      ++shift_;
    }
    const std::uint64_t power = std::uint64_t{1} << 32;
    multiplier_ = static_cast<std::uint32_t>(
        power * ((std::uint64_t{1} << shift_) - divisor_) / divisor_ + 1);
  }
  __device__ __forceinline__ std::int32_t divide(std::int32_t dividend) const {
    const std::uint32_t value = static_cast<std::uint32_t>(dividend);
    return static_cast<std::int32_t>((__umulhi(value, multiplier_) + value) >> shift_);
  }

 private:
  std::uint32_t divisor_ = 1;
  std::uint32_t multiplier_ = 1;
  std::uint32_t shift_ = 0;
};

template <>
class Divisor<std::int64_t> {
 public:
  Divisor() = default;
  explicit Divisor(std::int64_t divisor) : divisor_(divisor) {}
  __device__ __forceinline__ std::int64_t divide(std::int64_t dividend) const {
    return dividend / divisor_;
  }

 private:
  std::int64_t divisor_ = 1;
};

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls visit(TypeTag<Stored>).
template <typename Visitor>
void dispatch_type(DType dtype, Visitor&& visit) {
  if (dtype == DType::float32) {
    visit(TypeTag<float>{});
  } else if (dtype == DType::float64) {
    visit(TypeTag<double>{});
  } else if (dtype == DType::float16) {
    visit(TypeTag<Half>{});
  } else if (dtype == DType::bfloat16) {
    visit(TypeTag<BFloat16>{});
  } else {
    throw std::runtime_error("no CUDA kernel for dtype code " +
                             std::to_string(static_cast<int>(dtype)));
  }
}

// Calls visit(TypeTag<Image>, TypeTag<Field>) for the stored types that an image and a displacement
// may have together: the same, or a float32 displacement with a half image.
template <typename Visitor>
void dispatch_types(DType image, DType field, Visitor&& visit) {
  if (image == DType::float32 && field == DType::float32) {
    visit(TypeTag<float>{}, TypeTag<float>{});
  } else if (image == DType::float64 && field == DType::float64) {
    visit(TypeTag<double>{}, TypeTag<double>{});
  } else if (image == DType::float16 && field == DType::float16) {
    visit(TypeTag<Half>{}, TypeTag<Half>{});
  } else if (image == DType::float16 && field == DType::float32) {
    visit(TypeTag<Half>{}, TypeTag<float>{});
  } else if (image == DType::bfloat16 && field == DType::bfloat16) {
    visit(TypeTag<BFloat16>{}, TypeTag<BFloat16>{});
  } else if (image == DType::bfloat16 && field == DType::float32) {
    visit(TypeTag<BFloat16>{}, TypeTag<float>{});
  } else {
    throw std::runtime_error("no CUDA kernel for image dtype code " +
                             std::to_string(static_cast<int>(image)) + " with displacement " +
                             std::to_string(static_cast<int>(field)));
  }
}

template <Padding padding>
using PaddingTag = std::integral_constant<Padding, padding>;

template <typename Visitor>
void dispatch_padding(Padding padding, Visitor&& visit) {
  if (padding == Padding::zeros) {
    visit(PaddingTag<Padding::zeros>{});
  } else if (padding == Padding::border) {
    visit(PaddingTag<Padding::border>{});
  } else {
    visit(PaddingTag<Padding::reflection>{});
  }
}

// 32-bit offsets within a channel where they suffice, 64-bit otherwise, and for float64, which is
// not run often enough to be compiled twice.
template <typename Stored, typename Visitor>
void dispatch_index(std::int64_t largest, Visitor&& visit) {
  if constexpr (sizeof(accumulator_t<Stored>) == sizeof(float)) {
    if (largest <= std::numeric_limits<std::int32_t>::max()) {
      visit(TypeTag<std::int32_t>{});
      return;
    }
  }
  visit(TypeTag<std::int64_t>{});
}

template <typename Visitor>
void dispatch_dimension(std::int64_t dimension, Visitor&& visit) {
  if (dimension == 2) {
    visit(std::integral_constant<int, 2>{});
  } else {
    visit(std::integral_constant<int, 3>{});
  }
}

// What one kernel is compiled for.
template <int dimension, Padding kernel_padding, typename ImageType, typename FieldType,
          typename IndexType>
struct Instance {
  static constexpr int D = dimension;
  static constexpr Padding padding = kernel_padding;
  using Image = ImageType;
  using Field = FieldType;
  using Index = IndexType;
};

// Which of the kernels compiled for a dimension and stored types serves a call. Every call is
// served, but each further kernel costs a tenth of a second of build time and 7 kB for every
// architecture. So fast kernels, one per padding, exist for what is run every day: float32 and
// 16-bit types with offsets of 32 bits. float64, and volumes of 2^31 voxels and more, share kernels
// with 64-bit offsets that learn their padding at run time.
template <int D, typename Image, typename Field, typename Visitor>
void dispatch_layout(Padding padding, std::int64_t largest, Visitor&& visit) {
  dispatch_index<Image>(largest, [&](auto index_tag) {
    using Index = typename decltype(index_tag)::type;
    if constexpr (sizeof(Index) == sizeof(std::int32_t)) {
      dispatch_padding(padding, [&](auto tag) {
        visit(Instance<D, decltype(tag)::value, Image, Field, Index>{});
      });
    } else {
      visit(Instance<D, Padding::any, Image, Field, Index>{});
    }
  });
}

// Calls visit(Instance<...>{}) for an operator on an image and a displacement.
template <typename Visitor>
void dispatch_instance(std::int64_t dimension, DType image, DType field, Padding padding,
                       std::int64_t largest, Visitor&& visit) {
  dispatch_dimension(dimension, [&](auto dimension_tag) {
    dispatch_types(image, field, [&](auto image_tag, auto field_tag) {
      dispatch_layout<decltype(dimension_tag)::value, typename decltype(image_tag)::type,
                      typename decltype(field_tag)::type>(padding, largest, visit);
    });
  });
}

// The same for an operator on a displacement alone.
template <typename Visitor>
void dispatch_instance(const Tensor& field, Padding padding, std::int64_t largest,
                       Visitor&& visit) {
  dispatch_dimension(field.shape[1], [&](auto dimension_tag) {
    dispatch_type(field.dtype, [&](auto tag) {
      using Stored = typename decltype(tag)::type;
      dispatch_layout<decltype(dimension_tag)::value, Stored, Stored>(padding, largest, visit);
    });
  });
}

}  // namespace plasticine
