// A cubic window of x and the nearest bin of y, of float32 images on AVX-512: four numbers for each
// cell of x and bin of y, few enough to be float64 and to stay in the first-level cache.
#pragma once

#include "joint_histogram/avx512/places.h"

#if defined(PLASTICINE_SIMD_AVX512)

PLASTICINE_NAMESPACE_BEGIN

inline std::int64_t nearest_lines(const ParzenBins& bins) {
  return (std::int64_t{bins.x.cells} * (bins.y.cells + 1) + 1) / 2;
}

// The nearest of the bins of y that have values, counted from the first. Found in float64, as
// everywhere: a rounded place would give a voxel near the middle between two bins to another.
class NearestAxis {
 public:
  PLASTICINE_INLINE explicit NearestAxis(const BinAxis& axis)
      : least_(_mm512_set1_pd(axis.least)),
        greatest_(_mm512_set1_pd(axis.greatest)),
        scale_(_mm512_set1_pd(axis.scale)),
        last_(_mm256_set1_epi32(axis.cells - 1)) {}

  // ties: with the bin that follows.
  PLASTICINE_INLINE IndexLanes find(FloatLanes values, unsigned* ties) const {
    unsigned upper_ties;
    const __m256i lower = find_half(_mm512_castps512_ps256(values), ties);
    const __m256i upper = find_half(_mm512_extractf32x8_ps(values, 1), &upper_ties);
    *ties |= upper_ties << 8;
    return as_indices(_mm512_inserti32x8(_mm512_castsi256_si512(lower), upper, 1));
  }

 private:
  PLASTICINE_INLINE __m256i find_half(__m256 values, unsigned* ties) const {
    // Of a NaN and a number the second operand is taken.
    const __m512d lower = _mm512_max_pd(least_, _mm512_cvtps_pd(values));
    const __m512d place =
        _mm512_mul_pd(_mm512_sub_pd(_mm512_min_pd(greatest_, lower), least_), scale_);
    const __m512d found = _mm512_maskz_mov_pd(_mm512_cmp_pd_mask(place, place, _CMP_ORD_Q), place);
    const __m256i cell = _mm256_min_epi32(_mm512_cvttpd_epi32(found), last_);
    const __m512d within = _mm512_sub_pd(found, _mm512_cvtepi32_pd(cell));
    const __mmask8 upper = _mm512_cmp_pd_mask(within, _mm512_set1_pd(0.5 + kParzenTie), _CMP_GT_OQ);
    const __mmask8 either =
        _mm512_cmp_pd_mask(within, _mm512_set1_pd(0.5 - kParzenTie), _CMP_GE_OQ);
    *ties = either & ~unsigned{upper};
    return _mm256_mask_add_epi32(cell, upper, cell, _mm256_set1_epi32(1));
  }

  __m512d least_;
  __m512d greatest_;
  __m512d scale_;
  __m256i last_;
};

inline bool add_nearest(const VoxelBlock<float>& block, const ParzenBins& bins,
                        const HistogramTable& table) {
  alignas(64) float weights[4 * kBlock];
  alignas(64) std::int32_t places[kBlock];
  int found = 0;
  int tied[kBlock];
  int ties = 0;
  const IndexLanes stride = all_lanes(bins.y.cells + 1);
  const NearestAxis nearest(bins.y);
  const bool nan = place_block(
      block, bins,
      [&](int, const PlacedLanes& x, const PlacedLanes& y,
          FloatLanes counts) PLASTICINE_INLINE_LAMBDA {
        unsigned tie;
        const IndexLanes bin = nearest.find(y.value, &tie);
        counts = _mm512_mask_mul_ps(counts, static_cast<__mmask16>(tie), counts, all_lanes(0.5f));
        FloatLanes taps[4];
        cubic_weights(x.within, taps);
        for (FloatLanes& weight : taps) {
          weight *= counts;
        }
        transpose_quarters(taps);
        const __m512i place = as_integers(x.cell * stride + bin);
        const __m512i first = _mm512_broadcastd_epi32(_mm512_castsi512_si128(place));
        // A background lies at one place, where every voxel would wait for the one before.
        if (tie == 0 && _mm512_cmpneq_epi32_mask(place, first) == 0) {
          _mm512_store_ps(weights + 4 * found, (taps[0] + taps[1]) + (taps[2] + taps[3]));
          _mm_store_si128(reinterpret_cast<__m128i*>(places + found),
                          _mm512_castsi512_si128(place));
          found += 4;
          return;
        }
        for (int k = 0; k < 4; ++k) {
          _mm512_store_ps(weights + 4 * found + k * kLanes, taps[k]);
        }
        _mm512_storeu_si512(places + found, as_integers(in_order_of_quarters(as_indices(place))));
        for (unsigned rest = tie; rest != 0; rest &= rest - 1) {
          const int lane = __builtin_ctz(rest);
          tied[ties++] = found + lane % 4 * 4 + lane / 4;
        }
        found += kLanes;
      });
  double* const lines = reinterpret_cast<double*>(table.lines);
  const auto add = [&](std::int64_t place, const float* from) PLASTICINE_INLINE_LAMBDA {
    double* const line = lines + 4 * place;
    const __m256d sum = _mm256_add_pd(_mm256_load_pd(line), _mm256_cvtps_pd(_mm_load_ps(from)));
    _mm256_store_pd(line, sum);
  };
  far_apart(found, [&](int j) PLASTICINE_INLINE_LAMBDA { add(places[j], weights + 4 * j); });
  for (int k = 0; k < ties; ++k) {
    add(places[tied[k]] + 1, weights + 4 * tied[k]);
  }
  return nan;
}

