// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "jacobian_penalty/rows/jacobian_penalty.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

constexpr int kLanes = 16;

template <bool log, typename T>
double sum_of(const JacobianPenalty<T>& given, const T* jacobian, std::int64_t n) {
  const JacobianPenalty<T> penalty = given;
  double sums[kLanes] = {};
  std::int64_t x = 0;
  for (; x + kLanes <= n; x += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      sums[lane] += static_cast<double>(penalty.template value<log>(jacobian[x + lane]));
    }
  }
  for (int lane = 0; x + lane < n; ++lane) {
    sums[lane] += static_cast<double>(penalty.template value<log>(jacobian[x + lane]));
  }
  double total = 0;
  for (const double sum : sums) {
    total += sum;
  }
  return total;
}

template <typename T>
double sum(const JacobianPenalty<T>& penalty, const T* jacobian, std::int64_t n) {
  return penalty.is_log ? sum_of<true>(penalty, jacobian, n) : sum_of<false>(penalty, jacobian, n);
}

template <bool log, typename T>
bool differentiate_of(const JacobianPenalty<T>& given, T scale, const T* jacobian, std::int64_t n,
                      T* slopes) {
  const JacobianPenalty<T> penalty = given;
  int sloped = log ? 1 : 0;
  PLASTICINE_INDEPENDENT
  for (std::int64_t x = 0; x < n; ++x) {
    const T slope = penalty.template derivative<log>(jacobian[x]);
    sloped |= slope == T(0) ? 0 : 1;
    slopes[x] = scale * slope;
  }
  return sloped != 0;
}

template <typename T>
bool differentiate(const JacobianPenalty<T>& penalty, T scale, const T* jacobian, std::int64_t n,
                   T* slopes) {
  return penalty.is_log ? differentiate_of<true>(penalty, scale, jacobian, n, slopes)
                        : differentiate_of<false>(penalty, scale, jacobian, n, slopes);
}

template <typename T>
constexpr JacobianPenaltyRows<T> kTable = {sum<T>, differentiate<T>};

}  // namespace

template <typename T>
const JacobianPenaltyRows<T>& penalty_rows() {
  return kTable<T>;
}

template const JacobianPenaltyRows<float>& penalty_rows();
template const JacobianPenaltyRows<double>& penalty_rows();

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
