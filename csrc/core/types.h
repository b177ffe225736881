// What options and dtypes may be, and the types that code for every backend is written in.
#pragma once

#include <cstdint>

namespace plasticine {

enum class DType : int { float32 = 0, float64 = 1, float16 = 2, bfloat16 = 3, int64 = 4 };
enum class Mode : int { linear = 0, nearest = 1, cubic = 2, bspline = 3 };
constexpr bool is_cubic(Mode mode) { return mode == Mode::cubic || mode == Mode::bspline; }
// any: none of them, but what a kernel is compiled for that learns its padding at run time.
enum class Padding : int { zeros = 0, border = 1, reflection = 2, any = 3 };
enum class Method : int { euler = 0, midpoint = 1, rk4 = 2 };
enum class Penalty : int { hinge = 0, log = 1 };
enum class Scheme : int { central = 0, forward = 1, backward = 2 };
enum class Parzen : int { bspline = 0, gaussian = 1, mattes = 2 };

// 16-bit storage; arithmetic is always in the accumulator type. See half.h for the conversions.
struct Half {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

// The type in which values and coordinates of a stored type are computed.
template <typename Stored>
struct Accumulator {
  using type = Stored;
};
template <>
struct Accumulator<Half> {
  using type = float;
};
template <>
struct Accumulator<BFloat16> {
  using type = float;
};
template <typename Stored>
using accumulator_t = typename Accumulator<Stored>::type;

}  // namespace plasticine
