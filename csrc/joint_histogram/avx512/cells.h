// Cubic windows of float32 images on AVX-512, a register for the 16 bins of a cell. Forward, a
// voxel is one load, one store and their sum; backward, the cells of 16 voxels are transposed.
#pragma once

#include "core/avx512/lanes.h"
#include "joint_histogram/rows/joint_histogram.h"

#if defined(PLASTICINE_SIMD_AVX512)

PLASTICINE_NAMESPACE_BEGIN

// Where 16 values fall.
struct PlacedLanes {
  IndexLanes cell;
  FloatLanes within;
  FloatLanes slope;
  unsigned nan;  // which are none
};

class AxisLanes {
 public:
  PLASTICINE_INLINE explicit AxisLanes(const BinAxis& axis)
      : least_(all_lanes(static_cast<float>(axis.least))),
        greatest_(all_lanes(static_cast<float>(axis.greatest))),
        scale_(all_lanes(static_cast<float>(axis.scale))),
        last_(all_lanes(axis.cells - 1)) {}

  PLASTICINE_INLINE PlacedLanes place(FloatLanes value) const {
    PlacedLanes placed;
    // Of a NaN and a number the second operand is taken.
    const FloatLanes lower = _mm512_max_ps(least_, value);
    const FloatLanes place = (FloatLanes(_mm512_min_ps(greatest_, lower)) - least_) * scale_;
    placed.nan = nan_bits(place, 0xffffu);
    const FloatLanes found = _mm512_maskz_mov_ps(static_cast<__mmask16>(~placed.nan), place);
    const __m512i cell = _mm512_cvttps_epi32(found);
    placed.cell = as_indices(_mm512_min_epi32(cell, as_integers(last_)));
    placed.within = found - to_float(placed.cell);
    const __mmask16 inside = _mm512_cmp_ps_mask(value, least_, _CMP_GE_OQ) &
                             _mm512_cmp_ps_mask(value, greatest_, _CMP_LE_OQ);
    placed.slope = _mm512_maskz_mov_ps(inside, scale_);
    return placed;
  }

 private:
  FloatLanes least_;
  FloatLanes greatest_;
  FloatLanes scale_;
  IndexLanes last_;
};

// Polynomials of the four weights: every coefficient four times in a row, or all four in turn.
struct CubicLanes {
  FloatLanes coefficient[4];

  PLASTICINE_INLINE explicit CubicLanes(bool in_turn) {
    constexpr float kSixths[4][4] = {{1, 4, 1, 0}, {-3, 0, 3, 0}, {3, -6, 3, 0}, {-1, 3, -3, 1}};
    for (int power = 0; power < 4; ++power) {
      for (int lane = 0; lane < kLanes; ++lane) {
        coefficient[power][lane] = kSixths[power][in_turn ? lane % 4 : lane / 4] / 6;
      }
    }
  }

  PLASTICINE_INLINE FloatLanes at(float t) const {
    const FloatLanes x = _mm512_set1_ps(t);  // from memory, which all_lanes() is not
    return ((coefficient[3] * x + coefficient[2]) * x + coefficient[1]) * x + coefficient[0];
  }
};

// Adds the sums of a cell to the table in float64, and sets them to zero.
PLASTICINE_NOINLINE inline void flush_cell(const ParzenBins& bins, const HistogramTable& table,
                                           std::int64_t cell) {
  constexpr std::int64_t kPhases = HistogramTable::kPhases;
  float* const line = table.lines + cell * kLanes;
  cell %= std::int64_t{bins.x.cells} * bins.y.cells;  // of either copy
  const std::int64_t column = cell % bins.y.cells;
  const std::int64_t phase = column % kPhases;
  double* sums =
      table.sums + phase * table.phase + cell / bins.y.cells * table.stride + (column - phase);
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 4; ++b) {
      sums[b] += static_cast<double>(line[4 * a + b]);
      line[4 * a + b] = 0;
    }
    sums += table.stride;
  }
}

inline void flush_cells(const ParzenBins& bins, const HistogramTable& table) {
  const std::int64_t cells = std::int64_t{2} * bins.x.cells * bins.y.cells;
  for (std::int64_t cell = 0; cell < cells; ++cell) {
    flush_cell(bins, table, cell);
  }
}

