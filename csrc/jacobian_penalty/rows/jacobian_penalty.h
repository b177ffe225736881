// The vectorised inner loops of the Jacobian's penalty, over rows of determinants.
#pragma once

#include <cstdint>

#include "core/cpu/simd.h"
#include "core/types.h"
#include "jacobian_penalty/math/jacobian_penalty.h"

namespace plasticine {

template <typename T>
struct JacobianPenaltyRows {
  // The sum of what a row pays; its order depends on n alone.
  double (*sum)(const JacobianPenalty<T>& penalty, const T* jacobian, std::int64_t n);
  // slopes[x] = scale * the derivative of what is paid; slopes may be jacobian. Whether any is not
  // 0, before it is scaled.
  bool (*differentiate)(const JacobianPenalty<T>& penalty, T scale, const T* jacobian,
                        std::int64_t n, T* slopes);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T> const JacobianPenaltyRows<T>& penalty_rows();)

namespace plasticine {

template <typename T>
const JacobianPenaltyRows<T>& select_penalty_rows() {
  return PLASTICINE_SELECT_SIMD(penalty_rows<T>)();
}

}  // namespace plasticine
