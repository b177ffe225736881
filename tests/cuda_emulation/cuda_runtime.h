// A CUDA runtime for machines without a GPU: enough of it that the .cu files compile as plain C++
// and their kernels run on host memory, one block after another.
//
// It stands in front of the real cuda_runtime.h on the include path, in tests only. The threads of
// a block are fibers that take turns; a barrier, or a shuffle, is a turn. It shows what a kernel
// computes, with the GPU's index arithmetic, atomics and shuffles, and that its barriers are met by
// every thread; it does not show races, nor what the GPU's own arithmetic rounds differently.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static  // blocks run one after another: one copy serves them all

using std::isfinite;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// A store as any other.
template <typename T>
void __stwb(T* address, T value) {
  *address = value;
}

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorUnknown = 999 };
struct CUstream_st;
using cudaStream_t = CUstream_st*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "cudaErrorInvalidConfiguration"
                                                : "cudaErrorUnknown";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorUnknown ? "the threads of a block met different barriers"
                                   : "the grid is empty or too large";
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

namespace emulation {

constexpr int kWarp = 32;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
};

inline ucontext_t scheduler;
inline std::vector<Fiber> fibers;
inline std::function<void()> body;
inline double shuffled[1024];

inline void run_thread() {
  body();
  fibers[threadIdx.x].done = true;
  swapcontext(&fibers[threadIdx.x].context, &scheduler);
}

inline void take_turn() { swapcontext(&fibers[threadIdx.x].context, &scheduler); }

// Runs the threads of one block until all are done; false when they met different barriers.
inline bool run_block(unsigned threads) {
  constexpr std::size_t stack_bytes = 64 << 10;
  fibers.resize(threads);
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    if (!fiber.stack) {
      fiber.stack = std::make_unique<char[]>(stack_bytes);
    }
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_thread, 0);
  }
  for (;;) {
    unsigned waiting = 0;
    for (unsigned i = 0; i < threads; ++i) {
      threadIdx = dim3(i, 0, 0);
      if (!fibers[i].done) {
        swapcontext(&scheduler, &fibers[i].context);
        waiting += fibers[i].done ? 0 : 1;
      }
    }
    if (waiting == 0) {
      return true;
    }
    if (waiting != threads) {
      return false;  // a thread left the kernel while others wait at a barrier
    }
  }
}

}  // namespace emulation

inline void __syncthreads() { emulation::take_turn(); }

template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned offset) {
  emulation::shuffled[threadIdx.x] = static_cast<double>(value);
  emulation::take_turn();
  const unsigned lane = threadIdx.x % emulation::kWarp;
  const bool within = lane + offset < emulation::kWarp;
  const T result = within ? static_cast<T>(emulation::shuffled[threadIdx.x + offset]) : value;
  emulation::take_turn();
  return result;
}

template <typename T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}

inline std::uint32_t __umulhi(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint32_t>((std::uint64_t{a} * b) >> 32);
}

inline long long __double2ll_rn(double value) { return std::llrint(value); }

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  if (gridDim.x == 0 || gridDim.y == 0 || gridDim.z == 0 || gridDim.y > 65535 ||
      gridDim.z > 65535 || blockDim.x == 0 || blockDim.x > 1024) {
    return cudaErrorInvalidConfiguration;
  }
  emulation::body = [&] { kernel(arguments...); };
  for (unsigned z = 0; z < gridDim.z; ++z) {
    for (unsigned y = 0; y < gridDim.y; ++y) {
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = dim3(x, y, z);
        if (!emulation::run_block(blockDim.x)) {
          return cudaErrorUnknown;
        }
      }
    }
  }
  return cudaSuccess;
}
