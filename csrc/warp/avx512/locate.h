// 16 voxels of a row at a time from the displacement to their cells, on AVX-512.
#pragma once

#include "core/avx512/lanes.h"
#include "warp/rows/locate.h"

#if defined(PLASTICINE_SIMD_AVX512)

PLASTICINE_NAMESPACE_BEGIN

template <>
PLASTICINE_INLINE FloatLanes constant<FloatLanes>(double value) {
  return all_lanes(static_cast<float>(value));
}
template <>
PLASTICINE_INLINE FloatLanes at_most<FloatLanes>(FloatLanes x, FloatLanes limit) {
  return _mm512_min_ps(limit, x);
}
template <>
PLASTICINE_INLINE FloatLanes at_least<FloatLanes>(FloatLanes x, FloatLanes limit) {
  return _mm512_max_ps(limit, x);
}
template <>
PLASTICINE_INLINE FloatLanes round_down<FloatLanes>(FloatLanes x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
template <>
PLASTICINE_INLINE IndexLanes index_below<IndexLanes, FloatLanes>(FloatLanes x) {
  // NaN becomes the least integer.
  return as_indices(_mm512_max_epi32(_mm512_cvttps_epi32(x), _mm512_setzero_si512()));
}
template <>
PLASTICINE_INLINE FloatLanes index_value<FloatLanes, IndexLanes>(IndexLanes x) {
  return to_float(x);
}

// 16 located voxels.
template <int D>
struct CellLanes {
  FloatLanes displacement[D];
  FloatLanes first[D];  // the weights
  FloatLanes second[D];
  FloatLanes derivative_first[D];
  FloatLanes derivative_second[D];
  IndexLanes position[D];
  IndexLanes row;  // offset of the row of the cell's first voxel
  bool inner;      // all 16 are within the image, where the derivatives are -1 and 1
};

// How far ahead the displacement is fetched, in voxels: it is read from several places in turn,
// each too briefly for the hardware to run ahead.
constexpr int kAhead = 256;

// Locates the voxels of a row. A copy of what is constant along it, so that no store of a result
// can be taken for a change of it.
template <int D, Padding padding>
class Locator {
 public:
  PLASTICINE_INLINE Locator(const Row<float>& row, const ImageShape& shape)
      : stored_(row.stored), scale_(row.scale) {
    for (int axis = 0; axis < D; ++axis) {
      displacement_[axis] = row.displacement[axis];
      start_[axis] = row.start[axis];
      step_[axis] = row.step[axis];
      size_[axis] = static_cast<std::int32_t>(shape.size[axis]);
      last_[axis] = static_cast<float>(size_[axis] - 1);
      stride_[axis] = static_cast<std::int32_t>(shape.stride[axis]);
    }
  }

  PLASTICINE_INLINE CellLanes<D> locate(int start, unsigned live) const {
    CellLanes<D> cell;
    FloatLanes x[D];
    __mmask16 within = static_cast<__mmask16>(first_bits(kLanes));
    for (int axis = 0; axis < D; ++axis) {
      cell.displacement[axis] = displacement(axis, start, live);
      x[axis] = coordinate(axis, start, cell.displacement[axis]);
      within = _mm512_mask_cmp_ps_mask(within, x[axis], FloatLanes{}, _CMP_GT_OQ);
      within = _mm512_mask_cmp_ps_mask(within, x[axis], all_lanes(last_[axis]), _CMP_LT_OQ);
    }
    cell.row = IndexLanes{};
    cell.inner = within == first_bits(kLanes);
    if (cell.inner) {
      for (int axis = 0; axis < D; ++axis) {
        place(axis, inner_axis_cell<IndexLanes>(x[axis]), &cell);
      }
    } else {
      for (int axis = 0; axis < D; ++axis) {
        place(axis, axis_cell<padding>(x[axis], all_lanes(size_[axis])), &cell);
      }
    }
    return cell;
  }

  PLASTICINE_INLINE FloatLanes coordinate(int axis, int start, unsigned live) const {
    return coordinate(axis, start, displacement(axis, start, live));
  }

  PLASTICINE_INLINE FloatLanes displacement(int axis, int start, unsigned live) const {
    switch (stored_) {
      case DType::float16:
        return fetch<Half>(axis, start, live);
      case DType::bfloat16:
        return fetch<BFloat16>(axis, start, live);
      default:
        return fetch<float>(axis, start, live);
    }
  }

  PLASTICINE_INLINE std::int32_t size(int axis) const { return size_[axis]; }
  PLASTICINE_INLINE std::int32_t stride(int axis) const { return stride_[axis]; }
  PLASTICINE_INLINE int row_size() const { return size_[D - 1]; }

 private:
  PLASTICINE_INLINE FloatLanes coordinate(int axis, int start, FloatLanes displacement) const {
    return start_[axis] + step_[axis] * to_float(lane_numbers() + start) + scale_ * displacement;
  }

  PLASTICINE_INLINE void place(int axis, const AxisCell<FloatLanes, IndexLanes>& sample,
                               CellLanes<D>* cell) const {
    cell->first[axis] = sample.weight_first;
    cell->second[axis] = sample.weight_second;
    cell->derivative_first[axis] = sample.derivative_first;
    cell->derivative_second[axis] = sample.derivative_second;
    cell->position[axis] = sample.base;
    if (axis < D - 1) {
      cell->row += sample.base * stride_[axis];
    }
  }

  template <typename Stored>
  PLASTICINE_INLINE FloatLanes fetch(int axis, int start, unsigned live) const {
    const Stored* values = static_cast<const Stored*>(displacement_[axis]) + start;
    __builtin_prefetch(values + kAhead);
    return load_lanes(values, live);
  }

  const void* displacement_[D];
  DType stored_;
  float scale_;
  float start_[D];
  float step_[D];
  float last_[D];
  std::int32_t size_[D];
  std::int32_t stride_[D];
};

// Calls work(start, live) for every 16 voxels of a row.
template <typename Work>
PLASTICINE_INLINE void for_each_lanes(int n, const Work& work) {
  for (int start = 0; start < n; start += kLanes) {
    work(start, first_bits(n - start < kLanes ? n - start : kLanes));
  }
}

PLASTICINE_NAMESPACE_END
#endif  // defined(PLASTICINE_SIMD_AVX512)
