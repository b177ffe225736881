// The gradient to the image: each output voxel's gradient, spread over its cell.
#pragma once

#include <cstdint>
#include <functional>

#include "warp/cpu/blocks.h"
#include "warp/cpu/warp.h"

namespace plasticine {

// Work on a block of a sample.
using BlockWork = std::function<void(std::int64_t sample, const Block& block)>;

// Deterministic whatever the number of threads, without a copy of the image per thread: every task
// owns a range of one image axis and visits, in the output's order, the blocks that reach into it.
// first, where given, is called once for every block before it is scattered, while what both read
// is in the cache.
template <typename T>
void scatter_to_image(const WarpBackward& call, const BlockWork& first = nullptr);

// Whether the gradients to the image and to the displacement, which are one field, are formed in
// one pass over the blocks. scatter_to_image then writes their sum, and needs no `first`.
template <typename T>
bool is_joined_pass(const WarpBackward& call);

}  // namespace plasticine
