// The gradient to the image: each output voxel's gradient, spread over its cell.
#pragma once

#include "warp_cpu.h"

namespace plasticine {

// Deterministic whatever the number of threads, without a copy of the image per thread: every task
// owns a range of one image axis and visits, in the output's order, the blocks that reach into it.
template <typename T>
void scatter_to_image(const WarpBackward& call);

}  // namespace plasticine
