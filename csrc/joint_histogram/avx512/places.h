// Where 16 float32 values fall, and the cubic windows of them, on AVX-512.
#pragma once

#include "core/avx512/lanes.h"
#include "joint_histogram/rows/joint_histogram.h"

#if defined(PLASTICINE_SIMD_AVX512)

PLASTICINE_NAMESPACE_BEGIN

// Where 16 values fall.
struct PlacedLanes {
  FloatLanes value;
  IndexLanes cell;
  FloatLanes within;
  FloatLanes slope;  // to be multiplied by what lift_of() the axis is
  unsigned nan;      // which are none
};

// A power of two that brings a range, and so its scale, to where float32 holds both.
inline float lift_of(const BinAxis& axis) {
  const double span = axis.greatest - axis.least;
  // A range that is empty may be of large values.
  return span > 0x1p+120 ? 0x1p-8f : span < 0x1p-100 && span != 0 ? 0x1p+100f : 1.0f;
}

class AxisLanes {
 public:
  PLASTICINE_INLINE explicit AxisLanes(const BinAxis& axis)
      : least_(all_lanes(static_cast<float>(axis.least))),
        greatest_(all_lanes(static_cast<float>(axis.greatest))),
        lift_(all_lanes(lift_of(axis))),
        last_(all_lanes(axis.cells - 1)) {
    const double scale = axis.scale / static_cast<double>(lift_of(axis));
    scale_ = all_lanes(static_cast<float>(scale));
    rest_ = all_lanes(static_cast<float>(scale - static_cast<double>(static_cast<float>(scale))));
  }

  PLASTICINE_INLINE PlacedLanes place(FloatLanes value) const {
    PlacedLanes placed;
    placed.value = value;
    // Of a NaN and a number the second operand is taken.
    const FloatLanes lower = _mm512_max_ps(least_, value);
    const FloatLanes beyond = _mm512_min_ps(greatest_, lower);
    const FloatLanes lifted = beyond * lift_ - least_ * lift_;
    const FloatLanes place = lifted * scale_;
    placed.nan = nan_bits(place, 0xffffu);
    // A NaN, or a value on an axis whose range is none, is taken for the least: its cell is read.
    const auto numbers = static_cast<__mmask16>(~placed.nan);
    const __m512i cell = _mm512_maskz_cvttps_epi32(numbers, place);
    placed.cell = as_indices(_mm512_min_epi32(cell, as_integers(last_)));
    // Not of the place, which is rounded as its cell is large.
    const FloatLanes within = _mm512_fmsub_ps(lifted, scale_, to_float(placed.cell));
    placed.within = _mm512_maskz_fmadd_ps(numbers, lifted, rest_, within);
    const __mmask16 inside = _mm512_cmp_ps_mask(value, least_, _CMP_GE_OQ) &
                             _mm512_cmp_ps_mask(value, greatest_, _CMP_LE_OQ);
    placed.slope = _mm512_maskz_mov_ps(inside, scale_);
    return placed;
  }

 private:
  FloatLanes least_;
  FloatLanes greatest_;
  FloatLanes lift_;
  FloatLanes scale_;  // of what is lifted
  FloatLanes rest_;   // of the scale, which float32 does not hold
  IndexLanes last_;
};

// Calls visit(j, x, y, counts) for every 16 voxels of a block, from voxel j on; those beyond its
// end count 0. Returns whether one that counts is NaN, or what it counts not finite.
template <typename Visit>
PLASTICINE_INLINE bool place_block(const VoxelBlock<float>& block, const ParzenBins& bins,
                                   const Visit& visit) {
  const AxisLanes axis_x(bins.x);
  const AxisLanes axis_y(bins.y);
  const FloatLanes zero = {};
  unsigned nan = 0;
  for (int j = 0; j < block.n; j += kLanes) {
    const unsigned live = first_bits(block.n - j < kLanes ? block.n - j : kLanes);
    const PlacedLanes x = axis_x.place(load_lanes(block.x + j, live));
    const PlacedLanes y = axis_y.place(load_lanes(block.y + j, live));
    const FloatLanes counts =
        block.mask != nullptr
            ? load_lanes(block.mask + j, live)
            : FloatLanes(_mm512_maskz_mov_ps(static_cast<__mmask16>(live), all_lanes(1.0f)));
    nan |= (x.nan | y.nan) & _mm512_cmp_ps_mask(counts, zero, _CMP_NEQ_UQ);
    nan |= _mm512_cmp_ps_mask(counts - counts, zero, _CMP_NEQ_UQ);
    visit(j, x, y, counts);
  }
  return nan != 0;
}

// The gradients of 16 voxels of derivatives by the place. What is clamped has none, nor what does
// not count, whatever that would be.
PLASTICINE_INLINE FloatLanes moved(FloatLanes derivative, FloatLanes slope) {
  const __mmask16 moves = _mm512_cmp_ps_mask(slope, FloatLanes{}, _CMP_NEQ_UQ);
  return _mm512_maskz_mul_ps(moves, derivative, slope);
}

// The cubic weights of 16 values.
PLASTICINE_INLINE void cubic_weights(FloatLanes t, FloatLanes (&weights)[4]) {
  const FloatLanes s = 1 - t;
  const FloatLanes tt = t * t;
  const FloatLanes ss = s * s;
  weights[0] = ss * s * (1.0f / 6);
  weights[1] = 2.0f / 3 - tt * (1 - 0.5f * t);
  weights[2] = 2.0f / 3 - ss * (1 - 0.5f * s);
  weights[3] = tt * t * (1.0f / 6);
}

// Within each quarter of the registers: rows[i][j] to rows[j][i]. Of four numbers of each of 16
// voxels, those of voxel 4 q + i are then quarter q of rows[i].
PLASTICINE_INLINE void transpose_quarters(FloatLanes (&rows)[4]) {
  const __m512d low[2] = {_mm512_castps_pd(_mm512_unpacklo_ps(rows[0], rows[1])),
                          _mm512_castps_pd(_mm512_unpacklo_ps(rows[2], rows[3]))};
  const __m512d high[2] = {_mm512_castps_pd(_mm512_unpackhi_ps(rows[0], rows[1])),
                           _mm512_castps_pd(_mm512_unpackhi_ps(rows[2], rows[3]))};
  rows[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1]));
  rows[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1]));
  rows[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1]));
  rows[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1]));
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

// Numbers of 16 voxels, in the order in which the transposed quarters are stored.
PLASTICINE_INLINE IndexLanes in_order_of_quarters(IndexLanes x) {
  const IndexLanes order = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  return as_indices(_mm512_permutexvar_epi32(as_integers(order), as_integers(x)));
}

// Calls add(j) for every j below n, a multiple of 4, in steps that are far apart: neighbours share
// cells, and what is added to one memory waits for what was added before.
template <typename Add>
PLASTICINE_INLINE void far_apart(int n, const Add& add) {
  const int part = n / 4;
  for (int j = 0; j < part; ++j) {
    add(j);
    add(part + j);
    add(2 * part + j);
    add(3 * part + j);
  }
}

PLASTICINE_NAMESPACE_END
#endif  // defined(PLASTICINE_SIMD_AVX512)
