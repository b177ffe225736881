// In which fields an exponential forms what it needs, and in which order; a backend does the
// arithmetic.
#pragma once

#include <algorithm>
#include <vector>

#include "exponential/cpu/exponential.h"

namespace plasticine {

// A stage that is wanted, and where.
struct Target {
  int stage;
  Tensor field;
};

// Where a stage on the way to the targets goes. Stages that are not wanted alternate between spare
// and the field of the next one that is, so that no pass reads the field that it writes.
inline Tensor destination(const std::vector<Target>& targets, int stage, const Tensor& spare) {
  const auto next = std::find_if(targets.begin(), targets.end(),
                                 [&](const Target& target) { return target.stage >= stage; });
  return (next->stage - stage) % 2 == 0 ? next->field : spare;
}

// Field `index` of a contiguous stack (fields, N, d, *spatial); no field where there is no stack.
inline Tensor stacked(const Tensor& stack, int index) {
  Tensor result;
  if (stack.data == nullptr) {
    return result;
  }
  result.dtype = stack.dtype;
  result.ndim = stack.ndim - 1;
  std::copy_n(stack.shape + 1, result.ndim, result.shape);
  std::copy_n(stack.strides + 1, result.ndim, result.strides);
  result.data =
      static_cast<char*>(stack.data) + index * stack.strides[0] * element_size(stack.dtype);
  return result;
}

// The kept stages from `start` of their stack on, then the result.
inline std::vector<Target> targets_of(const Flow& flow, const Stages& stages, int start,
                                      const Tensor& out) {
  std::vector<Target> targets;
  for (std::size_t index = 0; index < stages.kept.size(); ++index) {
    targets.push_back(
        {stages.kept[index], stacked(stages.fields, start + static_cast<int>(index))});
  }
  targets.push_back({flow.steps, out});
  return targets;
}

// The adjoint from the last squaring to the velocity. The fields it works in are numbered: 0 is
// grad_velocity, the others are scratch. Gradients alternate so that the last is formed in field 0.
//
// Passes has integrate(from, source, targets, spare), which computes the stages after `from` up to
// the last target, from the velocity where source has no data; adjoint_of_square(grad, field,
// scale, out), the adjoint of u + u o (id + u) at u = scale * field, to the field; and start(grad,
// out, free), that of the step from the velocity to u_0, with the fields that are free then.
template <typename Passes>
class BackwardSchedule {
 public:
  BackwardSchedule(const Passes& passes, const Flow& flow, const Tensor& grad_out,
                   const Stages& stages, const Tensor& grad_velocity, const Tensor& scratch)
      : passes_(passes), flow_(flow), first_(first_stage(flow)), grad_(grad_out) {
    fields_.push_back(grad_velocity);
    const int scratch_fields = scratch.data == nullptr ? 0 : static_cast<int>(scratch.shape[0]);
    for (int index = 0; index < scratch_fields; ++index) {
      fields_.push_back(stacked(scratch, index));
    }
    holds_.assign(fields_.size(), kFree);
    for (std::size_t index = 0; index < stages.kept.size(); ++index) {
      kept_.push_back({stages.kept[index], stacked(stages.fields, static_cast<int>(index))});
    }
  }

  void run() {
    for (int stage = flow_.steps - 1; stage >= first_; --stage) {
      const int left = stage - first_ + 1;
      const int out = choose_output(left);
      const Tensor field = find(stage, out);
      passes_.adjoint_of_square(grad_, field, 1.0, fields_[out]);
      pass_on(out);
      release(stage);
    }
    if (first_ == 0) {  // the step from the velocity to u_0 is one of its own
      passes_.start(grad_, fields_[0], free_fields());
    } else {
      passes_.adjoint_of_square(grad_, flow_.velocity, flow_.scale, fields_[0]);
    }
  }

 private:
  static constexpr int kFree = -1;
  static constexpr int kGradient = -2;

  int field_count() const { return static_cast<int>(fields_.size()); }

  std::vector<Tensor> free_fields() const {
    std::vector<Tensor> found;
    for (int index = field_count() - 1; index > 0; --index) {
      if (holds_[index] == kFree) {
        found.push_back(fields_[index]);
      }
    }
    return found;
  }

  // left: how many gradients will follow the one that is to be formed.
  int choose_output(int left) const {
    if (left % 2 == 0) {
      return 0;
    }
    int index = field_count() - 1;
    while (holds_[index] != kFree) {
      --index;
    }
    return index;
  }

  // The stage `wanted`, computed again where it is not held. What is on the way to it is held too
  // as far as there is room, but never in the fields that the gradients need.
  Tensor find(int wanted, int out) {
    int from = first_ - 1;
    Tensor source;
    const auto consider = [&](int stage, const Tensor& field) {
      if (stage >= 0 && stage <= wanted && stage > from) {
        from = stage;
        source = field;
      }
    };
    for (const Target& kept : kept_) {
      consider(kept.stage, kept.field);
    }
    for (int index = 0; index < field_count(); ++index) {
      consider(holds_[index], fields_[index]);
    }
    if (source.data != nullptr && from == wanted) {
      return source;
    }
    std::vector<int> room;  // not field 0: it must be free again for the next gradient but one
    int held = 0;
    for (int index = 1; index < field_count(); ++index) {
      if (holds_[index] == kFree && index != out) {
        room.push_back(index);
      }
      held += holds_[index] >= 0 ? 1 : 0;
    }
    std::vector<Target> targets;
    const int rooms = static_cast<int>(room.size());
    for (const int stage : worth_holding(from, wanted, held, out, rooms)) {
      int index = 0;
      if (!room.empty()) {
        index = room.back();
        room.pop_back();
      }
      holds_[index] = stage;
      targets.push_back({stage, fields_[index]});
    }
    passes_.integrate(from, source, targets, fields_[out]);
    return targets.back().field;
  }

  // Which stages after `from` to hold, in ascending order, the wanted one among them. One that is
  // used by the very next step may take a field that the gradients will need later.
  std::vector<int> worth_holding(int from, int wanted, int held, int out, int rooms) const {
    // The wanted stage itself may be in field 0 where no gradient is there or is about to be.
    const bool in_field_0 = holds_[0] == kFree && out != 0;
    const int free = rooms - (in_field_0 ? 0 : 1);
    // For good: all but the fields of a gradient and of the stage in use.
    const int lasting = std::max(field_count() - 3 - held, 0);
    std::vector<int> stages;
    const bool next_too = free > lasting && wanted - 1 > from;
    const int top = next_too ? wanted - 1 : wanted;
    const int count = std::min({next_too ? free - 1 : free, lasting, top - from - 1});
    for (int index = 1; index <= count; ++index) {
      stages.push_back(from + (index * (top - from) + count) / (count + 1));  // rounded up
    }
    if (next_too) {
      stages.push_back(top);
    }
    stages.push_back(wanted);
    return stages;
  }

  void pass_on(int out) {
    std::replace(holds_.begin(), holds_.end(), kGradient, kFree);
    holds_[out] = kGradient;
    grad_ = fields_[out];
  }

  void release(int stage) { std::replace(holds_.begin(), holds_.end(), stage, kFree); }

  const Passes passes_;
  const Flow& flow_;
  const int first_;
  Tensor grad_;
  std::vector<Tensor> fields_;
  std::vector<int> holds_;  // per field: a stage, kFree or kGradient
  std::vector<Target> kept_;
};

}  // namespace plasticine
