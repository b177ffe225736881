// A CUDA runtime for machines without a GPU: enough of it that the .cu files compile as plain C++
// and their kernels run on host memory, one block after another.
//
// It stands in front of the real cuda_runtime.h on the include path, in tests only. The threads of
// a block are fibers that take turns; at a barrier all of a block wait, at a shuffle or a vote all
// of a warp. It shows what a kernel computes, with the GPU's index arithmetic, atomics and
// shuffles, and that its barriers are met by every thread, its shuffles by every lane; it does not
// show races, nor what the GPU's own arithmetic rounds differently.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
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
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 1;
  return cudaSuccess;
}
struct cudaFuncAttributes {};
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel*) {
  return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

namespace emulation {

constexpr unsigned kWarp = 32;
constexpr unsigned kMostThreads = 1024;

// What a thread that does not run waits for: the other lanes of its warp, or its whole block.
enum class Waiting { nothing, warp, block };

struct Fiber {
  std::unique_ptr<char[]> stack;
  std::jmp_buf place;  // where it goes on
  Waiting waiting = Waiting::nothing;
  bool started = false;  // it lives from block to block: its start is slow
  bool done = false;
  unsigned turn = 0;  // of the two places where lanes show their values
};

inline std::jmp_buf scheduler;
inline std::vector<Fiber> fibers;
inline std::function<void()> body;
inline char lanes[2][kMostThreads][8];  // what each thread shows the others of its warp

// Back to the scheduler, until it resumes this thread. By a jump: swapcontext makes a system call.
inline void pause() {
  if (setjmp(fibers[threadIdx.x].place) == 0) {
    std::longjmp(scheduler, 1);
  }
}

inline void run_thread() {
  for (;;) {
    body();
    fibers[threadIdx.x].done = true;
    pause();
  }
}

inline void wait_for(Waiting whom) {
  fibers[threadIdx.x].waiting = whom;
  pause();
}

// Runs a thread until it waits or is done.
inline void resume(unsigned thread) {
  constexpr std::size_t stack_bytes = 64 << 10;
  threadIdx = dim3(thread, 0, 0);
  if (setjmp(scheduler) != 0) {
    return;
  }
  if (fibers[thread].started) {
    std::longjmp(fibers[thread].place, 1);
  }
  fibers[thread].started = true;
  fibers[thread].stack = std::make_unique<char[]>(stack_bytes);
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fibers[thread].stack.get();
  context.uc_stack.ss_size = stack_bytes;
  context.uc_link = nullptr;
  makecontext(&context, run_thread, 0);
  setcontext(&context);
}

// Lets threads first to last go on where all of them wait for the same.
inline bool release(unsigned first, unsigned last, Waiting whom) {
  for (unsigned i = first; i < last; ++i) {
    if (fibers[i].done || fibers[i].waiting != whom) {
      return false;
    }
  }
  for (unsigned i = first; i < last; ++i) {
    fibers[i].waiting = Waiting::nothing;
  }
  return true;
}

// Runs the lanes of one warp until each is done or waits for its block; false where some wait for
// lanes that do not come.
inline bool run_warp(unsigned first, unsigned last) {
  do {
    for (unsigned i = first; i < last; ++i) {
      if (!fibers[i].done && fibers[i].waiting == Waiting::nothing) {
        resume(i);
      }
    }
  } while (release(first, last, Waiting::warp));
  for (unsigned i = first; i < last; ++i) {
    if (!fibers[i].done && fibers[i].waiting == Waiting::warp) {
      return false;
    }
  }
  return true;
}

// Runs the threads of one block until all are done; false when they met different barriers.
inline bool run_block(unsigned threads) {
  fibers.resize(threads);
  for (Fiber& fiber : fibers) {
    fiber.started = fiber.started && fiber.done;  // else it waits in a block that failed
    fiber.done = false;
    fiber.waiting = Waiting::nothing;
    fiber.turn = 0;
  }
  do {
    for (unsigned first = 0; first < threads; first += kWarp) {
      if (!run_warp(first, std::min(first + kWarp, threads))) {
        return false;
      }
    }
  } while (release(0, threads, Waiting::block));
  return std::all_of(fibers.begin(), fibers.end(), [](const Fiber& fiber) { return fiber.done; });
}

// Calls visit(lane, what that lane showed) for every lane of the warp. Two places in turn: who
// shows the next value in the one knows that all have come to it, and so have read the other.
template <typename T, typename Visit>
void with_lanes(T value, const Visit& visit) {
  static_assert(sizeof(T) <= sizeof(lanes[0][0]), "at most 8 bytes");
  const unsigned turn = fibers[threadIdx.x].turn++ % 2;
  std::memcpy(lanes[turn][threadIdx.x], &value, sizeof(T));
  wait_for(Waiting::warp);
  const unsigned first = threadIdx.x / kWarp * kWarp;
  for (unsigned lane = 0; lane < kWarp && first + lane < fibers.size(); ++lane) {
    T shown;
    std::memcpy(&shown, lanes[turn][first + lane], sizeof(T));
    visit(lane, shown);
  }
}

// The value of a lane of the warp; the thread's own where there is no such lane.
template <typename T>
T value_of(T value, int source) {
  T result = value;
  with_lanes(value, [&](unsigned lane, T shown) {
    result = static_cast<int>(lane) == source ? shown : result;
  });
  return result;
}

inline int lane_index() { return static_cast<int>(threadIdx.x % kWarp); }

}  // namespace emulation

inline void __syncthreads() { emulation::wait_for(emulation::Waiting::block); }
inline void __syncwarp() { emulation::wait_for(emulation::Waiting::warp); }

// Whole warps only, as the kernels use them: every lane must come, whatever the mask.
template <typename T>
T __shfl_sync(unsigned, T value, int source) {
  return emulation::value_of(value, source % static_cast<int>(emulation::kWarp));
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned offset) {
  return emulation::value_of(value, emulation::lane_index() + static_cast<int>(offset));
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned offset) {
  return emulation::value_of(value, emulation::lane_index() - static_cast<int>(offset));
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  unsigned result = 0;
  emulation::with_lanes(predicate,
                        [&](unsigned lane, int shown) { result |= shown != 0 ? 1u << lane : 0u; });
  return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }

struct alignas(8) float2 {
  float x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }

// Loads and stores with a hint to the caches.
template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}

template <typename T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}
inline float2 atomicAdd(float2* address, float2 value) {
  const float2 before = *address;
  *address = {before.x + value.x, before.y + value.y};
  return before;
}

template <typename T>
T atomicMax(T* address, T value) {
  const T before = *address;
  *address = std::max(before, value);
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
