#include "warp_exponential/cpu/warp_exponential.h"

#include "core/cpu/huge_pages.h"
#include "exponential/cpu/first_stage.h"
#include "exponential/stages.h"

namespace plasticine {

namespace {

// last: a flow whose first stage is the displacement.
template <typename T>
void last_pass(const Tensor& image, const Flow& last, const Tensor& out, Mode mode,
               Padding padding) {
  const FirstStage<T> stage(last);
  const Locations<T> locations(last.velocity, Tensor(), 1.0);
  const BlockSampler<T> sampler(image, mode, padding, stage.grid);
  for_each_block(out.shape[0], stage.grid, last.threads,
                 [&](std::int64_t sample, const Block& block) {
                   alignas(64) T field[3 * kBlock];
                   alignas(64) T displacement[3 * kBlock];
                   stage.load(sample, block, field);
                   stage.compute(sample, block, field, displacement);
                   sampler.sample(sample, block, locations, displacement, T(1), false,
                                  channels_at(out, sample, block));
                 });
}

}  // namespace

void warp_exponential_forward(const Tensor& image, const Flow& flow, const Tensor& out,
                              const Stages& stages, const Tensor& scratch, Mode mode,
                              Padding padding) {
  if (is_empty(flow)) {
    return;
  }
  prefer_huge_pages(out);
  Flow last = flow;
  if (flow.steps > first_stage(flow)) {
    // The displacement before the last, of which one squaring is left.
    std::vector<Target> targets = targets_of(flow, stages, 0, Tensor());
    targets.pop_back();  // the last stage is never in memory
    int used = 0;
    if (targets.empty() || targets.back().stage != flow.steps - 1) {
      targets.push_back({flow.steps - 1, stacked(scratch, used++)});
    }
    integrate(flow, first_stage(flow), Tensor(), targets, stacked(scratch, used));
    last.velocity = targets.back().field;
    last.scale = 1.0;
    last.steps = 1;
    last.method = Method::euler;
  }
  with_accumulator(flow.velocity.dtype,
                   [&](auto zero) { last_pass<decltype(zero)>(image, last, out, mode, padding); });
}

}  // namespace plasticine
