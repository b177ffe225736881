// pybind11 conversions of what the native functions take: tensors, codes, and structs of both.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>
#include <utility>

#include "core/tensor.h"

namespace plasticine {

// A function of a struct as a function of its fields, in the order of their declaration. Fields at
// the end that are not named keep their defaults.
template <typename... Fields, typename Call, typename... Rest>
auto of_fields(void (*run)(const Call&, Rest...)) {
  return [run](Fields... fields, Rest... rest) { run(Call{std::move(fields)...}, rest...); };
}

}  // namespace plasticine

namespace pybind11::detail {

// From (data_ptr, dtype code, shape, strides); None is a tensor without data.
template <>
struct type_caster<plasticine::Tensor> {
 public:
  PYBIND11_TYPE_CASTER(plasticine::Tensor,
                       const_name("tuple[int, int, tuple[int, ...], tuple[int, ...]] | None"));

  bool load(handle source, bool /*convert*/) {
    PyObject* tuple = source.ptr();
    if (tuple == Py_None) {
      return true;
    }
    if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != 4) {
      return false;
    }
    PyObject* shape = PyTuple_GET_ITEM(tuple, 2);
    PyObject* strides = PyTuple_GET_ITEM(tuple, 3);
    if (!PyTuple_Check(shape) || !PyTuple_Check(strides) ||
        PyTuple_GET_SIZE(shape) > plasticine::kMaxAxes ||
        PyTuple_GET_SIZE(shape) != PyTuple_GET_SIZE(strides)) {
      return false;
    }
    value.data = PyLong_AsVoidPtr(PyTuple_GET_ITEM(tuple, 0));
    value.dtype = static_cast<plasticine::DType>(PyLong_AsLong(PyTuple_GET_ITEM(tuple, 1)));
    value.ndim = static_cast<int>(PyTuple_GET_SIZE(shape));
    for (int axis = 0; axis < value.ndim; ++axis) {
      value.shape[axis] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape, axis));
      value.strides[axis] = PyLong_AsLongLong(PyTuple_GET_ITEM(strides, axis));
    }
    if (PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      return false;
    }
    return true;
  }

  static handle cast(const plasticine::Tensor&, return_value_policy, handle) {
    throw cast_error("a plasticine::Tensor is only ever an argument");
  }
};

// From the codes of plasticine/ops/_native_interface.py.
template <typename Enum>
struct code_caster {
 public:
  PYBIND11_TYPE_CASTER(Enum, const_name("int"));

  bool load(handle source, bool /*convert*/) {
    if (!PyLong_Check(source.ptr())) {
      return false;
    }
    value = static_cast<Enum>(PyLong_AsLong(source.ptr()));
    return true;
  }

  static handle cast(Enum code, return_value_policy, handle) {
    return PyLong_FromLong(static_cast<long>(code));
  }
};
template <>
struct type_caster<plasticine::Mode> : code_caster<plasticine::Mode> {};
template <>
struct type_caster<plasticine::Padding> : code_caster<plasticine::Padding> {};
template <>
struct type_caster<plasticine::Method> : code_caster<plasticine::Method> {};
template <>
struct type_caster<plasticine::Scheme> : code_caster<plasticine::Scheme> {};

// A struct from the tuple of its fields.
template <typename Struct, typename... Fields>
struct fields_caster {
 public:
  PYBIND11_TYPE_CASTER(Struct, make_caster<std::tuple<Fields...>>::name);

  bool load(handle source, bool convert) {
    make_caster<std::tuple<Fields...>> fields;
    if (!fields.load(source, convert)) {
      return false;
    }
    value = std::apply([](auto&&... field) { return Struct{std::move(field)...}; },
                       cast_op<std::tuple<Fields...>>(std::move(fields)));
    return true;
  }

  static handle cast(const Struct&, return_value_policy, handle) {
    throw cast_error("a struct of the native functions is only ever an argument");
  }
};

}  // namespace pybind11::detail
