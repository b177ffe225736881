// load(stored) -> accumulator and store<Stored>(accumulator), for every stored type, on the host
// and on the device. Rounding is to nearest even, as in torch; NaN stays NaN, inf stays inf.
#pragma once

#include "core/macros.h"
#include "core/types.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

PLASTICINE_NAMESPACE_BEGIN

#if !defined(__CUDA_ARCH__)
// Free of branches so that loops over rows of halves vectorise.
PLASTICINE_INLINE std::uint32_t float_bits(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

PLASTICINE_INLINE float float_from_bits(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

PLASTICINE_INLINE float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7fffu;
  // Exponent bias 15 -> 127; infinities and NaN move by as much again, to the top exponent.
  const std::uint32_t bias = magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u;
  const std::uint32_t normal = (magnitude << 13) + bias;
  const float subnormal = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
  return float_from_bits(sign | (magnitude < 0x0400u ? float_bits(subnormal) : normal));
}

PLASTICINE_INLINE std::uint16_t float_to_half(float value) {
  const std::uint32_t bits = float_bits(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  const std::uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  // Adding 0.5 aligns a subnormal half's last bit with the float's, so the addition rounds it.
  const std::uint32_t subnormal = float_bits(float_from_bits(magnitude) + 0.5f) - float_bits(0.5f);
  const std::uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  return static_cast<std::uint16_t>(sign | (magnitude >= 0x47800000u ? special : finite));
}

PLASTICINE_INLINE float bfloat16_to_float(std::uint16_t bits) {
  return float_from_bits(static_cast<std::uint32_t>(bits) << 16);
}

PLASTICINE_INLINE std::uint16_t float_to_bfloat16(float value) {
  const std::uint32_t bits = float_bits(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<std::uint16_t>(is_nan ? 0x7fc0u : rounded);
}
#endif  // !defined(__CUDA_ARCH__)

PLASTICINE_INLINE float load(float value) { return value; }
PLASTICINE_INLINE double load(double value) { return value; }

PLASTICINE_INLINE float load(Half value) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(value.bits));
#else
  return half_to_float(value.bits);
#endif
}

PLASTICINE_INLINE float load(BFloat16 value) {
#if defined(__CUDA_ARCH__)
  return __bfloat162float(__ushort_as_bfloat16(value.bits));
#else
  return bfloat16_to_float(value.bits);
#endif
}

template <typename Stored>
struct Store {
  template <typename T>
  PLASTICINE_INLINE static Stored from(T value) {
    return static_cast<Stored>(value);
  }
};

template <>
struct Store<Half> {
  PLASTICINE_INLINE static Half from(float value) {
#if defined(__CUDA_ARCH__)
    return Half{__half_as_ushort(__float2half_rn(value))};
#else
    return Half{float_to_half(value)};
#endif
  }
};

template <>
struct Store<BFloat16> {
  PLASTICINE_INLINE static BFloat16 from(float value) {
#if defined(__CUDA_ARCH__)
    return BFloat16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
    return BFloat16{float_to_bfloat16(value)};
#endif
  }
};

template <typename Stored, typename T>
PLASTICINE_INLINE Stored store(T value) {
  return Store<Stored>::from(value);
}

PLASTICINE_NAMESPACE_END
