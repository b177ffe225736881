// From what is known at run time to what a kernel is compiled for.
#pragma once

#include "core/macros.h"
#include "core/types.h"

PLASTICINE_NAMESPACE_BEGIN

// A value as a type; the standard library's may not be included here.
template <typename T, T constant>
struct Constant {
  static constexpr T value = constant;
};

// Calls work(the padding as a Constant).
template <typename Work>
PLASTICINE_INLINE auto with_padding(Padding padding, const Work& work) {
  switch (padding) {
    case Padding::zeros:
      return work(Constant<Padding, Padding::zeros>());
    case Padding::border:
      return work(Constant<Padding, Padding::border>());
    default:
      return work(Constant<Padding, Padding::reflection>());
  }
}

// Calls work(the number of axes as a Constant).
template <typename Work>
PLASTICINE_INLINE auto with_dimension(int ndim, const Work& work) {
  return ndim == 2 ? work(Constant<int, 2>()) : work(Constant<int, 3>());
}

PLASTICINE_NAMESPACE_END
