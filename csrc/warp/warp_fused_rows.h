// The linear warp of rows, its gradient and its scatter on AVX-512, from the displacement to the
// result without leaving the registers. Part of warp_rows.cpp, which is compiled once per
// instruction set.
#pragma once

#include "warp_scatter_rows.h"
#include "warp_windows.h"

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
  FloatLanes first[D];  // the weights
  FloatLanes second[D];
  FloatLanes slope_first[D];
  FloatLanes slope_second[D];
  IndexLanes position[D];
  IndexLanes row;  // offset of the row of the cell's first voxel
};

// How far ahead the displacement is fetched, in voxels: it is read from several places in turn,
// each too briefly for the hardware to run ahead.
constexpr int kAhead = 256;

// Locates the voxels of a piece. A copy of what is constant along it, so that no store of a result
// can be taken for a change of it.
template <int D, Padding padding>
class Locator {
 public:
  PLASTICINE_INLINE Locator(const RowPiece<float>& piece, const ImageShape& shape)
      : stored_(piece.stored), scale_(piece.scale) {
    for (int axis = 0; axis < D; ++axis) {
      displacement_[axis] = piece.displacement[axis];
      start_[axis] = piece.start[axis];
      step_[axis] = piece.step[axis];
      size_[axis] = static_cast<std::int32_t>(shape.size[axis]);
      stride_[axis] = static_cast<std::int32_t>(shape.stride[axis]);
    }
  }

  PLASTICINE_INLINE CellLanes<D> locate(int start, unsigned live) const {
    CellLanes<D> cell;
    cell.row = IndexLanes{};
    for (int axis = 0; axis < D; ++axis) {
      const auto sample = axis_cell<padding>(coordinate(axis, start, live), all_lanes(size_[axis]));
      cell.first[axis] = sample.weight_first;
      cell.second[axis] = sample.weight_second;
      cell.slope_first[axis] = sample.slope_first;
      cell.slope_second[axis] = sample.slope_second;
      cell.position[axis] = sample.base;
      if (axis < D - 1) {
        cell.row += sample.base * stride_[axis];
      }
    }
    return cell;
  }

  PLASTICINE_INLINE FloatLanes coordinate(int axis, int start, unsigned live) const {
    return start_[axis] + step_[axis] * to_float(lane_numbers() + start) +
           scale_ * displacement(axis, start, live);
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
  std::int32_t size_[D];
  std::int32_t stride_[D];
};

// The distance of each line of a cell from its first.
template <int D>
struct LineOffsets {
  std::int64_t line[1 << (D - 1)];
  explicit LineOffsets(const ImageShape& shape) {
    const Steps<D> steps(shape);
    for (int i = 0; i < 1 << (D - 1); ++i) {
      line[i] = steps.line(i);
    }
  }
};

// Calls work(start, live) for every 16 voxels of a piece.
template <typename Work>
PLASTICINE_INLINE void for_each_lanes(int n, const Work& work) {
  for (int start = 0; start < n; start += kLanes) {
    work(start, first_bits(n - start < kLanes ? n - start : kLanes));
  }
}

template <int D, Padding padding, typename Stored>
bool gather_row_of(const RowPiece<float>& piece, const ImageShape& shape,
                   const Channels<const void*>& image, float scale, bool add,
                   const Channels<void*>& out) {
  const Locator<D, padding> locator(piece, shape);
  const LineOffsets<D> offsets(shape);
  unsigned nan = 0;
  for_each_lanes(piece.n, [&](int start, unsigned live) PLASTICINE_INLINE_LAMBDA {
    const CellLanes<D> cell = locator.locate(start, live);
    for_each_corners<D, Stored>(
        image, offsets.line, cell.row, cell.position[D - 1], locator.row_size(), live,
        [&](std::int64_t channel, const FloatLanes(&corner)[1 << D]) PLASTICINE_INLINE_LAMBDA {
          FloatLanes value = interpolate<D>(cell.first, cell.second, corner);
          if (add) {
            value += locator.displacement(static_cast<int>(channel), start, live);
          }
          value *= scale;
          nan |= nan_bits(value, live);
          store_lanes(value, live, static_cast<Stored*>(out.data) + channel * out.stride + start);
        });
  });
  return nan == 0;
}

// Adds the derivative of one channel's values at 16 cells, times value, to sum: but for
// finish_gradient.
template <Padding padding, int D>
PLASTICINE_INLINE void add_gradient(const CellLanes<D>& cell, const FloatLanes (&corner)[1 << D],
                                    FloatLanes value, FloatLanes (&sum)[D]) {
  if constexpr (padding != Padding::zeros) {
    // The weights of an axis have opposite slopes: differences take fewer operations.
    add_interpolation_gradient<D>(cell.first, cell.second, corner, value, sum);
    return;
  }
  for (int axis = 0; axis < D; ++axis) {
    // The derivative of a multilinear function: the axis' weights become their slopes.
    FloatLanes first[D];
    FloatLanes second[D];
    for (int other = 0; other < D; ++other) {
      first[other] = other == axis ? cell.slope_first[other] : cell.first[other];
      second[other] = other == axis ? cell.slope_second[other] : cell.second[other];
    }
    sum[axis] += value * interpolate<D>(first, second, corner);
  }
}

// What the channels have in common.
template <Padding padding, int D>
PLASTICINE_INLINE void finish_gradient(const CellLanes<D>& cell, FloatLanes (&sum)[D]) {
  if constexpr (padding != Padding::zeros) {
    for (int axis = 0; axis < D; ++axis) {
      sum[axis] *= cell.slope_second[axis];
    }
  }
}

template <int D, Padding padding, typename Stored>
bool gradient_row_of(const RowPiece<float>& piece, const ImageShape& shape,
                     const Channels<const void*>& image, const Channels<const void*>& grad,
                     float scale, bool add, float* const* out) {
  const Locator<D, padding> locator(piece, shape);
  const LineOffsets<D> offsets(shape);
  unsigned nan = 0;
  for_each_lanes(piece.n, [&](int start, unsigned live) PLASTICINE_INLINE_LAMBDA {
    const CellLanes<D> cell = locator.locate(start, live);
    const Stored* weight = static_cast<const Stored*>(grad.data) + start;
    FloatLanes sum[D] = {};
    for_each_corners<D, Stored>(
        image, offsets.line, cell.row, cell.position[D - 1], locator.row_size(), live,
        [&](std::int64_t channel, const FloatLanes(&corner)[1 << D]) PLASTICINE_INLINE_LAMBDA {
          add_gradient<padding>(cell, corner, load_lanes(weight + channel * grad.stride, live),
                                sum);
        });
    finish_gradient<padding>(cell, sum);
    for (int axis = 0; axis < D; ++axis) {
      if (add) {
        sum[axis] += load_lanes(weight + axis * grad.stride, live);
      }
      const FloatLanes value = scale * sum[axis];
      nan |= nan_bits(value, live);
      store_lanes(value, live, out[axis] + start);
    }
  });
  return nan == 0;
}

// What a row adds to the image, 16 cells after the other.
template <int D, int channels>
class ShareRow {
 public:
  static constexpr int kLines = 1 << (D - 1);

