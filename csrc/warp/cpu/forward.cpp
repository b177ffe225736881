#include "core/cpu/block_sampler.h"
#include "core/cpu/huge_pages.h"
#include "warp/cpu/cubic.h"
#include "warp/cpu/warp.h"

namespace plasticine {

namespace {

template <typename T>
void forward(const WarpForward& call) {
  const Locations<T> locations(call.displacement, call.affine, 1.0);
  const BlockSampler<T> sampler(call.image, call.mode, call.padding, locations.grid);
  for_each_block(call.displacement.shape[0], locations.grid, call.threads,
                 [&](std::int64_t sample, const Block& block) {
                   sampler.sample(sample, block, locations, nullptr, T(1), call.add,
                                  channels_at(call.out, sample, block));
                 });
}

}  // namespace

void warp_forward(const WarpForward& call) {
  prefer_huge_pages(call.out);
  if (is_cubic(call.mode)) {
    warp_cubic_forward(call);
  } else {
    with_accumulator(call.image.dtype, [&](auto zero) { forward<decltype(zero)>(call); });
  }
}

}  // namespace plasticine
