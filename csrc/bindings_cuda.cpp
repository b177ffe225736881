// plasticine._cuda: the CUDA operators. Compiled by the host compiler, without a CUDA header.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "common/device_cuda.h"
#include "common/tensor_caster.h"
#include "compose/compose_cuda.h"
#include "exponential/exponential_cuda.h"
#include "folding/folding_cuda.h"
#include "invert/invert_cuda.h"
#include "jacobian/jacobian_cuda.h"
#include "spline_coefficients/spline_coefficients_cuda.h"
#include "warp/warp_cubic_cuda.h"
#include "warp/warp_cuda.h"
#include "warp/warp_double_backward_cuda.h"
#include "warp_exponential/warp_exponential_cuda.h"

namespace py = pybind11;

namespace plasticine {
namespace {

using OptionalTensor = std::optional<Tensor>;

void warp_forward(const Tensor& image, const Tensor& displacement, const OptionalTensor& affine,
                  const Tensor& out, int mode, int padding, int device, std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::warp_forward(image, displacement, affine, out, static_cast<Mode>(mode),
                     static_cast<Padding>(padding), device, stream);
}

void warp_backward(const Tensor& grad, const Tensor& image, const Tensor& displacement,
                   const OptionalTensor& affine, const OptionalTensor& grad_image,
                   const OptionalTensor& grad_image_fixed, const OptionalTensor& fixed_scale,
                   const OptionalTensor& grad_displacement,
                   const OptionalTensor& grad_affine_partial, int mode, int padding, int device,
                   std::uintptr_t stream) {
  const py::gil_scoped_release released;
  const cuda::WarpGradients gradients{grad_image, grad_image_fixed, fixed_scale, grad_displacement,
                                      grad_affine_partial};
  cuda::warp_backward(grad, image, displacement, affine, gradients, static_cast<Mode>(mode),
                      static_cast<Padding>(padding), device, stream);
}

void warp_double_backward(const OptionalTensor& image_direction,
                          const OptionalTensor& field_direction,
                          const OptionalTensor& affine_direction, const Tensor& grad_out,
                          const Tensor& image, const Tensor& displacement,
                          const OptionalTensor& affine, const OptionalTensor& to_grad_out,
                          const OptionalTensor& to_image, const OptionalTensor& to_image_fixed,
                          const OptionalTensor& fixed_scale, const OptionalTensor& to_displacement,
                          const OptionalTensor& to_affine_partial, int padding, bool add,
                          int device, std::uintptr_t stream) {
  const py::gil_scoped_release released;
  const cuda::WarpGradients gradients{to_image, to_image_fixed, fixed_scale, to_displacement,
                                      to_affine_partial};
  const cuda::WarpDoubleBackward call{image_direction,
                                      field_direction,
                                      affine_direction,
                                      grad_out,
                                      image,
                                      displacement,
                                      affine,
                                      to_grad_out,
                                      gradients,
                                      static_cast<Padding>(padding),
                                      add};
  cuda::warp_double_backward(call, device, stream);
}

// The adjoint of the warp: out, in the accumulator's type, is its gradient to the image.
void splat_forward(const Tensor& image, const Tensor& displacement, const OptionalTensor& affine,
                   const Tensor& out, const OptionalTensor& out_fixed,
                   const OptionalTensor& fixed_scale, int mode, int padding, int device,
                   std::uintptr_t stream) {
  const py::gil_scoped_release released;
  const cuda::WarpGradients gradients{out, out_fixed, fixed_scale, std::nullopt, std::nullopt};
  cuda::warp_backward(image, out, displacement, affine, gradients, static_cast<Mode>(mode),
                      static_cast<Padding>(padding), device, stream);
}

void warp_cubic_forward(const Tensor& image, const Tensor& displacement,
                        const OptionalTensor& affine, const Tensor& out, int mode, int padding,
                        int device, std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::warp_cubic_forward(image, displacement, affine, out, static_cast<Mode>(mode),
                           static_cast<Padding>(padding), device, stream);
}

void warp_cubic_backward(const Tensor& grad, const Tensor& image, const Tensor& displacement,
                         const OptionalTensor& affine, const OptionalTensor& grad_image,
                         const OptionalTensor& grad_image_fixed, const OptionalTensor& fixed_scale,
                         const OptionalTensor& grad_displacement,
                         const OptionalTensor& grad_affine_partial, int mode, int padding,
                         int device, std::uintptr_t stream) {
  const py::gil_scoped_release released;
  const cuda::WarpGradients gradients{grad_image, grad_image_fixed, fixed_scale, grad_displacement,
                                      grad_affine_partial};
  cuda::warp_cubic_backward(grad, image, displacement, affine, gradients, static_cast<Mode>(mode),
                            static_cast<Padding>(padding), device, stream);
}

// The same in the cubic modes.
void splat_cubic_forward(const Tensor& image, const Tensor& displacement,
                         const OptionalTensor& affine, const Tensor& out,
                         const OptionalTensor& out_fixed, const OptionalTensor& fixed_scale,
                         int mode, int padding, int device, std::uintptr_t stream) {
  const py::gil_scoped_release released;
  const cuda::WarpGradients gradients{out, out_fixed, fixed_scale, std::nullopt, std::nullopt};
  cuda::warp_cubic_backward(image, out, displacement, affine, gradients, static_cast<Mode>(mode),
                            static_cast<Padding>(padding), device, stream);
}

void spline_coefficients(const Tensor& image, const Tensor& out, const OptionalTensor& scratch,
                         int padding, bool adjoint, int device, std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::spline_coefficients(image, out, scratch, static_cast<Padding>(padding), adjoint, device,
                            stream);
}

void compose_forward(const Tensor& u, const Tensor& v, const Tensor& out, int padding, int device,
                     std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::compose(u, v, out, static_cast<Padding>(padding), device, stream);
}

void compose_backward(const Tensor& grad, const Tensor& u, const Tensor& v,
                      const OptionalTensor& grad_u, const OptionalTensor& grad_u_fixed,
                      const OptionalTensor& fixed_scale, const OptionalTensor& grad_v, int padding,
                      int device, std::uintptr_t stream) {
  const py::gil_scoped_release released;
  const cuda::CompositionGradients gradients{grad_u, grad_u_fixed, fixed_scale, grad_v,
                                             false,  grad,         1.0};
  cuda::compose_gradients(grad, u, v, gradients, static_cast<Padding>(padding), device, stream);
}

Flow flow_of(const Tensor& velocity, double scale, int steps, int method, int padding) {
  Flow flow;
  flow.velocity = velocity;
  flow.scale = scale;
  flow.steps = steps;
  flow.method = static_cast<Method>(method);
  flow.padding = static_cast<Padding>(padding);
  return flow;
}

Tensor or_null(const OptionalTensor& tensor) { return tensor.value_or(Tensor()); }

void bind_exponential_forward(const Tensor& velocity, const Tensor& out,
                              const OptionalTensor& inverse, const OptionalTensor& stages,
                              const std::vector<int>& kept, const OptionalTensor& scratch,
                              double scale, int steps, int method, int padding, int device,
                              std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::exponential_forward(flow_of(velocity, scale, steps, method, padding), out, or_null(inverse),
                            {or_null(stages), kept}, or_null(scratch), device, stream);
}

void bind_exponential_resume(const Tensor& velocity, const Tensor& out, const Tensor& stages,
                             const std::vector<int>& kept, const OptionalTensor& scratch, int steps,
                             int method, int padding, int device, std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::exponential_resume(flow_of(velocity, 1.0, steps, method, padding), out, {stages, kept},
                           or_null(scratch), device, stream);
}

void bind_exponential_backward(const Tensor& grad, const Tensor& velocity,
                               const OptionalTensor& stages, const std::vector<int>& kept,
                               const Tensor& grad_velocity, const OptionalTensor& scratch,
                               double scale, int steps, int method, int padding, int device,
                               std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::exponential_backward(flow_of(velocity, scale, steps, method, padding), grad,
                             {or_null(stages), kept}, grad_velocity, or_null(scratch), device,
                             stream);
}

void bind_warp_exponential_forward(const Tensor& image, const Tensor& velocity, const Tensor& out,
                                   const OptionalTensor& stages, const std::vector<int>& kept,
                                   const OptionalTensor& scratch, double scale, int steps,
                                   int method, int mode, int padding, int field_padding, int device,
                                   std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::warp_exponential_forward(image, flow_of(velocity, scale, steps, method, field_padding), out,
                                 {or_null(stages), kept}, or_null(scratch), static_cast<Mode>(mode),
                                 static_cast<Padding>(padding), device, stream);
}

void jacobian_forward(const Tensor& displacement, const Tensor& out, int scheme,
                      const std::vector<double>& spacing, int device, std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::jacobian_forward(displacement, out, static_cast<Scheme>(scheme), spacing.data(), device,
                         stream);
}

void jacobian_backward(const Tensor& grad, const Tensor& displacement,
                       const Tensor& grad_displacement, int scheme,
                       const std::vector<double>& spacing, int device, std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::jacobian_backward(grad, displacement, grad_displacement, static_cast<Scheme>(scheme),
                          spacing.data(), device, stream);
}

void folding(const Tensor& displacement, const Tensor& partial, const Tensor& statistics,
             int scheme, bool interior, const std::vector<double>& spacing, int device,
             std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::folding(displacement, partial, statistics, static_cast<Scheme>(scheme), interior,
                spacing.data(), device, stream);
}

void invert_forward(const Tensor& displacement, const Tensor& out, const Tensor& squared_residual,
                    const Tensor& iterations, double tolerance, int limit, int padding, int device,
                    std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::Invert call;
  call.displacement = displacement;
  call.out = out;
  call.squared_residual = squared_residual;
  call.iterations = iterations;
  call.padding = static_cast<Padding>(padding);
  call.tolerance = tolerance;
  call.limit = limit;
  cuda::invert_forward(call, device, stream);
}

void invert_adjoint(const Tensor& grad, const Tensor& displacement, const Tensor& inverse,
                    const Tensor& adjoint, int padding, int device, std::uintptr_t stream) {
  const py::gil_scoped_release released;
  cuda::invert_adjoint(grad, displacement, inverse, adjoint, static_cast<Padding>(padding), device,
                       stream);
}

py::dict build_info() {
  py::dict info;
  info["version"] = PLASTICINE_VERSION;
  info["nvcc"] = PLASTICINE_NVCC;
  info["architectures"] = PLASTICINE_CUDA_ARCHS;
  return info;
}

}  // namespace
}  // namespace plasticine

