// Loads and stores in the accumulator's type, with what the caches should know of them.
#pragma once

#include <type_traits>

#include "core/cuda/launch.h"
#include "core/half.h"

namespace plasticine::cuda {

// The type through which the compiler moves a stored value.
template <typename Stored>
using transfer_t = std::conditional_t<sizeof(Stored) == 2, unsigned short, Stored>;

// The address itself, not the sums that it was made of: the compiler would take those apart again,
// and repeat 64-bit arithmetic in the loops.
template <typename Stored>
__device__ __forceinline__ Stored* settled(Stored* address) {
#if defined(__CUDA_ARCH__)
  asm("" : "+l"(address));
#endif
  return address;
}

// What no thread writes while the kernel runs.
template <typename Stored>
__device__ __forceinline__ accumulator_t<Stored> read(const Stored* address) {
  const auto bits = __ldg(reinterpret_cast<const transfer_t<Stored>*>(address));
  return load(Stored{bits});
}

// The same, where it is read only once.
template <typename Stored>
__device__ __forceinline__ accumulator_t<Stored> read_once(const Stored* address) {
  const auto bits = __ldcs(reinterpret_cast<const transfer_t<Stored>*>(address));
  return load(Stored{bits});
}

// A result, which this kernel does not read again: it should not displace what it does.
template <typename Stored, typename T>
__device__ __forceinline__ void write_once(Stored* address, T value) {
  const Stored rounded = store<Stored>(value);
  if constexpr (sizeof(Stored) == 2) {
    __stcs(reinterpret_cast<unsigned short*>(address), rounded.bits);
  } else {
    __stcs(address, rounded);
  }
}

}  // namespace plasticine::cuda
