// The words of local normalised cross-correlation, for both modules' bindings.
#pragma once

#include "core/casters.h"
#include "lncc/lncc.h"

namespace pybind11::detail {

template <>
struct type_caster<plasticine::LnccKernel> : word_caster<plasticine::LnccKernel> {
  bool load(handle source, bool) { return load_word(source, {"box", "gaussian"}); }
};
template <>
struct type_caster<plasticine::LnccBorder> : word_caster<plasticine::LnccBorder> {
  bool load(handle source, bool) { return load_word(source, {"inside", "zeros"}); }
};
template <>
struct type_caster<plasticine::LnccStabiliser> : word_caster<plasticine::LnccStabiliser> {
  bool load(handle source, bool) { return load_word(source, {"flat", "floor", "offset"}); }
};

}  // namespace pybind11::detail
