// plasticine._cuda: the CUDA operators. Compiled by the host compiler, without a CUDA header.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "common/tensor_caster.h"
#include "compose/compose_cuda.h"
#include "exponential/exponential_cuda.h"
#include "warp/warp_cuda.h"
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
  module.def("build_info", &plasticine::build_info);
}
