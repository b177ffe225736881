#include "exponential_cpu.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../common/huge_pages.h"
#include "../common/parallel.h"
#include "../compose/compose_cpu.h"
#include "exponential_block.h"
#include "exponential_stages.h"

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

// The kept stages, then the result; those of the inverse come after those of exp(v).
std::vector<Target> targets_of(const Flow& flow, const Stages& stages, bool inverse,
                               const Tensor& out) {
  std::vector<Target> targets;
  const int count = static_cast<int>(stages.kept.size());
  for (int index = 0; index < count; ++index) {
    targets.push_back(
        {stages.kept[index], stacked(out, stages.fields, index + (inverse ? count : 0))});
  }
  targets.push_back({flow.steps, out});
  return targets;
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

Tensor stacked(const Tensor& field, const Tensor& stack, int index) {
  Tensor result = field;
  std::int64_t size = 1;
  for (int axis = field.ndim - 1; axis >= 0; --axis) {
    result.strides[axis] = size;
    size *= field.shape[axis];
  }
  if (stack.data != nullptr) {
    result.data = mutable_element(stack, index * size);
  } else {
    result.data = nullptr;
  }
  return result;
}

void first_pass(const Flow& flow, const Tensor& out, const Tensor& inverse) {
  prefer_huge_pages(out);
  if (inverse.data != nullptr) {
    prefer_huge_pages(inverse);
  }
  if (flow.velocity.dtype == DType::float64) {
    run_first_pass<double>(flow, out, inverse);
  } else {
    run_first_pass<float>(flow, out, inverse);
  }
}

Tensor destination(const std::vector<Target>& targets, int stage, const Tensor& spare) {
  const auto next = std::find_if(targets.begin(), targets.end(),
                                 [&](const Target& target) { return target.stage >= stage; });
  return (next->stage - stage) % 2 == 0 ? next->field : spare;
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
                         const Stages& stages, const Tensor& scratch) {
  if (is_empty(flow)) {
    return;
  }
  const std::vector<Target> targets = targets_of(flow, stages, false, out);
  const int first = first_stage(flow);
  const Tensor spare = stacked(out, scratch, 0);
  if (inverse.data == nullptr) {
    integrate(flow, first, Tensor(), targets, spare);
    return;
  }
  const std::vector<Target> inverse_targets = targets_of(flow, stages, true, inverse);
  const Tensor inverse_spare = stacked(out, scratch, 1);
  const Tensor field = destination(targets, first, spare);
  const Tensor inverse_field = destination(inverse_targets, first, inverse_spare);
  first_pass(flow, field, inverse_field);
  integrate(flow, first, field, targets, spare);
  integrate(flow, first, inverse_field, inverse_targets, inverse_spare);
}

void exponential_resume(const Flow& flow, const Tensor& out, const Stages& stages,
                        const Tensor& scratch) {
  if (is_empty(flow)) {
    return;
  }
  const int last = static_cast<int>(stages.kept.size()) - 1;
  integrate(flow, stages.kept[last], stacked(out, stages.fields, last), {{flow.steps, out}},
            stacked(out, scratch, 0));
}

double exponential_peak(const Tensor& velocity, int threads) {
  return velocity.dtype == DType::float64 ? peak<double>(velocity, threads)
                                          : peak<float>(velocity, threads);
}

}  // namespace plasticine
