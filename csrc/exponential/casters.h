// The flow and its stages from tuples of their fields, for both modules' bindings.
#pragma once

#include <vector>

#include "core/casters.h"
#include "exponential/cpu/exponential.h"

namespace pybind11::detail {

template <>
struct type_caster<plasticine::Flow>
    : fields_caster<plasticine::Flow, plasticine::Tensor, double, int, plasticine::Method,
                    plasticine::Padding, int> {};
template <>
struct type_caster<plasticine::Stages>
    : fields_caster<plasticine::Stages, plasticine::Tensor, std::vector<int>> {};

}  // namespace pybind11::detail
