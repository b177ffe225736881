#include <algorithm>

#include "../common/huge_pages.h"
#include "../common/parallel.h"
#include "../warp/warp_cpu.h"
#include "exponential_block.h"
#include "exponential_cpu.h"
#include "exponential_stages.h"

namespace plasticine {

namespace {

// out = factor * field, or out += factor * field; both contiguous.
template <typename T>
void scale_field(const Tensor& field, double factor, bool add, const Tensor& out, int threads) {
  const Grid grid(field);
  const std::int64_t channels = field.shape[1];
  const T scale = static_cast<T>(factor);
  parallel_for(field.shape[0] * grid.tasks, kTaskGrain, threads, [&](std::int64_t task) {
    const std::int64_t sample = task / grid.tasks;
    grid.for_each_block(task % grid.tasks, [&](const Block& block) {
      for (std::int64_t channel = 0; channel < channels; ++channel) {
        alignas(64) T values[kBlock];
        load_block(field, grid, sample, channel, block, values);
        T* target = static_cast<T*>(block_target(out, sample, channel, block));
        for (int j = 0; j < block.count; ++j) {
          target[j] = (add ? target[j] : T(0)) + scale * values[j];
        }
      }
    });
  });
}

void scale_any(const Tensor& field, double factor, bool add, const Tensor& out, int threads) {
  if (field.dtype == DType::float64) {
    scale_field<double>(field, factor, add, out, threads);
  } else {
    scale_field<float>(field, factor, add, out, threads);
  }
}

// Writes the second and third slope of the classical Runge-Kutta step, unscaled.
template <typename T>
void store_slopes(const Flow& flow, const Tensor& second, const Tensor& third) {
  prefer_huge_pages(second);
  prefer_huge_pages(third);
  const FirstStage<T> start(flow);
  const Grid& grid = start.grid;
  parallel_for(second.shape[0] * grid.tasks, kTaskGrain, flow.threads, [&](std::int64_t task) {
    const std::int64_t sample = task / grid.tasks;
    grid.for_each_block(task % grid.tasks, [&](const Block& block) {
      alignas(64) T velocity[3 * kBlock];
      alignas(64) T slope[2][3 * kBlock];
      start.load(sample, block, velocity);
      start.compute_slopes(sample, block, velocity, slope[0], slope[1]);
      store_rows(slope[0], second, sample, block);
      store_rows(slope[1], third, sample, block);
    });
  });
}

// The adjoint from the last squaring to the velocity. The fields it works in are numbered: 0 is
// grad_velocity, the others are scratch. Gradients alternate so that the last is formed in field 0.
class Backward {
 public:
  Backward(const Flow& flow, const Tensor& grad_out, const Stages& stages,
           const Tensor& grad_velocity, const Scratch& scratch)
      : flow_(flow), first_(first_stage(flow)), grad_(grad_out) {
    fields_.push_back(grad_velocity);
    for (int index = 0; index < static_cast<int>(scratch.shape[0]); ++index) {
      fields_.push_back(stacked(scratch, index));
    }
    holds_.assign(fields_.size(), kFree);
    for (std::size_t index = 0; index < stages.kept.size(); ++index) {
      kept_.push_back({stages.kept[index], stacked(stages.fields, static_cast<int>(index))});
    }
  }

  void run() {
    const bool starts = first_ == 0;  // the step from the velocity to u_0 is one of its own
    for (int stage = flow_.steps - 1; stage >= first_; --stage) {
      const int left = stage - first_ + 1;
      const int out = choose_output(left);
      const Tensor field = find(stage, out);
      unsquare(field, 1.0, fields_[out]);
      pass_on(out);
      release(stage);
    }
    if (starts) {
      start_backward();
    } else {
      unsquare(flow_.velocity, flow_.scale, fields_[0]);
    }
  }

 private:
  static constexpr int kFree = -1;
  static constexpr int kGradient = -2;

  int field_count() const { return static_cast<int>(fields_.size()); }

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
    integrate(flow_, from, source, targets, fields_[out]);
    return targets.back().field;
  }

