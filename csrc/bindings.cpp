// plasticine._native: the CPU operators. Every argument has been validated in Python (ops/).
#include <pybind11/pybind11.h>

#include <exception>
#include <string>
#include <utility>

#include "compose/cpu/compose.h"
#include "core/casters.h"
#include "core/cpu/interruption.h"
#include "core/cpu/simd.h"
#include "exponential/casters.h"
#include "exponential/cpu/exponential.h"
#include "folding/cpu/folding.h"
#include "gaussian_smooth/gaussian_smooth.h"
#include "invert/cpu/invert.h"
#include "jacobian/cpu/jacobian.h"
#include "jacobian_penalty/jacobian_penalty.h"
#include "joint_histogram/joint_histogram.h"
#include "lncc/casters.h"
#include "mind_distance/casters.h"
#include "mind_distance/mind_distance.h"
#include "smoothness/smoothness.h"
#include "spline_coefficients/cpu/spline_coefficients.h"
#include "warp/cpu/warp.h"
#include "warp_exponential/cpu/warp_exponential.h"

namespace py = pybind11;

namespace plasticine {

namespace {

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
  using T = Tensor;
  main_thread =
      py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  py::register_local_exception_translator(&pass_on_interruption);
  module.doc() = "CPU operators of plasticine; called through plasticine.ops, which validates.";
  module.def("warp_forward", of_fields<T, T, T, T, Mode, Padding, int>(warp_forward), release());
  module.def("warp_backward", of_fields<T, T, T, T, T, T, T, Mode, Padding, int>(warp_backward),
             release());
  module.def("spline_coefficients", &spline_coefficients, release());
  module.def("compose_forward", &compose_forward, release());
  module.def("compose_backward", &compose_backward, release());
  module.def("exponential_forward", &exponential_forward, release());
  module.def("exponential_resume", &exponential_resume, release());
  module.def("exponential_peak", &exponential_peak, release());
  module.def("exponential_backward", &exponential_backward, release());
  module.def("warp_exponential_forward", &warp_exponential_forward, release());
  module.def("jacobian_forward", &jacobian_forward, release());
  module.def("jacobian_backward", &jacobian_backward, release());
  module.def("folding", &folding, release());
  module.def("gaussian_smooth", &gaussian_smooth, release());
  module.def(
      "lncc_forward",
      of_fields<T, T, T, T, T, int, LnccKernel, bool, LnccBorder, LnccStabiliser, double, double>(
          lncc_forward),
      release());
  module.def("lncc_backward",
             of_fields<T, T, T, T, T, T, T, int, LnccKernel, bool, LnccBorder, LnccStabiliser,
                       double, double>(lncc_backward),
             release());
  module.def("jacobian_penalty_forward", &jacobian_penalty_forward, release());
  module.def("jacobian_penalty_backward", &jacobian_penalty_backward, release());
  module.def("smoothness_forward", &smoothness_forward, release());
  module.def("smoothness_backward", &smoothness_backward, release());
  module.def("joint_histogram_forward", &joint_histogram_forward, release());
  module.def("joint_histogram_backward", &joint_histogram_backward, release());
  module.def("mind_distance_forward", &mind_distance_forward, release());
  module.def("mind_distance_backward", &mind_distance_backward, release());
  module.def("invert_forward", of_fields<T, T, T, T, double, int, Padding, int>(invert_forward),
             release());
  module.def("invert_backward", of_fields<T, T, T, T, T, Padding, int>(invert_backward), release());
  module.def("simd_level", [] { return std::string(simd_name()); });
  module.def("build_info", &build_info);
}