  PLASTICINE_INLINE ShareRow(int cells, const OwnedRange& owned) : owned_(owned) {
    runs_.cells = cells;
  }

  // value: the gradient of each channel.
  PLASTICINE_INLINE void put(const CellLanes<D>& cell, const FloatLanes (&value)[channels],
                             int start, unsigned live) {
    const IndexLanes bases = cell.row + cell.position[D - 1];
    const IndexLanes positions = cell.position[D == 3 && owned_.axis == 1 ? 1 : 0];
    const IndexLanes on_row = positions - shifted_up(positions, position_before_);
    const IndexLanes step = bases - shifted_up(bases, base_before_);
    base_before_ = bases;
    position_before_ = positions;
    const __mmask16 follows = _mm512_mask_cmpeq_epi32_mask(
        _mm512_cmpeq_epi32_mask(as_integers(step), as_integers(all_lanes(1))), as_integers(on_row),
        _mm512_setzero_si512());
    _mm512_store_si512(base_ + start, as_integers(bases));
    _mm512_store_si512(position_ + start, as_integers(positions));
    FloatLanes zero = (cell.first[0] + cell.first[1] + cell.first[D - 1]) * 0.0f;
    for (int channel = 0; channel < channels; ++channel) {
      zero += value[channel] * 0.0f;
      for (int line = 0; line < kLines; ++line) {
        const bool up = (D == 3 ? line >> 1 : line) != 0;
        FloatLanes weight = value[channel] * (up ? cell.second[0] : cell.first[0]);
        if constexpr (D == 3) {
          weight *= (line & 1) != 0 ? cell.second[1] : cell.first[1];
        }
        const FloatLanes first = weight * cell.first[D - 1];
        const FloatLanes second = weight * cell.second[D - 1];
        const FloatLanes shared = shifted_up(second, before_[channel][line]);
        before_[channel][line] = second;
        _mm512_store_ps(shares_[channel].first[line] + start,
                        _mm512_mask_add_ps(first, follows, first, shared));
        _mm512_store_ps(shares_[channel].second[line] + start, second);
      }
    }
    bad_ |= nan_bits(zero, live);
    const std::uint64_t begins = ~static_cast<unsigned>(follows) & live & (start == 0 ? ~1u : ~0u);
    runs_.begins[start / 64] |= begins << start % 64;
  }

  // False, with nothing done, where a gradient or a weight is not finite.
  PLASTICINE_INLINE bool add_to(const ImageShape& shape, const Channels<float*>& image) const {
    if (bad_ != 0) {
      return false;
    }
    const Steps<D> steps(shape);
    const RunCells<std::int32_t> cells = {base_, position_};
    for (int channel = 0; channel < channels; ++channel) {
      add_runs<D>(image.data + channel * image.stride, steps, cells, runs_, shares_[channel],
                  owned_);
    }
    return true;
  }

