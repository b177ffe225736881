// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "lncc/rows/box.h"

#include "core/rows/dispatch.h"
#include "lncc/rows/registers.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

template <typename T>
struct BoxMoments {
  lanes_t<T> mean_x;
  lanes_t<T> mean_y;
  lanes_t<T> square_x;
  lanes_t<T> square_y;
  lanes_t<T> cross;
};

template <typename T>
PLASTICINE_INLINE BoxMoments<T> load_moments(const T* from, std::int64_t stride) {
  return {load_lanes(from), load_lanes(from + stride), load_lanes(from + 2 * stride),
          load_lanes(from + 3 * stride), load_lanes(from + 4 * stride)};
}

template <typename T>
PLASTICINE_INLINE BoxMoments<T> moments_of_one(const T* x, const T* y) {
  return {load_lanes(x), load_lanes(y), lanes_t<T>{}, lanes_t<T>{}, lanes_t<T>{}};
}

template <typename T>
PLASTICINE_INLINE BoxMoments<T> merged(const BoxMoments<T>& a, const BoxMoments<T>& b,
                                       const lanes_t<T>& share, const lanes_t<T>& spread) {
  const lanes_t<T> x = b.mean_x - a.mean_x;
  const lanes_t<T> y = b.mean_y - a.mean_y;
  const lanes_t<T> spread_x = spread * x;
  const lanes_t<T> spread_y = spread * y;
  return {a.mean_x + share * x, a.mean_y + share * y, a.square_x + b.square_x + spread_x * x,
          a.square_y + b.square_y + spread_y * y, a.cross + b.cross + spread_x * y};
}

// Calls pass(number, size, is_odd) for each doubling: of windows of `size` values to those of
// 2 * size, and one more where is_odd.
template <typename Pass>
PLASTICINE_INLINE void for_each_doubling(int window, const Pass& pass) {
  int bit = 0;
  while (window >> (bit + 1) != 0) {
    ++bit;
  }
  for (int number = 0; bit-- > 0; ++number) {
    pass(number, window >> (bit + 1), (window >> bit & 1) != 0);
  }
}

// What doubled windows are wanted for, so that the last are there for n results.
template <typename T>
PLASTICINE_INLINE int wanted(const LnccBox<T>& box, int size, bool is_odd) {
  return box.n + box.size - (2 * size + is_odd);
}

template <typename T>
void count(const LnccBox<T>& box, const T* weight, T* counts) {
  for_each_doubling(box.size, [&](int number, int size, bool is_odd) PLASTICINE_INLINE_LAMBDA {
    const T* const from = number == 0 ? weight : counts;
    T* const merges = box.merges + 4 * number * box.padded;
    const int n = wanted(box, size, is_odd);
    for (int i = 0; i < n; i += Lanes<T>::kCount) {
      const lanes_t<T> a = load_lanes(from + i);
      const lanes_t<T> b = load_lanes(from + i + size);
      lanes_t<T> sum = a + b;
      const lanes_t<T> share = quotient<T>(b, sum);
      store_lanes<T>(share, merges + i);
      store_lanes<T>(a * share, merges + box.padded + i);
      if (is_odd) {
        const lanes_t<T> one = load_lanes(weight + i + 2 * size);
        const lanes_t<T> share_of_one = quotient<T>(one, sum + one);
        store_lanes<T>(share_of_one, merges + 2 * box.padded + i);
        store_lanes<T>(sum * share_of_one, merges + 3 * box.padded + i);
        sum += one;
      }
      store_lanes<T>(sum, counts + i);
    }
  });
}

// In place but for the last: what is read lies at what is written, or behind.
template <bool is_first, bool is_last, typename T>
PLASTICINE_INLINE void double_moments(const LnccBox<T>& box, int number, int size, bool is_odd,
                                      const T* x, const T* y, T* const* moments) {
  const T* const merges = box.merges + 4 * number * box.padded;
  const int n = wanted(box, size, is_odd);
  const auto load = [&](int i) PLASTICINE_INLINE_LAMBDA {
    if constexpr (is_first) {
      return moments_of_one(x + i, y + i);
    } else {
      return load_moments(static_cast<const T*>(box.buffer) + i, box.padded);
    }
  };
  for (int i = 0; i < n; i += Lanes<T>::kCount) {
    BoxMoments<T> sum = merged(load(i), load(i + size), load_lanes(merges + i),
                               load_lanes(merges + box.padded + i));
    if (is_odd) {
      sum =
          merged(sum, moments_of_one(x + i + 2 * size, y + i + 2 * size),
                 load_lanes(merges + 2 * box.padded + i), load_lanes(merges + 3 * box.padded + i));
    }
    if (is_last && box.scale != nullptr) {
      const lanes_t<T> scale = load_lanes(box.scale + i);
      sum.square_x *= scale;
      sum.square_y *= scale;
      sum.cross *= scale;
    }
    const auto to = [&](int k) PLASTICINE_INLINE_LAMBDA {
      return (is_last ? moments[k] : box.buffer + k * box.padded) + i;
    };
    store_lanes<T>(sum.mean_x, to(0));
    store_lanes<T>(sum.mean_y, to(1));
    store_lanes<T>(sum.square_x, to(2));
    store_lanes<T>(sum.square_y, to(3));
    store_lanes<T>(sum.cross, to(4));
  }
}

