// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "smoothness/rows/smoothness.h"

#include "core/rows/dispatch.h"
#include "core/rows/vector.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

// Of a row a sum in T has no more than this many columns, shared by the lanes of a vector.
constexpr std::int64_t kPart = 512;

// The differences of the terms at a column. A local copy of the pointers, so that they are known
// not to change under the loop's stores.
template <int D, int order, bool central, typename T>
struct Differences {
  using Element = T;
  static constexpr int kTerms = order == 1 ? 3 : 6;

  const T* row[3][3];

  PLASTICINE_INLINE explicit Differences(const EnergyRows<T>& rows) {
    for (int a = 0; a < 3; ++a) {
      for (int b = 0; b < 3; ++b) {
        row[a][b] = rows.row[a][b];
      }
    }
  }

  static constexpr bool has(int term) { return D == 3 || (term != 0 && term != 3 && term != 4); }

  // So many steps along one axis and another: a vector or one value.
  template <typename Value>
  PLASTICINE_INLINE Value at(std::int64_t x, int axis, int step, int other = 2,
                             int other_step = 0) const {
    const int z = (axis == 0 ? step : 0) + (other == 0 ? other_step : 0);
    const int y = (axis == 1 ? step : 0) + (other == 1 ? other_step : 0);
    const int along = (axis == 2 ? step : 0) + (other == 2 ? other_step : 0);
    return load_vector<Value>(row[1 + z][1 + y] + x + along);
  }

  template <int term, typename Value>
  PLASTICINE_INLINE Value difference(std::int64_t x) const {
    if constexpr (order == 1) {
      const Value upper = at<Value>(x, term, 1);
      return central ? T(0.5) * (upper - at<Value>(x, term, -1)) : upper - at<Value>(x, term, 0);
    } else if constexpr (term < 3) {
      const Value here = at<Value>(x, term, 0);
      return (at<Value>(x, term, 1) - here) - (here - at<Value>(x, term, -1));
    } else {
      constexpr int j = first_axis(term);
      constexpr int k = second_axis(term);
      constexpr int low = central ? -1 : 0;
      const Value upper = at<Value>(x, j, 1, k, 1) - at<Value>(x, j, 1, k, low);
      const Value lower = at<Value>(x, j, low, k, 1) - at<Value>(x, j, low, k, low);
      return central ? T(0.25) * (upper - lower) : upper - lower;
    }
  }

  // The columns where the difference of a term exists.
  PLASTICINE_INLINE static std::int64_t first(int term, std::int64_t columns) {
    const bool on_both_sides =
        central ? term_is_along(term) || columns > 2 : order == 2 && term == 2;
    return on_both_sides ? 1 : 0;
  }
  PLASTICINE_INLINE static std::int64_t last(int term, std::int64_t columns) {
    const bool on_both_sides = central && columns > 2;
    return columns - (on_both_sides || term_is_along(term) ? 1 : 0);
  }
  static constexpr bool term_is_along(int term) { return term == 2 || term == 4 || term == 5; }
};

// Calls work(Constant<int, term>) for every term of an energy.
template <typename Terms, int term = 0, typename Work>
PLASTICINE_INLINE void for_each_term(const Work& work) {
  if constexpr (term < Terms::kTerms) {
    if constexpr (Terms::has(term)) {
      work(Constant<int, term>());
    }
    for_each_term<Terms, term + 1>(work);
  }
}

template <typename T>
struct Squares {
  static constexpr int kLanes = VectorOf<T>::kLanes;

  Vector<T> sum = {};

  PLASTICINE_INLINE void add(const Vector<T>& difference) { sum += difference * difference; }

  // Leaves out the lanes before `first`.
  PLASTICINE_INLINE void add_from(int first, const Vector<T>& difference) {
    Vector<T> lanes;
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = static_cast<T>(lane);
    }
    const Vector<T> none = {};
    sum += lanes >= none + static_cast<T>(first) ? difference * difference : none;
  }

  PLASTICINE_INLINE void add_to(double (&lanes)[kSmoothnessLanes]) const {
    T values[kLanes];
    store_vector(sum, values);
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += static_cast<double>(values[lane]);
    }
  }
};

// One term over columns where it exists.
template <int term, typename Terms>
PLASTICINE_NOINLINE void add_term(const Terms& terms, std::int64_t first, std::int64_t last,
                                  double (&lanes)[kSmoothnessLanes]) {
  using T = typename Terms::Element;
  constexpr int kLanes = VectorOf<T>::kLanes;
  std::int64_t x = first;
  while (x + kLanes <= last) {
    const std::int64_t end = x + kPart < last ? x + kPart : last;
    Squares<T> squares;
    for (; x + kLanes <= end; x += kLanes) {
      squares.add(terms.template difference<term, Vector<T>>(x));
    }
    squares.add_to(lanes);
  }
  for (; x < last; ++x) {
    const T difference = terms.template difference<term, T>(x);
    lanes[0] += static_cast<double>(difference * difference);
  }
}

