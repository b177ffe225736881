#include "core/cuda/device.h"

#include "core/cuda/launch.h"

namespace plasticine::cuda {
namespace {

// Compiled for what every kernel is compiled for.
__global__ void probe_kernel() {}

}  // namespace

std::string device_error(int device) {
  try {
    const DeviceGuard guard(device);
    cudaFuncAttributes attributes;
    check_cuda(cudaFuncGetAttributes(&attributes, probe_kernel), "cudaFuncGetAttributes");
  } catch (const std::runtime_error& error) {
    cudaGetLastError();  // or a launch that has nothing to do with it would meet the error
    return error.what();
  }
  return {};
}

}  // namespace plasticine::cuda