  // Which stages after `from` to hold, in ascending order, the wanted one among them. One that is
  // used by the very next step may take a field that the gradients will need later.
  std::vector<int> worth_holding(int from, int wanted, int held, int out, int rooms) const {
    // The wanted stage itself may be in field 0 where no gradient is there or is about to be.
    const bool in_field_0 = holds_[0] == kFree && out != 0;
    int free = rooms - (in_field_0 ? 0 : 1);
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

  // The adjoint of u + u o (id + u) at u = scale * field, to the field.
  void unsquare(const Tensor& field, double scale, const Tensor& out) const {
    WarpBackward call;
    call.grad_out = grad_;
    call.grad_image = out;
    call.grad_displacement = out;
    call.padding = flow_.padding;
    call.threads = flow_.threads;
    call.image = field;
    call.displacement = field;
    call.add = true;
    call.accumulate = true;
    call.scale = scale;
    call.displacement_scale = scale;
    warp_backward(call);
  }

  // The adjoint of scale * v(p + displacement_scale * displacement(p)), to v and the displacement.
  void unsample(const Tensor& grad, double scale, const Tensor& displacement,
                double displacement_scale, bool accumulate, const Tensor& grad_velocity,
                const Tensor& grad_displacement) const {
    WarpBackward call;
    call.grad_out = grad;
    call.grad_image = grad_velocity;
    call.grad_displacement = grad_displacement;
    call.padding = flow_.padding;
    call.threads = flow_.threads;
    call.image = flow_.velocity;
    call.displacement = displacement;
    call.accumulate = accumulate;
    call.scale = scale;
    call.displacement_scale = displacement_scale;
    warp_backward(call);
  }

  void start_backward() {
    const double scale = flow_.scale;
    switch (flow_.method) {
      case Method::euler:
        return scale_any(grad_, scale, false, fields_[0], flow_.threads);
      case Method::midpoint:
        return unsample(grad_, scale, flow_.velocity, 0.5 * scale, true, fields_[0], fields_[0]);
      case Method::rk4:
        return rk4_backward(scale);
    }
  }

  // u_0 = scale / 6 (k_1 + 2 k_2 + 2 k_3 + k_4), with k_1 = v and each further slope sampled where
  // the one before it leads. The second and third are computed again.
  void rk4_backward(double scale) {
    Tensor free[3];
    int count = 0;
    for (int index = field_count() - 1; count < 3; --index) {
      if (holds_[index] == kFree) {
        free[count++] = fields_[index];
      }
    }
    const Tensor& second = free[0];
    const Tensor& third = free[1];
    if (second.dtype == DType::float64) {
      store_slopes<double>(flow_, second, third);
    } else {
      store_slopes<float>(flow_, second, third);
    }
    const Tensor& grad_velocity = fields_[0];
    const Tensor& grad_third = free[2];
    unsample(grad_, scale / 6, third, scale, false, grad_velocity, grad_third);
    scale_any(grad_, scale / 3, true, grad_third, flow_.threads);
    const Tensor& grad_second = third;
    unsample(grad_third, 1.0, second, 0.5 * scale, true, grad_velocity, grad_second);
    scale_any(grad_, scale / 3, true, grad_second, flow_.threads);
    const Tensor& grad_first = grad_third;
    unsample(grad_second, 1.0, flow_.velocity, 0.5 * scale, true, grad_velocity, grad_first);
    scale_any(grad_first, 1.0, true, grad_velocity, flow_.threads);
    scale_any(grad_, scale / 6, true, grad_velocity, flow_.threads);
  }

  void pass_on(int out) {
    std::replace(holds_.begin(), holds_.end(), kGradient, kFree);
    holds_[out] = kGradient;
    grad_ = fields_[out];
  }

  void release(int stage) { std::replace(holds_.begin(), holds_.end(), stage, kFree); }

  const Flow& flow_;
  const int first_;
  Tensor grad_;
  std::vector<Tensor> fields_;
  std::vector<int> holds_;  // per field: a stage, kFree or kGradient
  std::vector<Target> kept_;
};

}  // namespace

void exponential_backward(const Flow& flow, const Tensor& grad_out, const Stages& stages,
                          const Tensor& grad_velocity, const Scratch& scratch) {
  if (is_empty(flow)) {
    return;
  }
  prefer_huge_pages(grad_velocity);
  const int slots = static_cast<int>(scratch.shape[1]);
  for_each_sample(flow, slots, [&](const Flow& own, std::int64_t sample, std::int64_t slot) {
    Backward(own, narrowed(grad_out, 0, sample), {narrowed(stages.fields, 1, sample), stages.kept},
             narrowed(grad_velocity, 0, sample), narrowed(scratch, 1, slot))
        .run();
  });
}

}  // namespace plasticine
