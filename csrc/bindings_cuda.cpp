// plasticine._cuda: the CUDA operators. Compiled by the host compiler, without a CUDA header.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "common/tensor_caster.h"
#include "folding/folding_cuda.h"
#include "invert/invert_cuda.h"
#include "jacobian/jacobian_cuda.h"
#include "warp/warp_cuda.h"

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
}