// All terms at once over columns where all exist, no fewer than a vector has.
template <typename Terms>
PLASTICINE_INLINE void add_all(const Terms& terms, std::int64_t first, std::int64_t last,
                               SmoothnessSums* sums) {
  using T = typename Terms::Element;
  constexpr int kLanes = VectorOf<T>::kLanes;
  std::int64_t x = first;
  while (x < last) {
    const std::int64_t end = x + kPart < last ? x + kPart : last;
    Squares<T> squares[kSmoothnessTerms];
    for (; x + kLanes <= end; x += kLanes) {
      for_each_term<Terms>([&](auto term) PLASTICINE_INLINE_LAMBDA {
        squares[decltype(term)::value].add(
            terms.template difference<decltype(term)::value, Vector<T>>(x));
      });
    }
    if (end == last && x < last) {
      // A last vector that overlaps.
      const int seen = static_cast<int>(x - (last - kLanes));
      for_each_term<Terms>([&](auto term) PLASTICINE_INLINE_LAMBDA {
        squares[decltype(term)::value].add_from(
            seen, terms.template difference<decltype(term)::value, Vector<T>>(last - kLanes));
      });
      x = last;
    }
    for_each_term<Terms>([&](auto term) PLASTICINE_INLINE_LAMBDA {
      squares[decltype(term)::value].add_to(sums->lanes[decltype(term)::value]);
    });
  }
}

template <int D, int order, bool central, typename T>
void add_energy_of(const EnergyRows<T>& rows, SmoothnessSums* sums) {
  using Terms = Differences<D, order, central, T>;
  const Terms terms(rows);
  bool has_all = true;
  std::int64_t first = 0;
  std::int64_t last = rows.columns;
  for_each_term<Terms>([&](auto constant) {
    constexpr int term = decltype(constant)::value;
    has_all = has_all && rows.exists[term];
    const std::int64_t from = Terms::first(term, rows.columns);
    const std::int64_t to = Terms::last(term, rows.columns);
    first = from > first ? from : first;
    last = to < last ? to : last;
  });
  has_all = has_all && last - first >= VectorOf<T>::kLanes;
  if (has_all) {
    add_all(terms, first, last, sums);
  }
  // What is left over.
  for_each_term<Terms>([&](auto constant) {
    constexpr int term = decltype(constant)::value;
    const std::int64_t from = Terms::first(term, rows.columns);
    const std::int64_t to = Terms::last(term, rows.columns);
    if (rows.exists[term] && !has_all) {
      add_term<term>(terms, from, to, sums->lanes[term]);
    } else if (has_all) {
      for (std::int64_t x = from; x < first; ++x) {
        const T difference = terms.template difference<term, T>(x);
        sums->lanes[term][0] += static_cast<double>(difference * difference);
      }
      for (std::int64_t x = last; x < to; ++x) {
        const T difference = terms.template difference<term, T>(x);
        sums->lanes[term][0] += static_cast<double>(difference * difference);
      }
    }
  });
}

template <int D, int order, typename T>
void add_energy_by(const EnergyRows<T>& rows, SmoothnessSums* sums) {
  if (rows.scheme == Scheme::central) {
    add_energy_of<D, order, true>(rows, sums);
  } else {
    add_energy_of<D, order, false>(rows, sums);
  }
}

template <typename T>
void add_energy(const EnergyRows<T>& rows, SmoothnessSums* sums) {
  if (rows.ndim == 2) {
    rows.order == 1 ? add_energy_by<2, 1>(rows, sums) : add_energy_by<2, 2>(rows, sums);
  } else {
    rows.order == 1 ? add_energy_by<3, 1>(rows, sums) : add_energy_by<3, 2>(rows, sums);
  }
}

// The gradient of a row. count, turned: of the rows, where they are known at compile time; -1 where
// not. A local copy of the pointers, so that they are known not to change under the loop's stores.
template <int order, int reach, int count, int turned, typename T>
class Gradient {
 public:
  PLASTICINE_INLINE explicit Gradient(const GradientRows<T>& rows)
      : rows_(rows), centre_(rows.centre), own_(rows.own) {
    for (int i = 0; i < known(count, 0); ++i) {
      row_[i] = rows.row[i];
      weight_[i] = rows.inner[i];
    }
    for (int i = 0; i < known(turned, 0); ++i) {
      along_[i] = rows.along[i];
    }
  }

  // Two columns at either end are apart.
  PLASTICINE_INLINE void run(T* PLASTICINE_RESTRICT out) const {
    const std::int64_t columns = rows_.columns;
    const std::int64_t first = columns < 2 ? columns : 2;
    const std::int64_t last = columns - 2 > first ? columns - 2 : first;
    for (std::int64_t x = 0; x < first; ++x) {
      out[x] = at_end(x);
    }
    for_each_vector<T>(first, last, [&](std::int64_t x, auto zero) PLASTICINE_INLINE_LAMBDA {
      store_vector(inside<decltype(zero)>(x), out + x);
    });
    for (std::int64_t x = last; x < columns; ++x) {
      out[x] = at_end(x);
    }
  }

