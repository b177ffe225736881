// pybind11 conversion of the tuple (data_ptr, dtype code, shape, strides) to a Tensor.
#pragma once

#include <pybind11/pybind11.h>

#include "tensor.h"

namespace pybind11::detail {

template <>
struct type_caster<plasticine::Tensor> {
 public:
  PYBIND11_TYPE_CASTER(plasticine::Tensor,
                       const_name("tuple[int, int, tuple[int, ...], tuple[int, ...]]"));

  bool load(handle source, bool /*convert*/) {
    PyObject* tuple = source.ptr();
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

}  // namespace pybind11::detail
