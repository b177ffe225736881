// pybind11 conversion of the word of a MIND distance.
#pragma once

#include "core/casters.h"
#include "mind_distance/mind_distance.h"

namespace pybind11::detail {

template <>
struct type_caster<plasticine::MindKind> : word_caster<plasticine::MindKind> {
  bool load(handle source, bool) { return load_word(source, {"charbonnier", "squared"}); }
};

}  // namespace pybind11::detail
