// pybind11 conversions of what the native functions take: tensors, words, and structs of both.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <initializer_list>
#include <stdexcept>
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

// From a torch.Tensor, by its attributes: no header of torch's is needed. None is a tensor without
// data.
template <>
struct type_caster<plasticine::Tensor> {
 public:
  PYBIND11_TYPE_CASTER(plasticine::Tensor, const_name("torch.Tensor | None"));

  bool load(handle source, bool /*convert*/) {
    if (source.is_none()) {
      return true;
    }
    static const Names names;
    const object address = call(source, names.data_ptr);
    const object shape = get(source, names.shape);
    const object is_contiguous = call(source, names.is_contiguous);
    const object dtype = get(source, names.dtype);
    if (!address || !shape || !is_contiguous || !dtype || !PyTuple_Check(shape.ptr()) ||
        PyTuple_GET_SIZE(shape.ptr()) > plasticine::kMaxAxes) {
      PyErr_Clear();
      return false;
    }
    value.data = PyLong_AsVoidPtr(address.ptr());
    value.ndim = static_cast<int>(PyTuple_GET_SIZE(shape.ptr()));
    // Strides are a tuple to be made: they are asked for where they are not known.
    std::int64_t stride = 1;
    for (int axis = value.ndim; axis-- > 0;) {
      value.shape[axis] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), axis));
      value.strides[axis] = stride;
      stride *= value.shape[axis];
    }
    if (value.data == nullptr && stride != 0) {
      throw std::runtime_error("a tensor has no memory: its storage was freed");
    }
    if (is_contiguous.ptr() != Py_True && !load_strides(call(source, names.stride))) {
      return false;
    }
    for (int code = 0; code < kTypes; ++code) {
      if (dtype.ptr() == names.dtypes[code]) {
        value.dtype = static_cast<plasticine::DType>(code);
        return true;
      }
    }
    return false;
  }

  static handle cast(const plasticine::Tensor&, return_value_policy, handle) {
    throw cast_error("a plasticine::Tensor is only ever an argument");
  }

 private:
  static constexpr int kTypes = 5;

  // What is asked for at every call, made once; as long-lived as the process.
  struct Names {
    PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
    PyObject* shape = PyUnicode_InternFromString("shape");
    PyObject* stride = PyUnicode_InternFromString("stride");
    PyObject* is_contiguous = PyUnicode_InternFromString("is_contiguous");
    PyObject* dtype = PyUnicode_InternFromString("dtype");
    PyObject* dtypes[kTypes];

    Names() {
      const module_ torch = module_::import("torch");
      int code = 0;
      for (const char* name : {"float32", "float64", "float16", "bfloat16", "int64"}) {
        dtypes[code++] = torch.attr(name).cast<object>().release().ptr();
      }
    }
  };

  bool load_strides(const object& strides) {
    if (!strides || !PyTuple_Check(strides.ptr())) {
      PyErr_Clear();
      return false;
    }
    for (int axis = 0; axis < value.ndim; ++axis) {
      value.strides[axis] = PyLong_AsLongLong(PyTuple_GET_ITEM(strides.ptr(), axis));
    }
    return true;
  }

  static object get(handle source, PyObject* name) {
    return reinterpret_steal<object>(PyObject_GetAttr(source.ptr(), name));
  }
  static object call(handle source, PyObject* name) {
    return reinterpret_steal<object>(PyObject_CallMethodNoArgs(source.ptr(), name));
  }
};

// From the words of the public functions.
template <typename Enum>
struct word_caster {
 public:
  PYBIND11_TYPE_CASTER(Enum, const_name("str"));

  bool load_word(handle source, std::initializer_list<const char*> words) {
    if (!PyUnicode_Check(source.ptr())) {
      return false;
    }
    int code = 0;
    for (const char* word : words) {
      if (PyUnicode_CompareWithASCIIString(source.ptr(), word) == 0) {
        value = static_cast<Enum>(code);
        return true;
      }
      ++code;
    }
    return false;
  }

  static handle cast(Enum, return_value_policy, handle) {
    throw cast_error("a word of the native functions is only ever an argument");
  }
};
template <>
struct type_caster<plasticine::Mode> : word_caster<plasticine::Mode> {
  bool load(handle source, bool) {
    return load_word(source, {"linear", "nearest", "cubic", "bspline"});
  }
};
template <>
struct type_caster<plasticine::Padding> : word_caster<plasticine::Padding> {
  bool load(handle source, bool) { return load_word(source, {"zeros", "border", "reflection"}); }
};
template <>
struct type_caster<plasticine::Method> : word_caster<plasticine::Method> {
  bool load(handle source, bool) { return load_word(source, {"euler", "midpoint", "rk4"}); }
};
template <>
struct type_caster<plasticine::Scheme> : word_caster<plasticine::Scheme> {
  bool load(handle source, bool) { return load_word(source, {"central", "forward", "backward"}); }
};
template <>
struct type_caster<plasticine::Penalty> : word_caster<plasticine::Penalty> {
  bool load(handle source, bool) { return load_word(source, {"hinge", "log"}); }
};
template <>
struct type_caster<plasticine::Parzen> : word_caster<plasticine::Parzen> {
  bool load(handle source, bool) { return load_word(source, {"bspline", "gaussian", "mattes"}); }
};

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