// So many float32 numbers are added up before they go to float64: of equal ones, whose rounding
// does not cancel, the sum is then right to 1e-6.
constexpr unsigned kHits = 32;

template <bool masked>
PLASTICINE_INLINE bool add_cells_of(const VoxelBlock<float>& block, const ParzenBins& bins,
                                    const HistogramTable& table) {
  const AxisLanes axis_x(bins.x);
  const AxisLanes axis_y(bins.y);
  alignas(64) float within_x[kBlock];
  alignas(64) float within_y[kBlock];
  alignas(64) std::int32_t cells[kBlock];
  alignas(64) float counts[kBlock];
  const int n = block.n;
  unsigned nan = 0;
  for (int j = 0; j < n; j += kLanes) {
    const unsigned live = first_bits(n - j < kLanes ? n - j : kLanes);
    const PlacedLanes x = axis_x.place(load_lanes(block.x + j, live));
    const PlacedLanes y = axis_y.place(load_lanes(block.y + j, live));
    unsigned of_none = (x.nan | y.nan) & live;
    if constexpr (masked) {
      const FloatLanes count = load_lanes(block.mask + j, live);
      const FloatLanes zero = {};
      of_none &= _mm512_cmp_ps_mask(count, zero, _CMP_NEQ_UQ);
      of_none |= _mm512_cmp_ps_mask(count - count, zero, _CMP_NEQ_UQ);
      store_lanes(count, 0xffffu, counts + j);
    }
    nan |= of_none;
    store_lanes(x.within, 0xffffu, within_x + j);
    store_lanes(y.within, 0xffffu, within_y + j);
    _mm512_store_si512(cells + j, as_integers(x.cell * bins.y.cells + y.cell));
  }
  const CubicLanes rows(false);
  const CubicLanes columns(true);
  float* const lines = table.lines;
  unsigned char* const hits = table.hits;
  const std::int64_t copy = std::int64_t{bins.x.cells} * bins.y.cells;
  for (int j = 0; j < n; ++j) {
    const std::int64_t cell = cells[j] + (j & 1) * copy;
    FloatLanes row = rows.at(within_x[j]);
    if constexpr (masked) {
      row *= FloatLanes(_mm512_set1_ps(counts[j]));
    }
    float* const line = lines + cell * kLanes;
    const FloatLanes sum = row * columns.at(within_y[j]) + FloatLanes(_mm512_load_ps(line));
    _mm512_store_ps(line, sum);
    if (__builtin_expect(++hits[cell] == kHits, 0)) {
      hits[cell] = 0;
      flush_cell(bins, table, cell);
    }
  }
  return nan != 0;
}

inline bool add_cells(const VoxelBlock<float>& block, const ParzenBins& bins,
                      const HistogramTable& table) {
  return block.mask == nullptr ? add_cells_of<false>(block, bins, table)
                               : add_cells_of<true>(block, bins, table);
}

