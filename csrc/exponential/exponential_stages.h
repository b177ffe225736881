// One pass from the velocity, one pass a squaring, and where the fields in between are put.
#pragma once

#include <vector>

#include "exponential_cpu.h"

namespace plasticine {

// Writes the stage first_stage(flow) and, where inverse has data, that of the flow of -v: each
// block of the velocity is read once for both.
void first_pass(const Flow& flow, const Tensor& out, const Tensor& inverse);

// A stage that is wanted, and where.
struct Target {
  int stage;
  Tensor field;
};

// Where a stage on the way to the targets goes. Stages that are not wanted alternate between spare
// and the field of the next one that is, so that no pass reads the field that it writes.
Tensor destination(const std::vector<Target>& targets, int stage, const Tensor& spare);

// Computes the stages after `stage`, which `field` holds, up to the last target; the first stage
// comes from the velocity where field has no data. The targets are in ascending order.
void integrate(const Flow& flow, int stage, Tensor field, const std::vector<Target>& targets,
               const Tensor& spare);

// Field `index` of a contiguous stack of fields like `field`.
Tensor stacked(const Tensor& field, const Tensor& stack, int index);

}  // namespace plasticine
