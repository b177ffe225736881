// What every CUDA operator needs around its kernels: checked calls, the device guard, the sizes
// that a launch is made of.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/tensor.h"

namespace plasticine::cuda {

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

inline std::int64_t element_count(const Tensor& tensor, int first_axis = 0) {
  std::int64_t count = 1;
  for (int axis = first_axis; axis < tensor.ndim; ++axis) {
    count *= tensor.shape[axis];
  }
  return count;
}

// The voxels of a channel of a (N, C, *spatial) tensor.
inline std::int64_t voxel_count(const Tensor& tensor) { return element_count(tensor, 2); }

// Blocks along y or z for so many items; where there are fewer, each goes on in strides of the
// grid.
inline unsigned grid_extent(std::int64_t items) {
  constexpr std::int64_t most = 65535;
  return static_cast<unsigned>(std::min(items, most));
}

// On the stream, as every launch; the tensor must be contiguous. One that is absent stays so.
inline void zero_fill(const Tensor& tensor, StreamHandle stream) {
  const std::int64_t bytes = element_count(tensor) * element_size(tensor.dtype);
  if (tensor && bytes > 0) {
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

}  // namespace plasticine::cuda