 private:
  const OwnedRange& owned_;
  Shares<D, float> shares_[channels];
  alignas(64) std::int32_t base_[kBlock];
  alignas(64) std::int32_t position_[kBlock];
  FloatLanes before_[channels][kLines] = {};
  IndexLanes base_before_ = all_lanes(-2);
  IndexLanes position_before_ = {};
  Runs runs_;
  unsigned bad_ = 0;
};

template <int D, Padding padding, int channels>
bool scatter_row_of(const RowPiece<float>& piece, const ImageShape& shape, const float* const* grad,
                    float scale, const Channels<float*>& image, const OwnedRange& owned) {
  const Locator<D, padding> locator(piece, shape);
  ShareRow<D, channels> shares(piece.n, owned);
  for_each_lanes(piece.n, [&](int start, unsigned live) PLASTICINE_INLINE_LAMBDA {
    FloatLanes value[channels];
    for (int channel = 0; channel < channels; ++channel) {
      value[channel] = scale * load_lanes(grad[channel] + start, live);
    }
    shares.put(locator.locate(start, live), value, start, live);
  });
  return shares.add_to(shape, image);
}

template <int D, Padding padding, typename Stored>
BackwardOutcome backward_row_of(const RowPiece<float>& piece, const ImageShape& shape,
                                const void* image, const float* grad, float* const* out,
                                float* grad_image, const OwnedRange& owned) {
  const Locator<D, padding> locator(piece, shape);
  const LineOffsets<D> offsets(shape);
  const Channels<const void*> source = {image, 0, 1};
  ShareRow<D, 1> shares(piece.n, owned);
  unsigned nan = 0;
  for_each_lanes(piece.n, [&](int start, unsigned live) PLASTICINE_INLINE_LAMBDA {
    const CellLanes<D> cell = locator.locate(start, live);
    const FloatLanes value[1] = {load_lanes(grad + start, live)};
    FloatLanes sum[D] = {};
    for_each_corners<D, Stored>(
        source, offsets.line, cell.row, cell.position[D - 1], locator.row_size(), live,
        [&](std::int64_t, const FloatLanes(&corner)[1 << D])
            PLASTICINE_INLINE_LAMBDA { add_gradient<padding>(cell, corner, value[0], sum); });
    finish_gradient<padding>(cell, sum);
    for (int axis = 0; axis < D; ++axis) {
      nan |= nan_bits(sum[axis], live);
      store_lanes(sum[axis], live, out[axis] + start);
    }
    shares.put(cell, value, start, live);
  });
  return {nan == 0, shares.add_to(shape, Channels<float*>{grad_image, 0, 1})};
}

// Calls work(integral constant D, integral constant padding).
template <typename Work>
PLASTICINE_INLINE auto with_cells(int ndim, Padding padding, const Work& work) {
  const auto with_padding = [&](auto dimension) {
    switch (padding) {
      case Padding::zeros:
        return work(dimension, Constant<Padding, Padding::zeros>{});
      case Padding::border:
        return work(dimension, Constant<Padding, Padding::border>{});
      default:
        return work(dimension, Constant<Padding, Padding::reflection>{});
    }
  };
  return ndim == 2 ? with_padding(Constant<int, 2>{}) : with_padding(Constant<int, 3>{});
}

template <typename Stored>
bool gather_row(const RowPiece<float>& piece, const ImageShape& shape, Padding padding,
                const Channels<const void*>& image, float scale, bool add,
                const Channels<void*>& out) {
  return with_cells(shape.ndim, padding, [&](auto d, auto p) {
    return gather_row_of<d.value, p.value, Stored>(piece, shape, image, scale, add, out);
  });
}

template <typename Stored>
bool gradient_row(const RowPiece<float>& piece, const ImageShape& shape, Padding padding,
                  const Channels<const void*>& image, const Channels<const void*>& grad,
                  float scale, bool add, float* const* out) {
  return with_cells(shape.ndim, padding, [&](auto d, auto p) {
    return gradient_row_of<d.value, p.value, Stored>(piece, shape, image, grad, scale, add, out);
  });
}

inline bool scatter_row(const RowPiece<float>& piece, const ImageShape& shape, Padding padding,
                        const float* const* grad, float scale, const Channels<float*>& image,
                        const OwnedRange& owned) {
  static_assert(kScatterChannels == 3, "one, two or three channels");
  return with_cells(shape.ndim, padding, [&](auto d, auto p) {
    switch (image.count) {
      case 1:
        return scatter_row_of<d.value, p.value, 1>(piece, shape, grad, scale, image, owned);
      case 2:
        return scatter_row_of<d.value, p.value, 2>(piece, shape, grad, scale, image, owned);
      default:
        return scatter_row_of<d.value, p.value, 3>(piece, shape, grad, scale, image, owned);
    }
  });
}

template <typename Stored>
BackwardOutcome backward_row(const RowPiece<float>& piece, const ImageShape& shape, Padding padding,
                             const void* image, const float* grad, float* const* out,
                             float* grad_image, const OwnedRange& owned) {
  return with_cells(shape.ndim, padding, [&](auto d, auto p) {
    return backward_row_of<d.value, p.value, Stored>(piece, shape, image, grad, out, grad_image,
                                                     owned);
  });
}

PLASTICINE_NAMESPACE_END
#endif  // defined(PLASTICINE_SIMD_AVX512)
