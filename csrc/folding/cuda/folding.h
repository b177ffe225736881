// The CUDA folding statistics as the bindings call them. Nothing here needs a CUDA header.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace plasticine::cuda {

// statistics: as cpu/folding.h has them. partial: contiguous float64 (N, blocks, 8), scratch, of at
// least one block a sample; what the sums are rounded to depends on the number of blocks, and on
// nothing else. Launched on the stream; raises std::runtime_error with CUDA's message.
void folding(const Tensor& displacement, const Tensor& partial, const Tensor& statistics,
             Scheme scheme, bool interior, const std::vector<double>& spacing, int device,
             std::uintptr_t stream);

}  // namespace plasticine::cuda
