// The exponential on the GPU: one launch a squaring, of exp(v) and exp(-v) together where both are
// asked for, and one for the step before. Euler's u_0 = scale * v is never in memory: its squaring
// reads the velocity.
#include "exponential/cuda/exponential.h"

#include "compose/cuda/compose.h"
#include "core/cuda/launch.h"

namespace plasticine::cuda {
namespace {

// A stage of exp(v) and, where it is wanted, of exp(-v).
using Fields = std::vector<Tensor>;

Composition squaring_of(const Tensor& field, double scale, const Tensor& out = {}) {
  return {field, field, scale, scale, true, out};
}

// Samples the velocity halfway through the step over `scale`.
Composition midpoint_of(const Tensor& velocity, double scale, const Tensor& out = {}) {
  return {velocity, velocity, scale, 0.5 * scale, false, out};
}

// The stage first_stage(flow).
void first_pass(const Flow& flow, const Fields& out, std::uintptr_t stream) {
  const bool is_midpoint = flow.method == Method::midpoint;
  if (!is_midpoint && first_stage(flow) == 0) {
    return take_step(flow, out, stream);
  }
  std::vector<Composition> passes;
  for (const Tensor& field : out) {
    const double scale = passes.empty() ? flow.scale : -flow.scale;
    passes.push_back(is_midpoint ? midpoint_of(flow.velocity, scale, field)
                                 : squaring_of(flow.velocity, scale, field));
  }
  compose_fields(passes, flow.padding, stream);
}

void square(const Flow& flow, const Fields& fields, const Fields& out, std::uintptr_t stream) {
  std::vector<Composition> passes;
  for (std::size_t which = 0; which < fields.size(); ++which) {
    passes.push_back(squaring_of(fields[which], 1.0, out[which]));
  }
  compose_fields(passes, flow.padding, stream);
}

// The adjoint of its steps, for BackwardSchedule.
class Passes {
 public:
  Passes(const Flow& flow, std::uintptr_t stream) : flow_(flow), stream_(stream) {}

  void integrate(int from, const Tensor& source, const std::vector<Target>& targets,
                 const Tensor& spare) const {
    cuda::integrate(flow_, from, source, targets, spare, stream_);
  }

  void adjoint_of_square(const Tensor& grad, const Tensor& field, double scale,
                         const Tensor& out) const {
    zero_fill(out, stream_);
    add_adjoint(grad, squaring_of(field, scale), out, {}, grad, scale);
  }

  void start(const Tensor& grad, const Tensor& out, const std::vector<Tensor>& free) const {
    Flow scaled = flow_;
    switch (flow_.method) {
      case Method::euler:
        scaled.velocity = grad;
        return take_step(scaled, {out}, stream_);
      case Method::midpoint:
        zero_fill(out, stream_);
        return add_adjoint(grad, midpoint_of(flow_.velocity, flow_.scale), out, {}, {}, 0.0);
      case Method::rk4:
        return start_rk4(grad, out, free);
    }
  }

 private:
  // u_0 = scale / 6 (k_1 + 2 k_2 + 2 k_3 + k_4), with k_1 = v and each further velocity sampled
  // where the one before it leads. The second and third are computed again.
  void start_rk4(const Tensor& grad, const Tensor& out, const std::vector<Tensor>& free) const {
    const Tensor& velocity = flow_.velocity;
    const Tensor& second = free[0];
    const Tensor& third = free[1];
    const Tensor& grad_third = free[2];
    const Tensor& grad_second = third;
    const double scale = flow_.scale;
    store_slopes(flow_, second, third, stream_);
    zero_fill(out, stream_);
    add_adjoint(grad, {velocity, third, scale / 6, scale}, out, grad_third, grad, scale / 3);
    add_adjoint(grad_third, {velocity, second, 1.0, 0.5 * scale}, out, grad_second, grad,
                scale / 3);
    add_adjoint(grad_second, {velocity, velocity, 1.0, 0.5 * scale}, out, {}, grad, scale / 6);
  }

  // Adds the gradient of the field to grad_field, and there too that of the displacement, plus
  // added_scale * added, unless that has a field of its own.
  void add_adjoint(const Tensor& grad, const Composition& composition, const Tensor& grad_field,
                   const Tensor& grad_displacement, const Tensor& added, double added_scale) const {
    compose_adjoint(grad, composition,
                    {grad_field, {}, {}, grad_displacement, !grad_displacement, added, added_scale},
                    flow_.padding, stream_);
  }

  const Flow& flow_;
  const std::uintptr_t stream_;
};

}  // namespace

void integrate(const Flow& flow, int from, const Tensor& source, const std::vector<Target>& targets,
               const Tensor& spare, std::uintptr_t stream) {
  Tensor field = source;
  if (!field) {
    from = first_stage(flow);
    field = destination(targets, from, spare);
    first_pass(flow, {field}, stream);
  }
  for (int stage = from + 1; stage <= targets.back().stage; ++stage) {
    const Tensor next = destination(targets, stage, spare);
    square(flow, {field}, {next}, stream);
    field = next;
  }
}

void exponential_forward(const Flow& flow, const Tensor& out, const Tensor& inverse,
                         const Stages& stages, const Tensor& scratch, int device,
                         std::uintptr_t stream) {
  if (is_empty(flow)) {
    return;
  }
  const DeviceGuard guard(device);
  const std::vector<Target> forth = targets_of(flow, stages, 0, out);
  const std::vector<Target> back =
      targets_of(flow, stages, inverse ? static_cast<int>(stages.kept.size()) : 0, inverse);
  const auto fields_of = [&](int stage) {
    Fields fields{destination(forth, stage, stacked(scratch, 0))};
    if (inverse) {
      fields.push_back(destination(back, stage, stacked(scratch, 1)));
    }
    return fields;
  };
  Fields fields = fields_of(first_stage(flow));
  first_pass(flow, fields, stream);
  for (int stage = first_stage(flow) + 1; stage <= flow.steps; ++stage) {
    const Fields next = fields_of(stage);
    square(flow, fields, next, stream);
    fields = next;
  }
}

void exponential_resume(const Flow& flow, const Tensor& out, const Stages& stages,
                        const Tensor& scratch, int device, std::uintptr_t stream) {
  if (is_empty(flow)) {
    return;
  }
  const DeviceGuard guard(device);
  const int last = static_cast<int>(stages.kept.size()) - 1;
  integrate(flow, stages.kept[last], stacked(stages.fields, last), {{flow.steps, out}},
            stacked(scratch, 0), stream);
}

void exponential_backward(const Flow& flow, const Tensor& grad_out, const Stages& stages,
                          const Tensor& grad_velocity, const Tensor& scratch, int device,
                          std::uintptr_t stream) {
  if (is_empty(flow)) {
    return;
  }
  const DeviceGuard guard(device);
  const Passes passes(flow, stream);
  BackwardSchedule<Passes>(passes, flow, grad_out, stages, grad_velocity, scratch).run();
}

}  // namespace plasticine::cuda
