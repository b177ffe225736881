// plasticine._native: the CPU operators. Every argument has been validated in Python (ops/).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/interruption.h"
#include "common/simd.h"
#include "common/tensor.h"
#include "common/tensor_caster.h"
#include "compose/compose_cpu.h"
#include "exponential/exponential_cpu.h"
#include "folding/folding_cpu.h"
#include "invert/invert_cpu.h"
#include "jacobian/jacobian_cpu.h"
#include "splat/splat_cpu.h"
#include "spline_coefficients/spline_coefficients_cpu.h"
#include "warp/warp_cpu.h"
#include "warp/warp_cubic_cpu.h"
#include "warp/warp_double_backward.h"
#include "warp_exponential/warp_exponential_cpu.h"

namespace py = pybind11;

namespace plasticine {

namespace {

using MaybeTensor = std::optional<Tensor>;

Tensor or_null(const MaybeTensor& tensor) { return tensor.value_or(Tensor()); }

template <void (*run)(const WarpForward&)>
void bind_warp_forward(const Tensor& image, const Tensor& displacement, const MaybeTensor& affine,
                       const Tensor& out, int mode, int padding, int threads) {
  WarpForward call;
  call.image = image;
  call.displacement = displacement;
  call.affine = or_null(affine);
  call.out = out;
  call.mode = static_cast<Mode>(mode);
  call.padding = static_cast<Padding>(padding);
  call.threads = threads;
  run(call);
}

template <void (*run)(const WarpBackward&)>
void bind_warp_backward(const Tensor& grad_out, const Tensor& image, const Tensor& displacement,
                        const MaybeTensor& affine, const MaybeTensor& grad_image,
                        const MaybeTensor& grad_displacement, const MaybeTensor& grad_affine,
                        int mode, int padding, int threads) {
  WarpBackward call;
  call.grad_out = grad_out;
  call.image = image;
  call.displacement = displacement;
  call.affine = or_null(affine);
  call.grad_image = or_null(grad_image);
  call.grad_displacement = or_null(grad_displacement);
  call.grad_affine = or_null(grad_affine);
  call.mode = static_cast<Mode>(mode);
  call.padding = static_cast<Padding>(padding);
  call.threads = threads;
  run(call);
}

void bind_warp_double_backward(const MaybeTensor& image_direction,
                               const MaybeTensor& field_direction,
                               const MaybeTensor& affine_direction, const Tensor& grad_out,
                               const Tensor& image, const Tensor& displacement,
                               const MaybeTensor& affine, const MaybeTensor& to_grad_out,
                               const MaybeTensor& to_image, const MaybeTensor& to_displacement,
                               const MaybeTensor& to_affine, int padding, bool add, int threads) {
  WarpDoubleBackward call;
  call.image_direction = or_null(image_direction);
  call.field_direction = or_null(field_direction);
  call.affine_direction = or_null(affine_direction);
  call.grad_out = grad_out;
  call.image = image;
  call.displacement = displacement;
  call.affine = or_null(affine);
  call.to_grad_out = or_null(to_grad_out);
  call.to_image = or_null(to_image);
  call.to_displacement = or_null(to_displacement);
  call.to_affine = or_null(to_affine);
  call.padding = static_cast<Padding>(padding);
  call.add = add;
  call.threads = threads;
  warp_double_backward(call);
}

void bind_compose_forward(const Tensor& u, const Tensor& v, const Tensor& out, int padding,
                          int threads) {
  compose_forward(u, v, out, static_cast<Padding>(padding), threads);
}

void bind_compose_backward(const Tensor& grad_out, const Tensor& u, const Tensor& v,
                           const MaybeTensor& grad_u, const MaybeTensor& grad_v, int padding,
                           int threads) {
  compose_backward(grad_out, u, v, or_null(grad_u), or_null(grad_v), static_cast<Padding>(padding),
                   threads);
}

Flow flow_of(const Tensor& velocity, double scale, int steps, int method, int padding,
             int threads) {
  return {velocity, scale, steps, static_cast<Method>(method), static_cast<Padding>(padding),
          threads};
}

void bind_exponential_forward(const Tensor& velocity, const Tensor& out, const MaybeTensor& inverse,
                              const MaybeTensor& stages, const std::vector<int>& kept,
                              const Tensor& scratch, double scale, int steps, int method,
                              int padding, int threads) {
  exponential_forward(flow_of(velocity, scale, steps, method, padding, threads), out,
                      or_null(inverse), {or_null(stages), kept}, scratch);
}

void bind_exponential_resume(const Tensor& velocity, const Tensor& out, const Tensor& stages,
                             const std::vector<int>& kept, const Tensor& scratch, int steps,
                             int method, int padding, int threads) {
  exponential_resume(flow_of(velocity, 1.0, steps, method, padding, threads), out, {stages, kept},
                     scratch);
}

void bind_exponential_backward(const Tensor& grad_out, const Tensor& velocity,
                               const MaybeTensor& stages, const std::vector<int>& kept,
                               const Tensor& grad_velocity, const Tensor& scratch, double scale,
                               int steps, int method, int padding, int threads) {
  exponential_backward(flow_of(velocity, scale, steps, method, padding, threads), grad_out,
                       {or_null(stages), kept}, grad_velocity, scratch);
}

void bind_warp_exponential_forward(const Tensor& image, const Tensor& velocity, const Tensor& out,
                                   const MaybeTensor& stages, const std::vector<int>& kept,
                                   const MaybeTensor& scratch, double scale, int steps, int method,
                                   int mode, int padding, int field_padding, int threads) {
  warp_exponential_forward(image, flow_of(velocity, scale, steps, method, field_padding, threads),
                           out, {or_null(stages), kept}, or_null(scratch), static_cast<Mode>(mode),
                           static_cast<Padding>(padding));
}

void bind_jacobian_forward(const Tensor& displacement, const Tensor& out, int scheme,
                           const std::vector<double>& spacing, int threads) {
  jacobian_forward(displacement, out, static_cast<Scheme>(scheme), spacing.data(), threads);
}

void bind_jacobian_backward(const Tensor& grad_out, const Tensor& displacement,
                            const Tensor& grad_displacement, int scheme,
                            const std::vector<double>& spacing, int threads) {
  jacobian_backward(grad_out, displacement, grad_displacement, static_cast<Scheme>(scheme),
                    spacing.data(), threads);
}

void bind_folding(const Tensor& displacement, const Tensor& statistics, int scheme, bool interior,
                  const std::vector<double>& spacing, int threads) {
  folding(displacement, statistics, static_cast<Scheme>(scheme), interior, spacing.data(), threads);
}

void bind_invert_forward(const Tensor& displacement, const Tensor& out, const Tensor& residual,
                         const Tensor& iterations, double tolerance, int limit, int padding,
                         int threads) {
  Invert call;
  call.displacement = displacement;
  call.out = out;
  call.residual = residual;
  call.iterations = iterations;
  call.tolerance = tolerance;
  call.limit = limit;
  call.padding = static_cast<Padding>(padding);
  call.threads = threads;
  invert_forward(call);
}

void bind_invert_backward(const Tensor& grad_out, const Tensor& displacement, const Tensor& inverse,
                          const Tensor& adjoint, const Tensor& grad_displacement, int padding,
                          int threads) {
  InvertBackward call;
  call.grad_out = grad_out;
  call.displacement = displacement;
  call.inverse = inverse;
  call.adjoint = adjoint;
  call.grad_displacement = grad_displacement;
  call.padding = static_cast<Padding>(padding);
  call.threads = threads;
  invert_backward(call);
}

template <void (*run)(const Splat&)>
void bind_splat_forward(const Tensor& image, const Tensor& displacement, const MaybeTensor& affine,
                        const Tensor& out, int mode, int padding, int threads) {
  Splat call;
  call.image = image;
  call.displacement = displacement;
  call.affine = or_null(affine);
  call.out = out;
  call.mode = static_cast<Mode>(mode);
  call.padding = static_cast<Padding>(padding);
  call.threads = threads;
  run(call);
}

void bind_spline_coefficients(const Tensor& image, const Tensor& out, const MaybeTensor& scratch,
                              int padding, bool adjoint, int threads) {
  spline_coefficients(image, out, or_null(scratch), static_cast<Padding>(padding), adjoint,
                      threads);
}

unsigned long main_thread = 0;

// Whether a handler of Python's raised, as that of Ctrl-C does; its exception then waits to be
// seen. Python runs handlers on its main thread alone: on any other the answer is no, and the
// interpreter, which may be gone, is not asked.
bool has_raising_signal() {
  if (PyThread_get_thread_ident() != main_thread) {
    return false;
  }
  const PyGILState_STATE state = PyGILState_Ensure();
  const bool raised = PyErr_CheckSignals() != 0;
  PyGILState_Release(state);
  return raised;
}

class PythonCall : public InterruptibleCall {
 public:
  PythonCall() : InterruptibleCall(&has_raising_signal) {}
};

void pass_on_interruption(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(std::move(thrown));
  } catch (const Interrupted&) {
    // has_raising_signal has left Python's exception in its place.
  }
}

py::dict build_info() {
  py::dict info;
#if defined(__VERSION__)
  info["compiler"] = std::string(__VERSION__);
#else
  info["compiler"] = std::string("unknown");
#endif
  info["version"] = std::string(PLASTICINE_VERSION);
#if defined(_OPENMP)
  info["openmp"] = true;
#else
  info["openmp"] = false;
#endif
  return info;
}

}  // namespace

}  // namespace plasticine

