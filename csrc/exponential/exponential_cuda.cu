// The exponential on the GPU: one launch a squaring, of exp(v) and exp(-v) together where both are
// asked for, and one for the step before. Euler's u_0 = scale * v is never in memory: its squaring
// reads the velocity.
#include "exponential/exponential_cuda.h"

#include "compose/compose_cuda.h"
#include "core/cuda_launch.h"
#include "exponential/exponential_start_cuda.h"

namespace plasticine::cuda {
namespace {

// A stage of exp(v) and, where it has data, of exp(-v).
struct FieldPair {
  Tensor forth;
  Tensor back;
};

Composition squaring_of(const Tensor& field, double scale) {
  Composition composition;
  composition.field = field;
  composition.displacement = field;
  composition.scale = scale;
  composition.location_scale = scale;
  return composition;
}

// Samples the velocity halfway through the step over `scale`.
Composition midpoint_of(const Flow& flow, double scale) {
  Composition composition = squaring_of(flow.velocity, scale);
  composition.location_scale = 0.5 * scale;
  composition.add = false;
  return composition;
}

void compose_pair(const Composition& forth, const Composition& back, const FieldPair& out,
                  Padding padding, std::uintptr_t stream) {
  ComposedPair pair{forth, out.forth, std::nullopt, out.back};
  if (out.back.data != nullptr) {
    pair.second = back;
  }
  compose_forward(pair, padding, stream);
}

// The stage first_stage(flow).
void first_pass(const Flow& flow, const FieldPair& out, std::uintptr_t stream) {
  const bool is_squared = first_stage(flow) == 1;
  if (flow.method == Method::midpoint) {
    compose_pair(midpoint_of(flow, flow.scale), midpoint_of(flow, -flow.scale), out, flow.padding,
                 stream);
  } else if (is_squared) {
    compose_pair(squaring_of(flow.velocity, flow.scale), squaring_of(flow.velocity, -flow.scale),
                 out, flow.padding, stream);
  } else {
    start_forward(flow, out.forth, out.back, stream);
  }
}

void square(const Flow& flow, const FieldPair& field, const FieldPair& out, std::uintptr_t stream) {
  compose_pair(squaring_of(field.forth, 1.0), squaring_of(field.back, 1.0), out, flow.padding,
               stream);
}

// The adjoint of its steps, for BackwardSchedule.
class Passes {
 public:
  Passes(const Flow& flow, std::uintptr_t stream) : flow_(flow), stream_(stream) {}

  void integrate(int from, const Tensor& source, const std::vector<Target>& targets,
                 const Tensor& spare) const {
    cuda::integrate(flow_, from, source, targets, spare, stream_);
  }

  void unsquare(const Tensor& grad, const Tensor& field, double scale, const Tensor& out) const {
    zero_fill(out, stream_);
    unsample(grad, squaring_of(field, scale), out, {}, grad, scale);
  }

  void start(const Tensor& grad, const Tensor& out, const std::vector<Tensor>& free) const {
    Flow scaled = flow_;
    switch (flow_.method) {
      case Method::euler:
        scaled.velocity = grad;
        return start_forward(scaled, out, Tensor(), stream_);
      case Method::midpoint:
        zero_fill(out, stream_);
        return unsample(grad, midpoint_of(flow_, flow_.scale), out, {}, Tensor(), 0.0);
      case Method::rk4:
        return start_rk4(grad, out, free);
    }
  }

 private:
  // u_0 = scale / 6 (k_1 + 2 k_2 + 2 k_3 + k_4), with k_1 = v and each further slope sampled where
  // the one before it leads. The second and third are computed again.
  void start_rk4(const Tensor& grad, const Tensor& out, const std::vector<Tensor>& free) const {
    const Tensor& second = free[0];
    const Tensor& third = free[1];
    const Tensor& grad_third = free[2];
    const Tensor& grad_second = third;
    const double scale = flow_.scale;
    store_slopes(flow_, second, third, stream_);
    zero_fill(out, stream_);
    unsample(grad, slope_at(third, scale, scale / 6), out, grad_third, grad, scale / 3);
    unsample(grad_third, slope_at(second, 0.5 * scale, 1.0), out, grad_second, grad, scale / 3);
    unsample(grad_second, slope_at(flow_.velocity, 0.5 * scale, 1.0), out, {}, grad, scale / 6);
  }

  Composition slope_at(const Tensor& displacement, double location_scale, double scale) const {
    Composition composition;
    composition.field = flow_.velocity;
    composition.displacement = displacement;
    composition.scale = scale;
    composition.location_scale = location_scale;
    composition.add = false;
    return composition;
  }

  // Adds the gradient of the field to grad_field, and there too that of the displacement, plus
  // added_scale * added, unless that has a field of its own.
  void unsample(const Tensor& grad, const Composition& composition, const Tensor& grad_field,
                const Tensor& grad_displacement, const Tensor& added, double added_scale) const {
    CompositionGradients gradients;
    gradients.field = grad_field;
    gradients.displacement = grad_displacement;
    gradients.is_same = !grad_displacement;
    gradients.added = added;
    gradients.added_scale = added_scale;
    compose_backward(grad, composition, gradients, flow_.padding, stream_);
  }

  const Flow& flow_;
  const std::uintptr_t stream_;
};

}  // namespace

void integrate(const Flow& flow, int from, const Tensor& source, const std::vector<Target>& targets,
               const Tensor& spare, std::uintptr_t stream) {
  Tensor field = source;
  if (field.data == nullptr) {
    from = first_stage(flow);
    field = destination(targets, from, spare);
    first_pass(flow, {field, Tensor()}, stream);
  }
  for (int stage = from + 1; stage <= targets.back().stage; ++stage) {
    const Tensor next = destination(targets, stage, spare);
    square(flow, {field, Tensor()}, {next, Tensor()}, stream);
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
  std::vector<Target> back = forth;
  Tensor back_spare;
  if (inverse.data != nullptr) {
    back = targets_of(flow, stages, static_cast<int>(stages.kept.size()), inverse);
    back_spare = scratch.data == nullptr ? Tensor() : stacked(scratch, 1);
  }
  const auto fields_of = [&](int stage) {
    FieldPair fields{destination(forth, stage, stacked(scratch, 0)), Tensor()};
    if (inverse.data != nullptr) {
      fields.back = destination(back, stage, back_spare);
    }
    return fields;
  };
  FieldPair fields = fields_of(first_stage(flow));
  first_pass(flow, fields, stream);
  for (int stage = first_stage(flow) + 1; stage <= flow.steps; ++stage) {
    const FieldPair next = fields_of(stage);
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
