// Cubic windows of both images, float32, on AVX-512: a register for the 16 bins of a cell. Forward,
// a voxel is one load, one store and their sum; backward, the cells of 16 voxels are transposed.
#pragma once

#include "joint_histogram/avx512/places.h"

#if defined(PLASTICINE_SIMD_AVX512)

PLASTICINE_NAMESPACE_BEGIN

// Two copies of a line for each cell: for even and odd voxels, which do not wait for each other.
inline std::int64_t cubic_lines(const ParzenBins& bins) {
  return std::int64_t{2} * bins.x.cells * bins.y.cells;
}

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
PLASTICINE_NOINLINE inline void flush_cubic_cell(const ParzenBins& bins,
                                                 const HistogramTable& table, std::int64_t cell) {
  float* const line = table.lines + cell * kLanes;
  cell %= std::int64_t{bins.x.cells} * bins.y.cells;  // of either copy
  double* sums = table.sums + cell / bins.y.cells * table.stride + cell % bins.y.cells;
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 4; ++b) {
      sums[b] += static_cast<double>(line[4 * a + b]);
      line[4 * a + b] = 0;
    }
    sums += table.stride;
  }
}

inline void flush_cubic(const ParzenBins& bins, const HistogramTable& table) {
  const std::int64_t cells = std::int64_t{2} * bins.x.cells * bins.y.cells;
  for (std::int64_t cell = 0; cell < cells; ++cell) {
    flush_cubic_cell(bins, table, cell);
  }
}

// So many float32 numbers are added up before they go to float64: of equal ones, whose rounding
// does not cancel, the sum is then right to 1e-6.
constexpr unsigned kCubicHits = 32;

template <bool masked>
PLASTICINE_INLINE bool add_cubic_of(const VoxelBlock<float>& block, const ParzenBins& bins,
                                    const HistogramTable& table) {
  alignas(64) float within_x[kBlock];
  alignas(64) float within_y[kBlock];
  alignas(64) std::int32_t cells[kBlock];
  alignas(64) float counts[kBlock];
  const int n = block.n;
  const bool nan =
      place_block(block, bins,
                  [&](int j, const PlacedLanes& x, const PlacedLanes& y, FloatLanes counted)
                      PLASTICINE_INLINE_LAMBDA {
                        store_lanes(x.within, 0xffffu, within_x + j);
                        store_lanes(y.within, 0xffffu, within_y + j);
                        if constexpr (masked) {
                          store_lanes(counted, 0xffffu, counts + j);
                        }
                        _mm512_store_si512(cells + j, as_integers(x.cell * bins.y.cells + y.cell));
                      });
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
    if (__builtin_expect(++hits[cell] == kCubicHits, 0)) {
      hits[cell] = 0;
      flush_cubic_cell(bins, table, cell);
    }
  }
  return nan;
}

inline bool add_cubic(const VoxelBlock<float>& block, const ParzenBins& bins,
                      const HistogramTable& table) {
  return block.mask == nullptr ? add_cubic_of<false>(block, bins, table)
                               : add_cubic_of<true>(block, bins, table);
}

// The window's four weights are sixths of polynomials: coefficients of what is at the taps.
PLASTICINE_INLINE void cubic_coefficients(const __m128 (&taps)[4], __m128 (&out)[4]) {
  const __m128 sixth = _mm_set1_ps(1.0f / 6);
  const __m128 sides = taps[0] + taps[2];
  out[0] = (sides + 4 * taps[1]) * sixth;
  out[1] = (taps[2] - taps[0]) * 0.5f;
  out[2] = sides * 0.5f - taps[1];
  out[3] = (taps[3] - taps[0]) * sixth + (taps[1] - taps[2]) * 0.5f;
}

// The gradient's 16 values of every cell, as coefficients of powers of the places in it.
inline void spread_cubic(const ParzenBins& bins, const HistogramGradient<float>& gradient,
                         float* lines) {
  for (int x = 0; x < bins.x.cells; ++x) {
    for (int y = 0; y < bins.y.cells; ++y) {
      const float* const corner = gradient.values + x * gradient.stride + y;
      __m128 rows[4];
      for (int a = 0; a < 4; ++a) {
        rows[a] = _mm_loadu_ps(corner + a * gradient.stride);
      }
      __m128 columns[4];
      cubic_coefficients(rows, columns);
      _MM_TRANSPOSE4_PS(columns[0], columns[1], columns[2], columns[3]);
      cubic_coefficients(columns, rows);
      for (int j = 0; j < 4; ++j, lines += 4) {
        _mm_store_ps(lines, rows[j]);
      }
    }
  }
}

inline void pull_cubic(const VoxelBlock<float>& block, const ParzenBins& bins,
                       const HistogramGradient<float>& gradient, float* grad_x, float* grad_y) {
  alignas(64) std::int32_t cells[kBlock];
  alignas(64) FloatLanes within[kBlock / kLanes][2];
  alignas(64) FloatLanes slopes[kBlock / kLanes][2];
  // All at first: from a register cells would have to be taken out one by one.
  place_block(block, bins,
              [&](int j, const PlacedLanes& x, const PlacedLanes& y, FloatLanes counts)
                  PLASTICINE_INLINE_LAMBDA {
                    _mm512_store_si512(cells + j, as_integers(x.cell * bins.y.cells + y.cell));
                    within[j / kLanes][0] = x.within;
                    within[j / kLanes][1] = y.within;
                    slopes[j / kLanes][0] = x.slope * counts;
                    slopes[j / kLanes][1] = y.slope * counts;
                  });
  const float* const table = gradient.lines;
  const float lift_x = lift_of(bins.x);
  const float lift_y = lift_of(bins.y);
  for (int j = 0; j < block.n; j += kLanes) {
    const unsigned live = first_bits(block.n - j < kLanes ? block.n - j : kLanes);
    __m512 lines[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      lines[lane] = _mm512_load_ps(table + std::int64_t{cells[j + lane]} * kLanes);
    }
    transpose(lines);
    const FloatLanes t = within[j / kLanes][0];
    const FloatLanes s = within[j / kLanes][1];
    // Horner's scheme in t for each power of s, and of its derivative; then in s.
    FloatLanes value[4];
    FloatLanes slope[4];
    for (int k = 0; k < 4; ++k) {
      const FloatLanes high = FloatLanes(lines[4 * k + 3]) * t + lines[4 * k + 2];
      const FloatLanes middle = high * t + lines[4 * k + 1];
      value[k] = middle * t + lines[4 * k];
      slope[k] = (lines[4 * k + 3] * t + high) * t + middle;
    }
    if (grad_x != nullptr) {
      const FloatLanes by_x = ((slope[3] * s + slope[2]) * s + slope[1]) * s + slope[0];
      store_lanes(moved(by_x * lift_x, slopes[j / kLanes][0]), live, grad_x + j);
    }
    if (grad_y != nullptr) {
      const FloatLanes by_y = (3 * value[3] * s + 2 * value[2]) * s + value[1];
      store_lanes(moved(by_y * lift_y, slopes[j / kLanes][1]), live, grad_y + j);
    }
  }
}

PLASTICINE_NAMESPACE_END
#endif  // defined(PLASTICINE_SIMD_AVX512)