PYBIND11_MODULE(_native, module) {
  using namespace plasticine;
  using release = py::call_guard<py::gil_scoped_release, PythonCall>;
  main_thread =
      py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  py::register_local_exception_translator(&pass_on_interruption);
  module.doc() = "CPU operators of plasticine; called through plasticine.ops, which validates.";
  module.def("warp_forward", &bind_warp_forward<warp_forward>, release());
  module.def("warp_backward", &bind_warp_backward<warp_backward>, release());
  module.def("warp_double_backward", &bind_warp_double_backward, release());
  module.def("warp_cubic_forward", &bind_warp_forward<warp_cubic_forward>, release());
  module.def("warp_cubic_backward", &bind_warp_backward<warp_cubic_backward>, release());
  module.def("spline_coefficients", &bind_spline_coefficients, release());
  module.def("compose_forward", &bind_compose_forward, release());
  module.def("compose_backward", &bind_compose_backward, release());
  module.def("exponential_forward", &bind_exponential_forward, release());
  module.def("exponential_resume", &bind_exponential_resume, release());
  module.def("exponential_peak", &exponential_peak, release());
  module.def("exponential_backward", &bind_exponential_backward, release());
  module.def("jacobian_forward", &bind_jacobian_forward, release());
  module.def("jacobian_backward", &bind_jacobian_backward, release());
  module.def("folding", &bind_folding, release());
  module.def("invert_forward", &bind_invert_forward, release());
  module.def("invert_backward", &bind_invert_backward, release());
  module.def("splat_forward", &bind_splat_forward<splat_forward>, release());
  module.def("splat_cubic_forward", &bind_splat_forward<splat_cubic_forward>, release());
  module.def("warp_exponential_forward", &bind_warp_exponential_forward, release());
  module.def("simd_level", [] { return std::string(simd_name()); });
  module.def("build_info", &build_info);
}
