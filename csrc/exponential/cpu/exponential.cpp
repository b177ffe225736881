#include "exponential/cpu/exponential.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "compose/cpu/compose.h"
#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
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
  const Grid& grid = forth.grid;
  parallel_for(out.shape[0] * grid.tasks, kTaskGrain, flow.threads, [&](std::int64_t task) {
    const std::int64_t sample = task / grid.tasks;
    grid.for_each_block(task % grid.tasks, [&](const Block& block) {
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
  const std::int64_t tasks = velocity.shape[0] * grid.tasks;
  std::vector<double> highest(tasks, 0.0);
  parallel_for(tasks, kTaskGrain, threads, [&](std::int64_t task) {
    grid.for_each_block(task % grid.tasks, [&](const Block& block) {
      alignas(64) T row[kBlock];
      double square[kBlock] = {};
      for (int axis = 0; axis < grid.ndim; ++axis) {
        load_block(velocity, grid, task / grid.tasks, axis, block, row);
        for (int j = 0; j < block.count; ++j) {
          square[j] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
        }
      }
      double most = highest[task];
      for (int j = 0; j < block.count; ++j) {
        const bool counts = square[j] <= std::numeric_limits<double>::max();
        most = counts && square[j] > most ? square[j] : most;
      }
      highest[task] = most;
    });
  });
  double most = 0.0;
  for (const double value : highest) {
    most = std::max(most, value);
  }
  return std::sqrt(most);
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
  if (flow.velocity.dtype == DType::float64) {
    run_first_pass<double>(flow, out, inverse);
  } else {
    run_first_pass<float>(flow, out, inverse);
  }
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
  return velocity.dtype == DType::float64 ? peak<double>(velocity, threads)
                                          : peak<float>(velocity, threads);
}

}  // namespace plasticine
