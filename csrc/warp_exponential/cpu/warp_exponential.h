// The warp of an image by the exponential of a velocity field: the last displacement is formed one
// block at a time and used at once.
#pragma once

#include "exponential/cpu/exponential.h"

namespace plasticine {

// out(p) = image(p + exp(v)(p)), with the padding of the image; the velocity's is in the flow. out
// (N, C, *spatial) is contiguous. stages are as in exponential_forward. scratch: two fields, one
// less where the displacement before the last is kept.
void warp_exponential_forward(const Tensor& image, const Flow& flow, const Tensor& out,
                              const Stages& stages, const Tensor& scratch, Mode mode,
                              Padding padding);

}  // namespace plasticine