// rows[i][j] to rows[j][i].
PLASTICINE_INLINE void transpose(__m512 (&rows)[kLanes]) {
  __m512 half[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    half[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    half[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  __m512 quarter[kLanes];
  for (int i = 0; i < kLanes; i += 4) {
    for (int k = 0; k < 2; ++k) {
      const __m512d low = _mm512_castps_pd(half[i + k]);
      const __m512d high = _mm512_castps_pd(half[i + 2 + k]);
      quarter[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      quarter[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
  for (int k = 0; k < 4; ++k) {
    const __m512 even[2] = {_mm512_shuffle_f32x4(quarter[k], quarter[4 + k], 0x88),
                            _mm512_shuffle_f32x4(quarter[8 + k], quarter[12 + k], 0x88)};
    const __m512 odd[2] = {_mm512_shuffle_f32x4(quarter[k], quarter[4 + k], 0xdd),
                           _mm512_shuffle_f32x4(quarter[8 + k], quarter[12 + k], 0xdd)};
    rows[k] = _mm512_shuffle_f32x4(even[0], even[1], 0x88);
    rows[4 + k] = _mm512_shuffle_f32x4(odd[0], odd[1], 0x88);
    rows[8 + k] = _mm512_shuffle_f32x4(even[0], even[1], 0xdd);
    rows[12 + k] = _mm512_shuffle_f32x4(odd[0], odd[1], 0xdd);
  }
}

// The weights of 16 values, and their derivatives by the place.
struct WeightLanes {
  FloatLanes weight[4];
  FloatLanes slope[4];

  PLASTICINE_INLINE explicit WeightLanes(FloatLanes t) {
    const FloatLanes s = 1 - t;
    const FloatLanes tt = t * t;
    const FloatLanes ss = s * s;
    weight[0] = ss * s * (1.0f / 6);
    weight[1] = 2.0f / 3 - tt * (1 - 0.5f * t);
    weight[2] = 2.0f / 3 - ss * (1 - 0.5f * s);
    weight[3] = tt * t * (1.0f / 6);
    slope[0] = -0.5f * ss;
    slope[1] = t * (1.5f * t - 2);
    slope[2] = s * (2 - 1.5f * s);
    slope[3] = 0.5f * tt;
  }
};

inline void pull_cells(const VoxelBlock<float>& block, const ParzenBins& bins,
                       const HistogramGradient<float>& gradient, float* grad_x, float* grad_y) {
  const AxisLanes axis_x(bins.x);
  const AxisLanes axis_y(bins.y);
  alignas(64) std::int32_t cells[kBlock];
  alignas(64) FloatLanes within[kBlock / kLanes][2];
  alignas(64) FloatLanes slopes[kBlock / kLanes][2];
  // All at first: from a register cells would have to be taken out one by one.
  for (int j = 0; j < block.n; j += kLanes) {
    const unsigned live = first_bits(block.n - j < kLanes ? block.n - j : kLanes);
    const PlacedLanes x = axis_x.place(load_lanes(block.x + j, live));
    const PlacedLanes y = axis_y.place(load_lanes(block.y + j, live));
    _mm512_store_si512(cells + j, as_integers(x.cell * bins.y.cells + y.cell));
    within[j / kLanes][0] = x.within;
    within[j / kLanes][1] = y.within;
    slopes[j / kLanes][0] = x.slope;
    slopes[j / kLanes][1] = y.slope;
  }
  const float* const table = gradient.lines;
  for (int j = 0; j < block.n; j += kLanes) {
    const unsigned live = first_bits(block.n - j < kLanes ? block.n - j : kLanes);
    __m512 lines[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      lines[lane] = _mm512_load_ps(table + std::int64_t{cells[j + lane]} * kLanes);
    }
    transpose(lines);
    const WeightLanes of_x(within[j / kLanes][0]);
    const WeightLanes of_y(within[j / kLanes][1]);
    FloatLanes by_x = {};
    FloatLanes along[4] = {};
    for (int a = 0; a < 4; ++a) {
      FloatLanes across = {};
      for (int b = 0; b < 4; ++b) {
        const FloatLanes value = lines[4 * a + b];
        across += value * of_y.weight[b];
        along[b] += value * of_x.weight[a];
      }
      by_x += across * of_x.slope[a];
    }
    FloatLanes by_y = {};
    for (int b = 0; b < 4; ++b) {
      by_y += along[b] * of_y.slope[b];
    }
    FloatLanes slope_x = slopes[j / kLanes][0];
    FloatLanes slope_y = slopes[j / kLanes][1];
    if (block.mask != nullptr) {
      const FloatLanes count = load_lanes(block.mask + j, live);
      slope_x *= count;
      slope_y *= count;
    }
    // What is clamped has no gradient, nor what does not count, whatever that would be.
    const FloatLanes zero = {};
    const __mmask16 moves_x = _mm512_cmp_ps_mask(slope_x, zero, _CMP_NEQ_UQ);
    const __mmask16 moves_y = _mm512_cmp_ps_mask(slope_y, zero, _CMP_NEQ_UQ);
    if (grad_x != nullptr) {
      store_lanes(_mm512_maskz_mul_ps(moves_x, by_x, slope_x), live, grad_x + j);
    }
    if (grad_y != nullptr) {
      store_lanes(_mm512_maskz_mul_ps(moves_y, by_y, slope_y), live, grad_y + j);
    }
  }
}

PLASTICINE_NAMESPACE_END
#endif  // defined(PLASTICINE_SIMD_AVX512)
