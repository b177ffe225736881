// What the blocks of a kernel have added up of each sample, added up in their order.
#pragma once

#include "core/cuda/grid.cuh"
#include "core/cuda/launch.h"

namespace plasticine::cuda {

// One block a sample; partial: (samples, blocks).
template <typename Stored>
__global__ void __launch_bounds__(kThreads)
    finish_sums_kernel(const double* __restrict__ partial, std::int64_t blocks, double factor,
                       Stored* __restrict__ out) {
  const double* values = partial + blockIdx.x * blocks;
  double mine = 0.0;
  for (std::int64_t block = threadIdx.x; block < blocks; block += kThreads) {
    mine += values[block];
  }
  const double total = merge_block<kThreads>(mine, [](double a, double b) { return a + b; });
  if (threadIdx.x == 0) {
    out[blockIdx.x] = static_cast<Stored>(factor * total);
  }
}

// out: float32 or float64 (samples,), contiguous.
inline void finish_sums(const Tensor& partial, double factor, const Tensor& out,
                        StreamHandle stream) {
  const dim3 grid(static_cast<unsigned>(out.shape[0]));
  const double* values = partial.as<const double>();
  const std::int64_t blocks = partial.shape[1];
  if (out.dtype == DType::float64) {
    launch("finish_sums", finish_sums_kernel<double>, grid, kThreads, stream, values, blocks,
           factor, out.as<double>());
  } else {
    launch("finish_sums", finish_sums_kernel<float>, grid, kThreads, stream, values, blocks, factor,
           out.as<float>());
  }
}

}  // namespace plasticine::cuda
