// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "warp_rows.h"

#include "warp_fused_rows.h"
#include "warp_gather_rows.h"
#include "warp_nearest_rows.h"
#include "warp_scatter_rows.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

template <typename Stored, typename Index>
constexpr WarpRows<accumulator_t<Stored>> with_fused_rows(WarpRows<accumulator_t<Stored>> rows) {
#if defined(PLASTICINE_SIMD_AVX512)
  if constexpr (sizeof(accumulator_t<Stored>) == sizeof(float)) {
    rows.gather_row = gather_row<Stored>;
    rows.gradient_row = gradient_row<Stored>;
    rows.scatter_row = scatter_row;
    rows.backward_row = backward_row<Stored>;
    rows.nearest_row = nearest_row<Stored>;
  }
#endif
  return rows;
}

template <typename Stored, typename Index>
constexpr WarpRows<accumulator_t<Stored>> kTable = with_fused_rows<Stored, Index>({
    locate<accumulator_t<Stored>, Index>,
    gather<Stored, Index>,
    gradient<Stored, Index>,
    scatter<accumulator_t<Stored>, Index>,
    locate_nearest<accumulator_t<Stored>, Index>,
    gather_nearest<Stored, Index>,
    scatter_nearest<accumulator_t<Stored>, Index>,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
});

template <typename Stored>
const WarpRows<accumulator_t<Stored>>& table(bool wide) {
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
const WarpRows<T>& warp_rows(DType image, bool wide);

template <>
const WarpRows<float>& warp_rows<float>(DType image, bool wide) {
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
const WarpRows<double>& warp_rows<double>(DType, bool wide) {
  return table<double>(wide);
}

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
