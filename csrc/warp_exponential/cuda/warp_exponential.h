// The CUDA warp by an exponential, as the bindings call it. Nothing here needs a CUDA header.
#pragma once

#include "exponential/cuda/exponential.h"

namespace plasticine::cuda {

// As the CPU's, for an image in float32, float16 or bfloat16, a float32 velocity, offsets of 32
// bits, and a last step that is a composition: with any squarings, or by the midpoint rule.
void warp_exponential_forward(const Tensor& image, const Flow& flow, const Tensor& out,
                              const Stages& stages, const Tensor& scratch, Mode mode,
                              Padding padding, int device, std::uintptr_t stream);

}  // namespace plasticine::cuda
