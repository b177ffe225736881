#include "exponential/cpu/exponential.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "compose/cpu/compose.h"
#include "core/cpu/huge_pages.h"
#include "exponential/cpu/first_stage.h"
#include "exponential/stages.h"

namespace plasticine {

namespace {

template <typename T>
void run_first_pass(const Flow& flow, const Tensor& out, const Tensor& inverse) {
  Flow backwards = flow;
  backwards.scale = -flow.scale;
  const FirstStage<T> forth(flow);
  const FirstStage<T> back(backwards);
  for_each_block(out.shape[0], forth.grid, flow.threads,
                 [&](std::int64_t sample, const Block& block) {
                   alignas(64) T velocity[3 * kBlock];
                   alignas(64) T result[3 * kBlock];
                   forth.load(sample, block, velocity);
                   forth.compute(sample, block, velocity, result);
                   store_rows(result, out, sample, block);
                   if (inverse.data != nullptr) {
                     back.compute(sample, block, velocity, result);
                     store_rows(result, inverse, sample, block);
                   }
                 });
}

// exponential_forward of samples that go through a pass together.
void run_forward(const Flow& flow, const Tensor& out, const Tensor& inverse, const Stages& stages,
                 const Scratch& scratch) {
  const std::vector<Target> targets = targets_of(flow, stages, 0, out);
  const int first = first_stage(flow);
  const Tensor spare = stacked(scratch, 0);
  if (inverse.data == nullptr) {
    integrate(flow, first, Tensor(), targets, spare);
    return;
  }
  const int count = static_cast<int>(stages.kept.size());
  const std::vector<Target> inverse_targets = targets_of(flow, stages, count, inverse);
  const Tensor inverse_spare = stacked(scratch, 1);
  const Tensor field = destination(targets, first, spare);
  const Tensor inverse_field = destination(inverse_targets, first, inverse_spare);
  first_pass(flow, field, inverse_field);
  integrate(flow, first, field, targets, spare);
  integrate(flow, first, inverse_field, inverse_targets, inverse_spare);
}

template <typename T>
double peak(const Tensor& velocity, int threads) {
  const Grid grid(velocity);
  const std::int64_t samples = velocity.shape[0];
  std::vector<double> highest(samples * grid.tasks, 0.0);
  for_each_block(samples, grid, threads, [&](std::int64_t sample, const Block& block) {
    alignas(64) T row[kBlock];
    double square[kBlock] = {};
    for (int axis = 0; axis < grid.ndim; ++axis) {
      load_block(velocity, grid, sample, axis, block, row);
      for (int j = 0; j < block.count; ++j) {
        square[j] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
      }
    }
    double& most = highest[grid.task_of(sample, block)];
    for (int j = 0; j < block.count; ++j) {
      const bool counts = square[j] <= std::numeric_limits<double>::max();
      most = counts && square[j] > most ? square[j] : most;
    }
  });
  return highest.empty() ? 0.0 : std::sqrt(*std::max_element(highest.begin(), highest.end()));
}

}  // namespace

Tensor narrowed(const Tensor& tensor, int axis, std::int64_t index) {
  Tensor result = tensor;
  if (tensor.data != nullptr) {
    result.data = mutable_element(tensor, index * tensor.strides[axis]);
    result.shape[axis] = 1;
  }
  return result;
}

void first_pass(const Flow& flow, const Tensor& out, const Tensor& inverse) {
  prefer_huge_pages(out);
  prefer_huge_pages(inverse);
  with_accumulator(flow.velocity.dtype,
                   [&](auto zero) { run_first_pass<decltype(zero)>(flow, out, inverse); });
}

void integrate(const Flow& flow, int stage, Tensor field, const std::vector<Target>& targets,
               const Tensor& spare) {
  if (field.data == nullptr) {
    stage = first_stage(flow);
    field = destination(targets, stage, spare);
    first_pass(flow, field, Tensor());
  }
  for (++stage; stage <= targets.back().stage; ++stage) {
    const Tensor next = destination(targets, stage, spare);
    compose_forward(field, field, next, flow.padding, flow.threads);
    field = next;
  }
}

void exponential_forward(const Flow& flow, const Tensor& out, const Tensor& inverse,
                         const Stages& stages, const Scratch& scratch) {
  if (is_empty(flow)) {
    return;
  }
  prefer_huge_pages(out);
  prefer_huge_pages(inverse);
  prefer_huge_pages(stages.fields);
  const int slots = static_cast<int>(scratch.shape[1]);
  for_each_sample(flow, slots, [&](const Flow& own, std::int64_t sample, std::int64_t slot) {
    run_forward(own, narrowed(out, 0, sample), narrowed(inverse, 0, sample),
                {narrowed(stages.fields, 1, sample), stages.kept}, narrowed(scratch, 1, slot));
  });
}

void exponential_resume(const Flow& flow, const Tensor& out, const Stages& stages,
                        const Scratch& scratch) {
  if (is_empty(flow)) {
    return;
  }
  prefer_huge_pages(out);
  const int last = static_cast<int>(stages.kept.size()) - 1;
  const Tensor start = stacked(stages.fields, last);
  const int slots = static_cast<int>(scratch.shape[1]);
  for_each_sample(flow, slots, [&](const Flow& own, std::int64_t sample, std::int64_t slot) {
    integrate(own, stages.kept[last], narrowed(start, 0, sample),
              {{own.steps, narrowed(out, 0, sample)}}, stacked(narrowed(scratch, 1, slot), 0));
  });
}

double exponential_peak(const Tensor& velocity, int threads) {
  return with_accumulator(velocity.dtype,
                          [&](auto zero) { return peak<decltype(zero)>(velocity, threads); });
}

}  // namespace plasticine
