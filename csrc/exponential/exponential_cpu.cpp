#include "exponential_cpu.h"

#include <algorithm>

#include "../common/parallel.h"
#include "../compose/compose_cpu.h"
#include "../warp/warp_blocks.h"
#include "../warp/warp_cpu.h"

namespace plasticine {

namespace {

// Field `index` of a contiguous stack of fields like `field`.
Tensor stacked(const Tensor& field, const Tensor& stack, int index) {
  Tensor result = field;
  std::int64_t size = 1;
  for (int axis = field.ndim - 1; axis >= 0; --axis) {
    result.strides[axis] = size;
    size *= field.shape[axis];
  }
  result.data = mutable_element(stack, index * size);
  return result;
}

template <typename T>
void scale_field(const Tensor& field, const Tensor& out, double scale, int threads) {
  const Grid grid(field);
  const std::int64_t channels = field.shape[1];
  const auto& rows = select_convert_rows<T>();
  parallel_for(field.shape[0] * grid.tasks, kTaskGrain, threads, [&](std::int64_t task) {
    const std::int64_t sample = task / grid.tasks;
    grid.for_each_block(task % grid.tasks, [&](const Block& block) {
      for (std::int64_t channel = 0; channel < channels; ++channel) {
        alignas(64) T values[kBlock];
        load_block(field, grid, sample, channel, block, values);
        T* target = static_cast<T*>(block_target(out, sample, channel, block));
        rows.ramp(values, static_cast<T>(scale), T(0), T(0), block.count, target);
      }
    });
  });
}

void scale_any(const Tensor& field, const Tensor& out, double scale, int threads) {
  if (field.dtype == DType::float64) {
    scale_field<double>(field, out, scale, threads);
  } else {
    scale_field<float>(field, out, scale, threads);
  }
}

}  // namespace

void exponential_forward(const Tensor& velocity, const Tensor& out, const Tensor& stages,
                         const Tensor& scratch, double scale, int steps, Padding padding,
                         int threads) {
  const bool keep = stages.data != nullptr;
  if (steps == 0) {
    scale_any(velocity, out, scale, threads);
    return;
  }
  if (keep) {
    scale_any(velocity, stacked(velocity, stages, 0), scale, threads);
  }
  Tensor current = keep ? stacked(velocity, stages, 0) : velocity;
  for (int step = 0; step < steps; ++step) {
    // Without stages the fields alternate between scratch and out so as to end in out.
    Tensor next = out;
    if (keep && step + 1 < steps) {
      next = stacked(velocity, stages, step + 1);
    } else if (!keep && (steps - step) % 2 == 0) {
      next = stacked(velocity, scratch, 0);
    }
    WarpForward call;
    call.image = current;
    call.displacement = current;
    call.out = next;
    call.padding = padding;
    call.add = true;
    call.scale = !keep && step == 0 ? scale : 1.0;
    call.threads = threads;
    warp_forward(call);
    current = next;
  }
}

void exponential_backward(const Tensor& grad_out, const Tensor& stages, const Tensor& grad_velocity,
                          const Tensor& scratch, double scale, int steps, Padding padding,
                          int threads) {
  if (steps == 0) {
    scale_any(grad_out, grad_velocity, scale, threads);
    return;
  }
  Tensor grad = grad_out;
  for (int step = steps - 1; step >= 0; --step) {
    const Tensor field = stacked(grad_velocity, stages, step);
    const Tensor next = step % 2 == 0 ? grad_velocity : stacked(grad_velocity, scratch, 0);
    WarpBackward call;
    call.grad_out = grad;
    call.image = field;
    call.displacement = field;
    call.grad_image = next;
    call.grad_displacement = next;
    call.padding = padding;
    call.add = true;
    call.accumulate = true;
    call.scale = step == 0 ? scale : 1.0;
    call.threads = threads;
    warp_backward(call);
    grad = next;
  }
}

}  // namespace plasticine
