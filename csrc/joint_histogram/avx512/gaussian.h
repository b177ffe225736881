// Gaussian windows of up to half a bin, of float32 images on AVX-512: eight taps of each image. A
// row of eight float32 sums for each bin of x and cell of y stays in the first-level cache.
#pragma once

#include "joint_histogram/avx512/places.h"

#if defined(PLASTICINE_SIMD_AVX512)

PLASTICINE_NAMESPACE_BEGIN

// exp(t * by) for products up to 16, to some units in the last place.
PLASTICINE_INLINE FloatLanes exponential(FloatLanes t, float by) {
  const FloatLanes turns = _mm512_roundscale_ps(t * (by * 1.44269504f), 0);
  // log(2) in two parts, the first of which is exact times any number of turns.
  const FloatLanes part =
      FloatLanes(_mm512_fmsub_ps(t, all_lanes(by), turns * 0.693359375f)) + turns * 2.12194440e-4f;
  FloatLanes series = all_lanes(1.0f / 5040);
  series = series * part + 1.0f / 720;
  series = series * part + 1.0f / 120;
  series = series * part + 1.0f / 24;
  series = series * part + 1.0f / 6;
  series = series * part + 0.5f;
  series = series * part + 1;
  series = series * part + 1;
  return _mm512_scalef_ps(series, turns);
}

constexpr int kGaussianTaps = 8;

// exp(-(t - k)^2 / 2 s^2), over its sum, is a factor of the tap k alone times the k-th power of
// exp(t / s^2).
class GaussianLanes {
 public:
  PLASTICINE_INLINE GaussianLanes(const ParzenBins& bins, const BinAxis& axis)
      : inverse_variance_(static_cast<float>(bins.inverse_variance)), last_(axis.cells - 1) {
    // Of the first cell: a tap that is outside of it is inside of none.
    for (int k = 0; k <= 4; ++k) {
      const double factor = bins.gaussian[3 + k];
      factors_[k] = factor < kLeast ? 0.0f : static_cast<float>(factor);
    }
  }

  PLASTICINE_INLINE void weigh(const PlacedLanes& placed,
                               FloatLanes (&weights)[kGaussianTaps]) const {
    const FloatLanes q = exponential(placed.within, inverse_variance_);
    const FloatLanes inverse = 1 / q;
    const FloatLanes least = all_lanes(kLeast);
    FloatLanes sum = all_lanes(1.0f);
    FloatLanes power = all_lanes(1.0f);
    weights[3] = power;
    for (int k = 1; k <= 4; ++k) {
      power *= q;
      const FloatLanes weight = power * factors_[k];
      const __mmask16 inside =
          _mm512_cmple_epi32_mask(as_integers(placed.cell), _mm512_set1_epi32(last_ + 1 - k));
      weights[3 + k] = _mm512_maskz_mov_ps(inside, weight);
      sum += weights[3 + k];
    }
    power = all_lanes(1.0f);
    for (int k = 1; k <= 3; ++k) {
      power *= inverse;
      const FloatLanes weight = power * factors_[k];
      const __mmask16 inside =
          _mm512_cmpge_epi32_mask(as_integers(placed.cell), _mm512_set1_epi32(k));
      weights[3 - k] = _mm512_maskz_mov_ps(inside, weight);
      sum += weights[3 - k];
    }
    const FloatLanes scale = 1 / sum;
    for (FloatLanes& weight : weights) {
      const FloatLanes scaled = weight * scale;
      // Products of what is smaller would be subnormal, and slow.
      weight = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(scaled, least, _CMP_GE_OQ), scaled);
    }
  }

 private:
  static constexpr float kLeast = 1e-16f;
  float inverse_variance_;
  int last_;
  float factors_[5];  // of the taps at a distance
};

// A row of sums for each pair forward, two values backward.
inline std::int64_t gaussian_lines(const ParzenBins& bins) {
  const std::int64_t rows = bins.x.cells + kGaussianTaps - 1;
  return (rows * rows + 1) / 2;
}

