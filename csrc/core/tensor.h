// A tensor as it crosses from Python: an address, a type, sizes and strides. Nothing is owned. One
// without an address is absent, or has no elements.
#pragma once

#include <cstdint>

#include "core/types.h"

namespace plasticine {

constexpr int kMaxAxes = 6;  // (steps, N, d, z, y, x)

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::float32;
  int ndim = 0;
  std::int64_t shape[kMaxAxes] = {};
  std::int64_t strides[kMaxAxes] = {};  // in elements

  explicit operator bool() const { return data != nullptr; }

  template <typename Stored>
  Stored* as() const {
    return static_cast<Stored*>(data);
  }
};

inline std::int64_t element_size(DType dtype) {
  switch (dtype) {
    case DType::float64:
    case DType::int64:
      return 8;
    case DType::float32:
      return 4;
    default:
      return 2;
  }
}

inline const void* element(const Tensor& tensor, std::int64_t offset) {
  return static_cast<const char*>(tensor.data) + offset * element_size(tensor.dtype);
}

inline void* mutable_element(const Tensor& tensor, std::int64_t offset) {
  return static_cast<char*>(tensor.data) + offset * element_size(tensor.dtype);
}

// Calls work(T{}) with the type that a stored type is computed in on the CPU.
template <typename Work>
auto with_accumulator(DType dtype, const Work& work) {
  return dtype == DType::float64 ? work(double{}) : work(float{});
}

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace plasticine
