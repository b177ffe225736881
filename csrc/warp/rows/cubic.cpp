// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "warp/rows/cubic.h"

#include "core/rows/table.h"
#include "warp/rows/cubic_gather.h"
#include "warp/rows/cubic_scatter.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

struct Tables {
  template <typename Stored, typename Index>
  static constexpr WarpCubicRows<accumulator_t<Stored>> value = {
      locate_cubic<accumulator_t<Stored>, Index>,
      gather_cubic<Stored, Index>,
      cubic_gradient<Stored, Index>,
      scatter_cubic<accumulator_t<Stored>, Index>,
  };
};

}  // namespace

template <typename T>
const WarpCubicRows<T>& warp_cubic_rows(DType image, bool wide) {
  return table_of<Tables, T>(image, wide);
}

template const WarpCubicRows<float>& warp_cubic_rows(DType, bool);
template const WarpCubicRows<double>& warp_cubic_rows(DType, bool);

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