// Stores what the taps of each of 16 voxels have, one voxel after the other, in the order of
// quarters.
PLASTICINE_INLINE void store_taps(FloatLanes (&weights)[kGaussianTaps], float* out) {
  FloatLanes first[4] = {weights[0], weights[1], weights[2], weights[3]};
  FloatLanes second[4] = {weights[4], weights[5], weights[6], weights[7]};
  transpose_quarters(first);
  transpose_quarters(second);
  const __m512i lower = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
  const __m512i upper = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
  for (int k = 0; k < 4; ++k) {
    const __m512d a = _mm512_castps_pd(first[k]);
    const __m512d b = _mm512_castps_pd(second[k]);
    _mm512_store_pd(out + 2 * k * kLanes, _mm512_permutex2var_pd(a, lower, b));
    _mm512_store_pd(out + (2 * k + 1) * kLanes, _mm512_permutex2var_pd(a, upper, b));
  }
}

// Adds the sums of a cell to the table in float64, and sets them to zero.
PLASTICINE_NOINLINE inline void flush_gaussian_cell(const ParzenBins& bins,
                                                    const HistogramTable& table, int x, int y) {
  float* line = table.lines + (std::int64_t{x} * bins.y.cells + y) * kGaussianTaps;
  double* sums = table.sums + x * table.stride + y;
  for (int a = 0; a < kGaussianTaps; ++a) {
    for (int b = 0; b < kGaussianTaps; ++b) {
      sums[b] += static_cast<double>(line[b]);
      line[b] = 0;
    }
    sums += table.stride;
    line += bins.y.cells * kGaussianTaps;
  }
}

inline void flush_gaussian(const ParzenBins& bins, const HistogramTable& table) {
  for (int x = 0; x < bins.x.cells; ++x) {
    for (int y = 0; y < bins.y.cells; ++y) {
      flush_gaussian_cell(bins, table, x, y);
    }
  }
}

// So many float32 numbers are added up before they go to float64: of equal ones, whose rounding
// does not cancel, the sum is then right to 1e-6.
constexpr unsigned kGaussianHits = 32;

inline bool add_gaussian(const VoxelBlock<float>& block, const ParzenBins& bins,
                         const HistogramTable& table) {
  alignas(64) float weights_x[kGaussianTaps * kBlock];
  alignas(64) float weights_y[kGaussianTaps * kBlock];
  alignas(64) std::int32_t cells[kBlock];
  const GaussianLanes window_x(bins, bins.x);
  const GaussianLanes window_y(bins, bins.y);
  const bool nan = place_block(
      block, bins,
      [&](int j, const PlacedLanes& x, const PlacedLanes& y, FloatLanes counts)
          PLASTICINE_INLINE_LAMBDA {
            FloatLanes weights[kGaussianTaps];
            window_x.weigh(x, weights);
            for (FloatLanes& weight : weights) {
              weight *= counts;
            }
            store_taps(weights, weights_x + kGaussianTaps * j);
            window_y.weigh(y, weights);
            store_taps(weights, weights_y + kGaussianTaps * j);
            const IndexLanes cell = in_order_of_quarters(x.cell * bins.y.cells + y.cell);
            _mm512_store_si512(cells + j, as_integers(cell));
          });
  float* const lines = table.lines;
  unsigned char* const hits = table.hits;
  const std::int64_t stride = bins.y.cells * kGaussianTaps;
  far_apart((block.n + kLanes - 1) / kLanes * kLanes, [&](int j) PLASTICINE_INLINE_LAMBDA {
    const std::int64_t cell = cells[j];
    const __m256 of_y = _mm256_load_ps(weights_y + kGaussianTaps * j);
    const float* const share = weights_x + kGaussianTaps * j;
    float* line = lines + cell * kGaussianTaps;
    for (int a = 0; a < kGaussianTaps; ++a, line += stride) {
      const __m256 of_x = _mm256_set1_ps(share[a]);
      _mm256_store_ps(line, _mm256_fmadd_ps(of_x, of_y, _mm256_load_ps(line)));
    }
    if (__builtin_expect(++hits[cell] == kGaussianHits, 0)) {
      hits[cell] = 0;
      const int x = static_cast<int>(cell) / bins.y.cells;
      flush_gaussian_cell(bins, table, x, static_cast<int>(cell) - x * bins.y.cells);
    }
  });
  return nan;
}

