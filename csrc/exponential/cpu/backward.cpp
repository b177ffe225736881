#include <algorithm>

#include "core/cpu/huge_pages.h"
#include "exponential/cpu/exponential.h"
#include "exponential/cpu/first_stage.h"
#include "exponential/stages.h"
#include "warp/cpu/warp.h"

namespace plasticine {

namespace {

// out = factor * field, or out += factor * field; both contiguous.
template <typename T>
void scale_field(const Tensor& field, double factor, bool add, const Tensor& out, int threads) {
  const Grid grid(field);
  const std::int64_t channels = field.shape[1];
  const T scale = static_cast<T>(factor);
  for_each_block(field.shape[0], grid, threads, [&](std::int64_t sample, const Block& block) {
    for (std::int64_t channel = 0; channel < channels; ++channel) {
      alignas(64) T values[kBlock];
      load_block(field, grid, sample, channel, block, values);
      T* target = static_cast<T*>(block_target(out, sample, channel, block));
      for (int j = 0; j < block.count; ++j) {
        target[j] = (add ? target[j] : T(0)) + scale * values[j];
      }
    }
  });
}

void scale_any(const Tensor& field, double factor, bool add, const Tensor& out, int threads) {
  with_accumulator(field.dtype, [&](auto zero) {
    scale_field<decltype(zero)>(field, factor, add, out, threads);
  });
}

// Writes the second and third stage of the classical Runge-Kutta step, unscaled.
template <typename T>
void store_stages(const Flow& flow, const Tensor& second, const Tensor& third) {
  prefer_huge_pages(second);
  prefer_huge_pages(third);
  const FirstStage<T> start(flow);
  for_each_block(second.shape[0], start.grid, flow.threads,
                 [&](std::int64_t sample, const Block& block) {
                   alignas(64) T velocity[3 * kBlock];
                   alignas(64) T stage[2][3 * kBlock];
                   start.load(sample, block, velocity);
                   start.compute_stages(sample, block, velocity, stage[0], stage[1]);
                   store_rows(stage[0], second, sample, block);
                   store_rows(stage[1], third, sample, block);
                 });
}

// What BackwardSchedule asks for.
class Passes {
 public:
  explicit Passes(const Flow& flow) : flow_(flow) {}

  void integrate(int from, const Tensor& source, const std::vector<Target>& targets,
                 const Tensor& spare) const {
    plasticine::integrate(flow_, from, source, targets, spare);
  }

  // The adjoint of u + u o (id + u) at u = scale * field, to the field.
  void adjoint_of_square(const Tensor& grad, const Tensor& field, double scale,
                         const Tensor& out) const {
    WarpBackward call;
    call.grad_out = grad;
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

  void start(const Tensor& grad, const Tensor& out, const std::vector<Tensor>& free) const {
    const double scale = flow_.scale;
    switch (flow_.method) {
      case Method::euler:
        return scale_any(grad, scale, false, out, flow_.threads);
      case Method::midpoint:
        return adjoint_of_sample(grad, scale, flow_.velocity, 0.5 * scale, true, out, out);
      case Method::rk4:
        return start_rk4(grad, out, free);
    }
  }

 private:
  // The adjoint of scale * v(p + displacement_scale * displacement(p)), to v and the displacement.
  void adjoint_of_sample(const Tensor& grad, double scale, const Tensor& displacement,
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

  // u_0 = scale / 6 (k_1 + 2 k_2 + 2 k_3 + k_4), with k_1 = v and each further stage sampled where
  // the one before it leads. The second and third are computed again.
  void start_rk4(const Tensor& grad, const Tensor& grad_velocity,
                 const std::vector<Tensor>& free) const {
    const double scale = flow_.scale;
    const Tensor& second = free[0];
    const Tensor& third = free[1];
    with_accumulator(second.dtype,
                     [&](auto zero) { store_stages<decltype(zero)>(flow_, second, third); });
    const Tensor& grad_third = free[2];
    adjoint_of_sample(grad, scale / 6, third, scale, false, grad_velocity, grad_third);
    scale_any(grad, scale / 3, true, grad_third, flow_.threads);
    const Tensor& grad_second = third;
    adjoint_of_sample(grad_third, 1.0, second, 0.5 * scale, true, grad_velocity, grad_second);
    scale_any(grad, scale / 3, true, grad_second, flow_.threads);
    const Tensor& grad_first = grad_third;
    adjoint_of_sample(grad_second, 1.0, flow_.velocity, 0.5 * scale, true, grad_velocity,
                      grad_first);
    scale_any(grad_first, 1.0, true, grad_velocity, flow_.threads);
    scale_any(grad, scale / 6, true, grad_velocity, flow_.threads);
  }

  const Flow& flow_;
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
    BackwardSchedule<Passes>(Passes(own), own, narrowed(grad_out, 0, sample),
                             {narrowed(stages.fields, 1, sample), stages.kept},
                             narrowed(grad_velocity, 0, sample), narrowed(scratch, 1, slot))
        .run();
  });
}

}  // namespace plasticine