 private:
  static constexpr bool kKnown = count >= 0;
  static constexpr int known(int number, int other) { return number >= 0 ? number : other; }
  static constexpr int kRows = known(count, 0) > 0 ? known(count, 0) : 1;

  PLASTICINE_INLINE int row_count() const { return kKnown ? count : rows_.count; }
  PLASTICINE_INLINE int turned_count() const { return kKnown ? turned : rows_.turned; }
  PLASTICINE_INLINE const T* row(int i) const { return kKnown ? row_[i] : rows_.row[i]; }
  PLASTICINE_INLINE T weight(int i) const { return kKnown ? weight_[i] : rows_.inner[i]; }
  PLASTICINE_INLINE T along(int i) const { return kKnown ? along_[i] : rows_.along[i]; }

  template <typename Value>
  PLASTICINE_INLINE Value inside(std::int64_t x) const {
    const Value here = load_vector<Value>(centre_ + x);
    // Two sums, so that they do not wait for each other.
    Value sum = {};
    Value other = {};
    for (int i = 0; i < row_count(); ++i) {
      (i % 2 == 0 ? sum : other) += weight(i) * (load_vector<Value>(row(i) + x) - here);
    }
    const Value before = load_vector<Value>(centre_ + x - reach);
    const Value after = load_vector<Value>(centre_ + x + reach);
    for (int i = 0; i < turned_count(); ++i) {
      const Value sides = (load_vector<Value>(row(i) + x - reach) - before) +
                          (load_vector<Value>(row(i) + x + reach) - after);
      other += along(i) * sides;
    }
    if (kKnown || rows_.has_own) {
      if constexpr (order == 1) {
        sum += own_ * ((before - here) + (after - here));
      } else {
        const Value near = (load_vector<Value>(centre_ + x - 1) - here) +
                           (load_vector<Value>(centre_ + x + 1) - here);
        const Value far = (load_vector<Value>(centre_ + x - 2) - here) +
                          (load_vector<Value>(centre_ + x + 2) - here);
        sum += own_ * (far - T(4) * near);
      }
    }
    return sum + other;
  }

  // As far as there are columns on either side.
  PLASTICINE_INLINE T at_end(std::int64_t x) const {
    const std::int64_t columns = rows_.columns;
    const T here = centre_[x];
    T sum = T(0);
    if (is_counted(rows_.scheme, x, columns)) {
      for (int i = 0; i < row_count(); ++i) {
        sum += rows_.weight[i] * (row(i)[x] - here);
      }
    }
    for (int side = -reach; side <= reach; side += 2 * reach) {
      if (x + side < 0 || x + side >= columns) {
        continue;
      }
      const T beside = centre_[x + side];
      for (int i = 0; i < turned_count(); ++i) {
        sum += along(i) * ((row(i)[x + side] - beside) - (row(i)[x] - here));
      }
      if (order == 1 && (kKnown || rows_.has_own)) {
        sum += own_ * (beside - here);
      }
    }
    if (order == 2 && (kKnown || rows_.has_own)) {
      for (int step = -2; step <= 2; ++step) {
        const int coefficient = step == 0 ? 0 : second_coefficient<std::int64_t>(x, step, columns);
        if (coefficient != 0) {
          sum += own_ * static_cast<T>(coefficient) * (centre_[x + step] - here);
        }
      }
    }
    return sum;
  }

  const GradientRows<T>& rows_;
  const T* row_[kRows];
  T weight_[kRows];
  T along_[known(turned, 0) > 0 ? known(turned, 0) : 1];
  const T* centre_;
  const T own_;
};

template <int order, int reach, typename T>
void gradient_by(const GradientRows<T>& rows, T* out) {
  // Of rows away from the border in 3D, then in 2D.
  constexpr int kFar = order == 1 ? 4 : 12;
  constexpr int kTurned = order == 1 ? 0 : 4;
  if (rows.count == kFar && rows.turned == kTurned && rows.has_own) {
    Gradient<order, reach, kFar, kTurned, T>(rows).run(out);
  } else if (rows.count == 2 * order && rows.turned == 2 * order - 2 && rows.has_own) {
    Gradient<order, reach, 2 * order, 2 * order - 2, T>(rows).run(out);
  } else {
    Gradient<order, reach, -1, -1, T>(rows).run(out);
  }
}

template <typename T>
void gradient(const GradientRows<T>& rows, T* out) {
  if (rows.scheme == Scheme::central) {
    rows.order == 1 ? gradient_by<1, 2>(rows, out) : gradient_by<2, 2>(rows, out);
  } else {
    rows.order == 1 ? gradient_by<1, 1>(rows, out) : gradient_by<2, 1>(rows, out);
  }
}

template <typename T>
constexpr SmoothnessRows<T> kTable = {add_energy<T>, gradient<T>};

}  // namespace

template <typename T>
const SmoothnessRows<T>& smoothness_rows() {
  return kTable<T>;
}

template const SmoothnessRows<float>& smoothness_rows();
template const SmoothnessRows<double>& smoothness_rows();

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
