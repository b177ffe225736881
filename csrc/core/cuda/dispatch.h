// From what a call asks for at run time to the kernel that is compiled for it.
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/macros.h"
#include "core/tensor.h"

namespace plasticine::cuda {

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls visit(TypeTag<Stored>).
template <bool halves = true, typename Visitor>
void dispatch_type(DType dtype, Visitor&& visit) {
  if (dtype == DType::float32) {
    return visit(TypeTag<float>{});
  }
  if (dtype == DType::float64) {
    return visit(TypeTag<double>{});
  }
  if constexpr (halves) {
    if (dtype == DType::float16) {
      return visit(TypeTag<Half>{});
    }
    if (dtype == DType::bfloat16) {
      return visit(TypeTag<BFloat16>{});
    }
  }
  throw std::runtime_error("no CUDA kernel for dtype code " +
                           std::to_string(static_cast<int>(dtype)));
}

// Calls visit(TypeTag<Image>, TypeTag<Field>) for the stored types that an image and a displacement
// may have together: the same, or a float32 displacement with a half image; of coefficients, also
// float32 ones with a half displacement.
template <bool coefficients, typename Visitor>
void dispatch_types(DType image, DType field, Visitor&& visit) {
  dispatch_type(image, [&](auto image_tag) {
    using Image = typename decltype(image_tag)::type;
    if (field == image) {
      return visit(image_tag, image_tag);
    }
    if constexpr (sizeof(Image) == 2) {
      if (field == DType::float32) {
        return visit(image_tag, TypeTag<float>{});
      }
    } else if constexpr (coefficients && sizeof(Image) == 4) {
      if (field == DType::float16) {
        return visit(image_tag, TypeTag<Half>{});
      }
      if (field == DType::bfloat16) {
        return visit(image_tag, TypeTag<BFloat16>{});
      }
    }
    throw std::runtime_error("no CUDA kernel for image dtype code " +
                             std::to_string(static_cast<int>(image)) + " with displacement " +
                             std::to_string(static_cast<int>(field)));
  });
}

template <Padding padding>
using PaddingTag = std::integral_constant<Padding, padding>;

#pragma nv_exec_check_disable  // the visitor is the host's where the call is
template <typename Visitor>
PLASTICINE_HOST_DEVICE void dispatch_padding(Padding padding, Visitor&& visit) {
  if (padding == Padding::zeros) {
    visit(PaddingTag<Padding::zeros>{});
  } else if (padding == Padding::border) {
    visit(PaddingTag<Padding::border>{});
  } else {
    visit(PaddingTag<Padding::reflection>{});
  }
}

// 32-bit offsets within a channel where they suffice, 64-bit otherwise, and for float64, which is
// not run often enough to be compiled twice.
template <typename Stored, typename Visitor>
void dispatch_index(std::int64_t largest, Visitor&& visit) {
  if constexpr (sizeof(accumulator_t<Stored>) == sizeof(float)) {
    if (largest <= std::numeric_limits<std::int32_t>::max()) {
      visit(TypeTag<std::int32_t>{});
      return;
    }
  }
  visit(TypeTag<std::int64_t>{});
}

// What one kernel is compiled for; T is the type that it computes in.
template <int dimension, Padding kernel_padding, typename ImageType, typename FieldType,
          typename IndexType>
struct Instance {
  static constexpr int D = dimension;
  static constexpr Padding padding = kernel_padding;
  using Image = ImageType;
  using Field = FieldType;
  using Index = IndexType;
  using T = accumulator_t<Image>;
  template <Padding other>
  using With = Instance<D, other, Image, Field, Index>;
};

// Calls visit(Instance<...>{}), with Padding::any.
template <typename Image, typename Field, typename Visitor>
void dispatch_layout(std::int64_t dimension, std::int64_t largest, Visitor&& visit) {
  dispatch_index<Image>(largest, [&](auto index) {
    using Index = typename decltype(index)::type;
    if (dimension == 2) {
      visit(Instance<2, Padding::any, Image, Field, Index>{});
    } else {
      visit(Instance<3, Padding::any, Image, Field, Index>{});
    }
  });
}

// The same for an operator on an image and a displacement.
template <bool coefficients, typename Visitor>
void dispatch_image(std::int64_t dimension, DType image, DType field, std::int64_t largest,
                    Visitor&& visit) {
  dispatch_types<coefficients>(image, field, [&](auto image_tag, auto field_tag) {
    dispatch_layout<typename decltype(image_tag)::type, typename decltype(field_tag)::type>(
        dimension, largest, visit);
  });
}

// The same for one on a displacement alone.
template <bool halves = true, typename Visitor>
void dispatch_field(const Tensor& field, std::int64_t largest, Visitor&& visit) {
  dispatch_type<halves>(field.dtype, [&](auto tag) {
    using Stored = typename decltype(tag)::type;
    dispatch_layout<Stored, Stored>(field.shape[1], largest, visit);
  });
}

// A visitor of the above that hands on instances compiled for the padding. Every call is served,
// but each further kernel costs a tenth of a second of build time and 7 kB for every architecture.
// So kernels that know their padding exist for what is run every day: float32 and 16-bit types with
// offsets of 32 bits. float64, and volumes of 2^31 voxels and more, share kernels with 64-bit
// offsets that learn it at run time.
template <typename Visitor>
auto by_padding(Padding padding, const Visitor& visit) {
  return [padding, &visit](auto any) {
    using Any = decltype(any);
    if constexpr (sizeof(typename Any::Index) == sizeof(std::int32_t)) {
      dispatch_padding(
          padding, [&](auto tag) { visit(typename Any::template With<decltype(tag)::value>{}); });
    } else {
      visit(any);
    }
  };
}

}  // namespace plasticine::cuda
