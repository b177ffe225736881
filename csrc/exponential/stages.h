// One pass from the velocity, one pass a squaring, one sample after the other.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/cpu/parallel.h"
#include "exponential/schedule.h"

namespace plasticine {

// Writes the stage first_stage(flow) and, where inverse has data, that of the flow of -v: each
// block of the velocity is read once for both.
void first_pass(const Flow& flow, const Tensor& out, const Tensor& inverse);

// Computes the stages after `stage`, which `field` holds, up to the last target; the first stage
// comes from the velocity where field has no data. The targets are in ascending order.
void integrate(const Flow& flow, int stage, Tensor field, const std::vector<Target>& targets,
               const Tensor& spare);

// One place on an axis, which stays with length 1; without data where the tensor has none.
Tensor narrowed(const Tensor& tensor, int axis, std::int64_t index);

// Calls work(flow of the sample, sample, slot) for every sample of a flow: one sample goes through
// all its passes before the next, so that its fields stay in the cache. As many samples are under
// way as there are slots, each in one of its own, and share the threads.
template <typename Work>
void for_each_sample(const Flow& flow, int slots, const Work& work) {
  const std::int64_t samples = flow.velocity.shape[0];
  std::atomic<std::int64_t> next(0);
  parallel_for(slots, 1, slots, [&](std::int64_t slot) {
    for (std::int64_t sample = next++; sample < samples; sample = next++) {
      Flow own = flow;
      own.velocity = narrowed(flow.velocity, 0, sample);
      own.threads = flow.threads / slots > 1 ? flow.threads / slots : 1;
      work(own, sample, slot);
    }
  });
}

}  // namespace plasticine