// Arguments are described where they are made, in plasticine/ops; all checks happen there.
PYBIND11_MODULE(_cuda, module) {
  module.doc() = "CUDA operators of plasticine over raw pointers; called by plasticine.ops.";
  module.def("warp_forward", &plasticine::warp_forward, py::arg("image"), py::arg("displacement"),
             py::arg("affine").none(true), py::arg("out"), py::arg("mode"), py::arg("padding"),
             py::arg("device"), py::arg("stream"));
  module.def("warp_backward", &plasticine::warp_backward, py::arg("grad"), py::arg("image"),
             py::arg("displacement"), py::arg("affine").none(true),
             py::arg("grad_image").none(true), py::arg("grad_image_fixed").none(true),
             py::arg("fixed_scale").none(true), py::arg("grad_displacement").none(true),
             py::arg("grad_affine_partial").none(true), py::arg("mode"), py::arg("padding"),
             py::arg("device"), py::arg("stream"));
  module.def("warp_double_backward", &plasticine::warp_double_backward,
             py::arg("image_direction").none(true), py::arg("field_direction").none(true),
             py::arg("affine_direction").none(true), py::arg("grad_out"), py::arg("image"),
             py::arg("displacement"), py::arg("affine").none(true),
             py::arg("to_grad_out").none(true), py::arg("to_image").none(true),
             py::arg("to_image_fixed").none(true), py::arg("fixed_scale").none(true),
             py::arg("to_displacement").none(true), py::arg("to_affine_partial").none(true),
             py::arg("padding"), py::arg("add"), py::arg("device"), py::arg("stream"));
  module.def("splat_forward", &plasticine::splat_forward, py::arg("image"), py::arg("displacement"),
             py::arg("affine").none(true), py::arg("out"), py::arg("out_fixed").none(true),
             py::arg("fixed_scale").none(true), py::arg("mode"), py::arg("padding"),
             py::arg("device"), py::arg("stream"));
  module.def("warp_cubic_forward", &plasticine::warp_cubic_forward, py::arg("image"),
             py::arg("displacement"), py::arg("affine").none(true), py::arg("out"), py::arg("mode"),
             py::arg("padding"), py::arg("device"), py::arg("stream"));
  module.def("warp_cubic_backward", &plasticine::warp_cubic_backward, py::arg("grad"),
             py::arg("image"), py::arg("displacement"), py::arg("affine").none(true),
             py::arg("grad_image").none(true), py::arg("grad_image_fixed").none(true),
             py::arg("fixed_scale").none(true), py::arg("grad_displacement").none(true),
             py::arg("grad_affine_partial").none(true), py::arg("mode"), py::arg("padding"),
             py::arg("device"), py::arg("stream"));
  module.def("splat_cubic_forward", &plasticine::splat_cubic_forward, py::arg("image"),
             py::arg("displacement"), py::arg("affine").none(true), py::arg("out"),
             py::arg("out_fixed").none(true), py::arg("fixed_scale").none(true), py::arg("mode"),
             py::arg("padding"), py::arg("device"), py::arg("stream"));
  module.def("spline_coefficients", &plasticine::spline_coefficients, py::arg("image"),
             py::arg("out"), py::arg("scratch").none(true), py::arg("padding"), py::arg("adjoint"),
             py::arg("device"), py::arg("stream"));
  module.def("compose_forward", &plasticine::compose_forward, py::arg("u"), py::arg("v"),
             py::arg("out"), py::arg("padding"), py::arg("device"), py::arg("stream"));
  module.def("compose_backward", &plasticine::compose_backward, py::arg("grad"), py::arg("u"),
             py::arg("v"), py::arg("grad_u").none(true), py::arg("grad_u_fixed").none(true),
             py::arg("fixed_scale").none(true), py::arg("grad_v").none(true), py::arg("padding"),
             py::arg("device"), py::arg("stream"));
  module.def("exponential_forward", &plasticine::bind_exponential_forward, py::arg("velocity"),
             py::arg("out"), py::arg("inverse").none(true), py::arg("stages").none(true),
             py::arg("kept"), py::arg("scratch").none(true), py::arg("scale"), py::arg("steps"),
             py::arg("method"), py::arg("padding"), py::arg("device"), py::arg("stream"));
  module.def("exponential_resume", &plasticine::bind_exponential_resume, py::arg("velocity"),
             py::arg("out"), py::arg("stages"), py::arg("kept"), py::arg("scratch").none(true),
             py::arg("steps"), py::arg("method"), py::arg("padding"), py::arg("device"),
             py::arg("stream"));
  module.def("exponential_backward", &plasticine::bind_exponential_backward, py::arg("grad"),
             py::arg("velocity"), py::arg("stages").none(true), py::arg("kept"),
             py::arg("grad_velocity"), py::arg("scratch").none(true), py::arg("scale"),
             py::arg("steps"), py::arg("method"), py::arg("padding"), py::arg("device"),
             py::arg("stream"));
  module.def("exponential_peak", &plasticine::cuda::exponential_peak, py::arg("velocity"),
             py::arg("peak"), py::arg("device"), py::arg("stream"));
  module.def("warp_exponential_forward", &plasticine::bind_warp_exponential_forward,
             py::arg("image"), py::arg("velocity"), py::arg("out"), py::arg("stages").none(true),
             py::arg("kept"), py::arg("scratch").none(true), py::arg("scale"), py::arg("steps"),
             py::arg("method"), py::arg("mode"), py::arg("padding"), py::arg("field_padding"),
             py::arg("device"), py::arg("stream"));
  module.def("jacobian_forward", &plasticine::jacobian_forward, py::arg("displacement"),
             py::arg("out"), py::arg("scheme"), py::arg("spacing"), py::arg("device"),
             py::arg("stream"));
  module.def("jacobian_backward", &plasticine::jacobian_backward, py::arg("grad"),
             py::arg("displacement"), py::arg("grad_displacement"), py::arg("scheme"),
             py::arg("spacing"), py::arg("device"), py::arg("stream"));
  module.def("folding", &plasticine::folding, py::arg("displacement"), py::arg("partial"),
             py::arg("statistics"), py::arg("scheme"), py::arg("interior"), py::arg("spacing"),
             py::arg("device"), py::arg("stream"));
  module.def("invert_forward", &plasticine::invert_forward, py::arg("displacement"), py::arg("out"),
             py::arg("squared_residual"), py::arg("iterations"), py::arg("tolerance"),
             py::arg("limit"), py::arg("padding"), py::arg("device"), py::arg("stream"));
  module.def("invert_adjoint", &plasticine::invert_adjoint, py::arg("grad"),
             py::arg("displacement"), py::arg("inverse"), py::arg("adjoint"), py::arg("padding"),
             py::arg("device"), py::arg("stream"));
  module.def("build_info", &plasticine::build_info);
  module.def("device_error", &plasticine::cuda::device_error, py::arg("device"),
             py::call_guard<py::gil_scoped_release>());
}