template <typename T>
void along(const LnccBox<T>& box, const T* x, const T* y, T* const* moments) {
  for_each_doubling(box.size, [&](int number, int size, bool is_odd) PLASTICINE_INLINE_LAMBDA {
    const bool is_last = 2 * size + is_odd == box.size;
    if (number == 0 && is_last) {
      double_moments<true, true>(box, number, size, is_odd, x, y, moments);
    } else if (number == 0) {
      double_moments<true, false>(box, number, size, is_odd, x, y, moments);
    } else if (is_last) {
      double_moments<false, true>(box, number, size, is_odd, x, y, moments);
    } else {
      double_moments<false, false>(box, number, size, is_odd, x, y, moments);
    }
  });
}

template <bool has_counts, typename T>
PLASTICINE_INLINE void merge_rows(const LnccMerge<T>& given, const T* a, const T* b,
                                  std::int64_t stride, int n, T* to) {
  const LnccMerge<T> merge = given;
  for (int i = 0; i < n; i += Lanes<T>::kCount) {
    lanes_t<T> share = lanes_t<T>{} + merge.share;
    lanes_t<T> spread = lanes_t<T>{} + merge.spread;
    lanes_t<T> scale = lanes_t<T>{} + merge.scale;
    if constexpr (has_counts) {
      const lanes_t<T> count_a = load_lanes(a + 5 * stride + i);
      const lanes_t<T> count_b = load_lanes(b + 5 * stride + i);
      const lanes_t<T> count = count_a + count_b;
      share = quotient<T>(count_b, count);
      spread = count_a * share;
      if (merge.normalise) {
        scale = quotient<T>(lanes_t<T>{} + T(1), count);
      }
      store_lanes<T>(count, to + 5 * stride + i);
    }
    const BoxMoments<T> sum =
        merged(load_moments(a + i, stride), load_moments(b + i, stride), share, spread);
    store_lanes<T>(sum.mean_x, to + i);
    store_lanes<T>(sum.mean_y, to + stride + i);
    store_lanes<T>(scale * sum.square_x, to + 2 * stride + i);
    store_lanes<T>(scale * sum.square_y, to + 3 * stride + i);
    store_lanes<T>(scale * sum.cross, to + 4 * stride + i);
  }
}

template <typename T>
void merge(const LnccMerge<T>& merge, const T* a, const T* b, std::int64_t stride, int n, T* to) {
  if (merge.has_counts) {
    merge_rows<true>(merge, a, b, stride, n, to);
  } else {
    merge_rows<false>(merge, a, b, stride, n, to);
  }
}

template <typename T>
void sum_along(const LnccBox<T>& box, const T* values, T* sums) {
  for_each_doubling(box.size, [&](int number, int size, bool is_odd) PLASTICINE_INLINE_LAMBDA {
    const T* const from = number == 0 ? values : box.buffer;
    T* const to = 2 * size + is_odd == box.size ? sums : box.buffer;
    const int n = wanted(box, size, is_odd);
    for (int i = 0; i < n; i += Lanes<T>::kCount) {
      lanes_t<T> sum = load_lanes(from + i) + load_lanes(from + i + size);
      if (is_odd) {
        sum += load_lanes(values + i + 2 * size);
      }
      store_lanes<T>(sum, to + i);
    }
  });
}

template <typename T>
void add(const T* a, const T* b, std::int64_t n, T* to) {
  for (std::int64_t i = 0; i < n; i += Lanes<T>::kCount) {
    store_lanes<T>(load_lanes(a + i) + load_lanes(b + i), to + i);
  }
}

template <typename T>
constexpr LnccBoxRows<T> kTable = {count<T>, along<T>, merge<T>, sum_along<T>, add<T>};

}  // namespace

template <typename T>
const LnccBoxRows<T>& lncc_box_rows() {
  return kTable<T>;
}

template const LnccBoxRows<float>& lncc_box_rows();
template const LnccBoxRows<double>& lncc_box_rows();

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
