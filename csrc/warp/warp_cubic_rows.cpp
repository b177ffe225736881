// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "warp_cubic_rows.h"

#include "warp_cubic_gather_rows.h"
#include "warp_cubic_scatter_rows.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

template <typename Stored, typename Index>
constexpr WarpCubicRows<accumulator_t<Stored>> kTable = {
    locate_cubic<accumulator_t<Stored>, Index>,
    gather_cubic<Stored, Index>,
    cubic_gradient<Stored, Index>,
    scatter_cubic<accumulator_t<Stored>, Index>,
};

template <typename Stored>
const WarpCubicRows<accumulator_t<Stored>>& table(bool wide) {
#if defined(PLASTICINE_SIMD_BASELINE)
  if (wide) {
    return kTable<Stored, std::int64_t>;
  }
#endif
  (void)wide;
  return kTable<Stored, std::int32_t>;
}

}  // namespace

template <typename T>
const WarpCubicRows<T>& warp_cubic_rows(DType image, bool wide);

template <>
const WarpCubicRows<float>& warp_cubic_rows<float>(DType image, bool wide) {
  switch (image) {
    case DType::float16:
      return table<Half>(wide);
    case DType::bfloat16:
      return table<BFloat16>(wide);
    default:
      return table<float>(wide);
  }
}

template <>
const WarpCubicRows<double>& warp_cubic_rows<double>(DType, bool wide) {
  return table<double>(wide);
}

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
