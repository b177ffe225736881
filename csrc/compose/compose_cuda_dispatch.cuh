// Which instance of a kernel over a displacement field serves a call.
#pragma once

#include "../common/cuda_launch.h"
#include "../common/half.h"

namespace plasticine::cuda {

template <int D, Padding chosen, typename StoredType, typename IndexType>
struct FieldInstance {
  static constexpr int dimension = D;
  static constexpr Padding padding = chosen;
  using Stored = StoredType;
  using Index = IndexType;
};

// Calls visit with the FieldInstance for a float32 or float64 field, or a half one where the
// kernels exist for those, whose offsets within a channel go up to `largest`. 64-bit offsets are
// compiled for float32 alone: Python widens half fields that need them, and float64 is served up to
// there.
template <bool takes_half, typename Visitor>
void dispatch_field(const Tensor& field, Padding padding, std::int64_t largest,
                    const Visitor& visit) {
  const bool is_wide = largest > std::numeric_limits<std::int32_t>::max();
  if (is_wide && field.dtype != DType::float32) {
    throw std::runtime_error(
        "a field on CUDA that is not float32 may span at most 2^31 - 1 elements from the first to "
        "the last voxel of a component");
  }
  const auto with_type = [&](auto stored, auto index) {
    using Stored = typename decltype(stored)::type;
    using Index = typename decltype(index)::type;
    dispatch_dimension(field.shape[1], [&](auto dimension) {
      constexpr int D = decltype(dimension)::value;
      dispatch_padding(padding, [&](auto chosen) {
        visit(FieldInstance<D, decltype(chosen)::value, Stored, Index>{});
      });
    });
  };
  if (is_wide) {
    with_type(TypeTag<float>{}, TypeTag<std::int64_t>{});
  } else if (field.dtype == DType::float32) {
    with_type(TypeTag<float>{}, TypeTag<std::int32_t>{});
  } else if (field.dtype == DType::float64) {
    with_type(TypeTag<double>{}, TypeTag<std::int32_t>{});
  } else if constexpr (takes_half) {
    if (field.dtype == DType::float16) {
      with_type(TypeTag<Half>{}, TypeTag<std::int32_t>{});
    } else {
      with_type(TypeTag<BFloat16>{}, TypeTag<std::int32_t>{});
    }
  }
}

}  // namespace plasticine::cuda
