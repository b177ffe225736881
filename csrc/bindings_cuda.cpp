// plasticine._cuda: the CUDA operators. Compiled by the host compiler, without a CUDA header.
// Every argument has been validated in Python (ops/); device and stream come last.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "compose/cuda/compose.h"
#include "core/casters.h"
#include "core/cuda/device.h"
#include "exponential/casters.h"
#include "exponential/cuda/exponential.h"
#include "folding/cuda/folding.h"
#include "gaussian_smooth/gaussian_smooth.h"
#include "invert/cuda/invert.h"
#include "jacobian/cuda/jacobian.h"
#include "jacobian_penalty/jacobian_penalty.h"
#include "joint_histogram/joint_histogram.h"
#include "lncc/casters.h"
#include "mind_distance/casters.h"
#include "mind_distance/mind_distance.h"
#include "smoothness/smoothness.h"
#include "spline_coefficients/cuda/spline_coefficients.h"
#include "warp/cuda/warp.h"
#include "warp_exponential/cuda/warp_exponential.h"

namespace py = pybind11;

namespace pybind11::detail {

using plasticine::Tensor;
using plasticine::cuda::CompositionGradients;
using plasticine::cuda::WarpGradients;

template <>
struct type_caster<WarpGradients>
    : fields_caster<WarpGradients, Tensor, Tensor, Tensor, Tensor, Tensor> {};
// Those of the operator: the others are the exponential's.
template <>
struct type_caster<CompositionGradients>
    : fields_caster<CompositionGradients, Tensor, Tensor, Tensor, Tensor> {};

}  // namespace pybind11::detail

namespace plasticine::cuda {
namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = PLASTICINE_VERSION;
  info["nvcc"] = PLASTICINE_NVCC;
  info["architectures"] = PLASTICINE_CUDA_ARCHS;
  return info;
}

}  // namespace
}  // namespace plasticine::cuda

PYBIND11_MODULE(_cuda, module) {
  using namespace plasticine;
  using release = py::call_guard<py::gil_scoped_release>;
  using T = Tensor;
  module.doc() = "CUDA operators of plasticine over raw pointers; called by plasticine.ops.";
  module.def("warp_forward", &cuda::warp_forward, release());
  module.def("warp_backward", &cuda::warp_backward, release());
  module.def("spline_coefficients", &cuda::spline_coefficients, release());
  module.def("compose_forward", &cuda::compose, release());
  module.def("compose_backward", &cuda::compose_gradients, release());
  module.def("exponential_forward", &cuda::exponential_forward, release());
  module.def("exponential_resume", &cuda::exponential_resume, release());
  module.def("exponential_backward", &cuda::exponential_backward, release());
  module.def("exponential_peak", &cuda::exponential_peak, release());
  module.def("warp_exponential_forward", &cuda::warp_exponential_forward, release());
  module.def("jacobian_forward", &cuda::jacobian_forward, release());
  module.def("jacobian_backward", &cuda::jacobian_backward, release());
  module.def("folding", &cuda::folding, release());
  module.def("gaussian_smooth", &cuda::gaussian_smooth, release());
  module.def(
      "lncc_forward",
      of_fields<T, T, T, T, T, int, LnccKernel, bool, LnccBorder, LnccStabiliser, double, double>(
          cuda::lncc_forward),
      release());
  module.def("lncc_backward",
             of_fields<T, T, T, T, T, T, T, int, LnccKernel, bool, LnccBorder, LnccStabiliser,
                       double, double>(cuda::lncc_backward),
             release());
  module.def("jacobian_penalty_forward", &cuda::jacobian_penalty_forward, release());
  module.def("jacobian_penalty_backward", &cuda::jacobian_penalty_backward, release());
  module.def("smoothness_forward", &cuda::smoothness_forward, release());
  module.def("smoothness_backward", &cuda::smoothness_backward, release());
  module.def("joint_histogram_forward", &cuda::joint_histogram_forward, release());
  module.def("joint_histogram_backward", &cuda::joint_histogram_backward, release());
  module.def("mind_distance_forward", &cuda::mind_distance_forward, release());
  module.def("mind_distance_backward", &cuda::mind_distance_backward, release());
  module.def("invert_forward", of_fields<T, T, T, T, double, int, Padding>(cuda::invert_forward),
             release());
  module.def("invert_adjoint", &cuda::invert_adjoint, release());
  module.def("device_error", &cuda::device_error, release());
  module.def("build_info", &cuda::build_info);
}
