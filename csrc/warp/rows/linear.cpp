// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "warp/rows/linear.h"

#include "core/rows/table.h"
#include "warp/avx512/linear.h"
#include "warp/avx512/nearest.h"
#include "warp/rows/gather.h"
#include "warp/rows/scatter.h"

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

struct Tables {
  template <typename Stored, typename Index>
  static constexpr WarpRows<accumulator_t<Stored>> value = with_fused_rows<Stored, Index>({
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
};

}  // namespace

template <typename T>
const WarpRows<T>& warp_rows(DType image, bool wide) {
  return table_of<Tables, T>(image, wide);
}

template const WarpRows<float>& warp_rows(DType, bool);
template const WarpRows<double>& warp_rows(DType, bool);

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