// Every value of the gradient twice: next to each other for a weight and its derivative.
inline void spread_gaussian(const ParzenBins& bins, const HistogramGradient<float>& gradient,
                            float* lines) {
  const std::int64_t values = (bins.x.cells + kGaussianTaps - 1) * gradient.stride;
  for (std::int64_t i = 0; i < values; ++i) {
    lines[2 * i] = gradient.values[i];
    lines[2 * i + 1] = gradient.values[i];
  }
}

// Each voxel's weights, and in turn with them their derivatives by the place.
PLASTICINE_INLINE void pair_gaussian(const GaussianLanes& window, const PlacedLanes& placed,
                                     float inverse_variance, int first, __m512 (&pairs)[kLanes]) {
  FloatLanes weights[kGaussianTaps];
  window.weigh(placed, weights);
  FloatLanes mean = {};
  for (int k = 1; k < kGaussianTaps; ++k) {
    mean += weights[k] * static_cast<float>(k);
  }
  for (int k = 0; k < kGaussianTaps; ++k) {
    pairs[2 * k + first] = weights[k];
    pairs[2 * k + 1 - first] = weights[k] * ((static_cast<float>(k) - mean) * inverse_variance);
  }
  transpose(pairs);
}

inline void pull_gaussian(const VoxelBlock<float>& block, const ParzenBins& bins,
                          const HistogramGradient<float>& gradient, float* grad_x, float* grad_y) {
  const GaussianLanes window_x(bins, bins.x);
  const GaussianLanes window_y(bins, bins.y);
  const float inverse_variance = static_cast<float>(bins.inverse_variance);
  const float lift_x = lift_of(bins.x);
  const float lift_y = lift_of(bins.y);
  const std::int64_t stride = 2 * gradient.stride;
  const IndexLanes stride_lanes = all_lanes(static_cast<std::int32_t>(stride));
  alignas(64) float pairs_x[kLanes * kLanes];
  alignas(64) std::int32_t offsets[kLanes];
  place_block(block, bins,
              [&](int j, const PlacedLanes& x, const PlacedLanes& y, FloatLanes counts)
                  PLASTICINE_INLINE_LAMBDA {
                    __m512 pairs[kLanes];
                    pair_gaussian(window_x, x, inverse_variance, 0, pairs);
                    for (int voxel = 0; voxel < kLanes; ++voxel) {
                      _mm512_store_ps(pairs_x + voxel * kLanes, pairs[voxel]);
                    }
                    pair_gaussian(window_y, y, inverse_variance, 1, pairs);
                    _mm512_store_si512(offsets, as_integers(x.cell * stride_lanes + 2 * y.cell));
                    for (int voxel = 0; voxel < kLanes; ++voxel) {
                      const float* const pair = pairs_x + voxel * kLanes;
                      const float* row = gradient.lines + offsets[voxel];
                      // Of every column: the sums over the taps of x with its weights and their
                      // derivatives.
                      __m512 sums = _mm512_setzero_ps();
                      for (int a = 0; a < kGaussianTaps; ++a, row += stride) {
                        double both;
                        __builtin_memcpy(&both, pair + 2 * a, sizeof both);
                        sums = _mm512_fmadd_ps(_mm512_castpd_ps(_mm512_set1_pd(both)),
                                               _mm512_loadu_ps(row), sums);
                      }
                      pairs[voxel] *= sums;
                    }
                    transpose(pairs);
                    FloatLanes by_x = {};
                    FloatLanes by_y = {};
                    for (int k = 0; k < kLanes; k += 2) {
                      by_y += pairs[k];
                      by_x += pairs[k + 1];
                    }
                    const unsigned live = first_bits(block.n - j < kLanes ? block.n - j : kLanes);
                    if (grad_x != nullptr) {
                      store_lanes(moved(by_x * lift_x, x.slope * counts), live, grad_x + j);
                    }
                    if (grad_y != nullptr) {
                      store_lanes(moved(by_y * lift_y, y.slope * counts), live, grad_y + j);
                    }
                  });
}

PLASTICINE_NAMESPACE_END
#endif  // defined(PLASTICINE_SIMD_AVX512)