inline void flush_nearest(const ParzenBins& bins, const HistogramTable& table) {
  const double* line = reinterpret_cast<const double*>(table.lines);
  for (int x = 0; x < bins.x.cells; ++x) {
    for (int bin = 0; bin <= bins.y.cells; ++bin, line += 4) {
      for (int a = 0; a < 4; ++a) {
        table.sums[(x + a) * table.stride + bin + 1] += line[a];
      }
    }
  }
}

// The derivatives of the sums of a window of x, at a bin of y, are parabolas in each cell.
inline void spread_nearest(const ParzenBins& bins, const HistogramGradient<float>& gradient,
                           float* lines) {
  for (int x = 0; x < bins.x.cells; ++x) {
    for (int bin = 0; bin <= bins.y.cells; ++bin, lines += 4) {
      float taps[4];
      for (int a = 0; a < 4; ++a) {
        taps[a] = gradient.values[(x + a) * gradient.stride + bin + 1];
      }
      lines[0] = 0.5f * (taps[2] - taps[0]);
      lines[1] = taps[0] - 2 * taps[1] + taps[2];
      lines[2] = 1.5f * (taps[1] - taps[2]) + 0.5f * (taps[3] - taps[0]);
      lines[3] = 0;
    }
  }
}

// The derivatives of 16 windows' sums, a parabola in each cell of x, at the bins of places.
PLASTICINE_INLINE FloatLanes derivative_of(const float* lines, const std::int32_t* places,
                                           FloatLanes t) {
  FloatLanes rows[4];
  for (int k = 0; k < 4; ++k) {
    const auto line = [&](int voxel) {
      return _mm_load_ps(lines + 4 * std::int64_t{places[voxel]});
    };
    __m512 row = _mm512_castps128_ps512(line(k));
    row = _mm512_insertf32x4(row, line(4 + k), 1);
    row = _mm512_insertf32x4(row, line(8 + k), 2);
    rows[k] = _mm512_insertf32x4(row, line(12 + k), 3);
  }
  transpose_quarters(rows);
  return (rows[2] * t + rows[1]) * t + rows[0];
}

inline void pull_nearest(const VoxelBlock<float>& block, const ParzenBins& bins,
                         const HistogramGradient<float>& gradient, float* grad_x, float* grad_y) {
  if (grad_y != nullptr) {
    __builtin_memset(grad_y, 0, static_cast<std::size_t>(block.n) * sizeof(float));
  }
  if (grad_x == nullptr) {
    return;
  }
  alignas(64) std::int32_t places[kBlock];
  alignas(64) FloatLanes within[kBlock / kLanes];
  alignas(64) FloatLanes slopes[kBlock / kLanes];
  __mmask16 ties[kBlock / kLanes];
  const IndexLanes stride = all_lanes(bins.y.cells + 1);
  const NearestAxis nearest(bins.y);
  const float lift = lift_of(bins.x);
  place_block(block, bins,
              [&](int j, const PlacedLanes& x, const PlacedLanes& y, FloatLanes counts)
                  PLASTICINE_INLINE_LAMBDA {
                    unsigned tie;
                    const IndexLanes bin = nearest.find(y.value, &tie);
                    _mm512_store_si512(places + j, as_integers(x.cell * stride + bin));
                    within[j / kLanes] = x.within;
                    slopes[j / kLanes] = x.slope * counts;
                    ties[j / kLanes] = static_cast<__mmask16>(tie);
                  });
  for (int j = 0; j < block.n; j += kLanes) {
    const unsigned live = first_bits(block.n - j < kLanes ? block.n - j : kLanes);
    const FloatLanes t = within[j / kLanes];
    const FloatLanes slope = slopes[j / kLanes];
    FloatLanes by_x = derivative_of(gradient.lines, places + j, t);
    if (__builtin_expect(ties[j / kLanes] != 0, 0)) {
      const FloatLanes next = derivative_of(gradient.lines + 4, places + j, t);
      by_x = _mm512_mask_mul_ps(by_x, ties[j / kLanes], by_x + next, all_lanes(0.5f));
    }
    store_lanes(moved(by_x * lift, slope), live, grad_x + j);
  }
}

PLASTICINE_NAMESPACE_END
#endif  // defined(PLASTICINE_SIMD_AVX512)
