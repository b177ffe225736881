// The linear warp of rows, its gradient and its scatter on AVX-512, from the displacement to the
// result without leaving the registers.
#pragma once

#include "warp/avx512/locate.h"
#include "warp/avx512/windows.h"
#include "warp/rows/scatter.h"

#if defined(PLASTICINE_SIMD_AVX512)

PLASTICINE_NAMESPACE_BEGIN

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

// add: of as many channels as there are axes.
template <int D, Padding padding, typename Stored, bool add>
bool gather_row_of(const Row<float>& row, const ImageShape& shape,
                   const Channels<const void*>& image, float scale, const Channels<void*>& out) {
  const Locator<D, padding> locator(row, shape);
  const LineOffsets<D> offsets(shape);
  const Channels<const void*> source = {image.data, image.stride, add ? D : image.count};
  Stored* const target = static_cast<Stored*>(out.data);
  const std::int64_t target_stride = out.stride;
  unsigned nan = 0;
  for_each_lanes(row.n, [&](int start, unsigned live) PLASTICINE_INLINE_LAMBDA {
    const CellLanes<D> cell = locator.locate(start, live);
    for_each_corners<D, Stored>(
        source, offsets.line, cell.row, cell.position[D - 1], locator.row_size(), live,
        [&](std::int64_t channel, const FloatLanes(&corner)[1 << D]) PLASTICINE_INLINE_LAMBDA {
          FloatLanes value = interpolate<D>(cell.first, cell.second, corner);
          if constexpr (add) {
            value += cell.displacement[channel];
          }
          value *= scale;
          nan |= nan_bits(value, live);
          store_lanes(value, live, target + channel * target_stride + start);
        });
  });
  return nan == 0;
}

// Adds the derivative of one channel's values at 16 cells, times value, to sum: but for
// finish_gradient.
template <Padding padding, int D>
PLASTICINE_INLINE void add_gradient(const CellLanes<D>& cell, const FloatLanes (&corner)[1 << D],
                                    FloatLanes value, FloatLanes (&sum)[D]) {
  if (padding != Padding::zeros || cell.inner) {
    // The weights of an axis have opposite derivatives: differences take fewer operations.
    add_interpolation_gradient<D>(cell.first, cell.second, corner, value, sum);
    return;
  }
  for (int axis = 0; axis < D; ++axis) {
    // The derivative of a multilinear function: the axis' weights become their derivatives.
    FloatLanes first[D];
    FloatLanes second[D];
    for (int other = 0; other < D; ++other) {
      first[other] = other == axis ? cell.derivative_first[other] : cell.first[other];
      second[other] = other == axis ? cell.derivative_second[other] : cell.second[other];
    }
    sum[axis] += value * interpolate<D>(first, second, corner);
  }
}

// What the channels have in common.
template <Padding padding, int D>
PLASTICINE_INLINE void finish_gradient(const CellLanes<D>& cell, FloatLanes (&sum)[D]) {
  if (padding != Padding::zeros && !cell.inner) {
    for (int axis = 0; axis < D; ++axis) {
      sum[axis] *= cell.derivative_second[axis];
    }
  }
}

template <int D, Padding padding, typename Stored>
bool gradient_row_of(const Row<float>& row, const ImageShape& shape,
                     const Channels<const void*>& image, const Channels<const void*>& grad,
                     float scale, bool add, float* const* out) {
  const Locator<D, padding> locator(row, shape);
  const LineOffsets<D> offsets(shape);
  unsigned nan = 0;
  for_each_lanes(row.n, [&](int start, unsigned live) PLASTICINE_INLINE_LAMBDA {
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
bool scatter_row_of(const Row<float>& row, const ImageShape& shape, const float* const* grad,
                    float scale, const Channels<float*>& image, const OwnedRange& owned) {
  const Locator<D, padding> locator(row, shape);
  ShareRow<D, channels> shares(row.n, owned);
  for_each_lanes(row.n, [&](int start, unsigned live) PLASTICINE_INLINE_LAMBDA {
    FloatLanes value[channels];
    for (int channel = 0; channel < channels; ++channel) {
      value[channel] = scale * load_lanes(grad[channel] + start, live);
    }
    shares.put(locator.locate(start, live), value, start, live);
  });
  return shares.add_to(shape, image);
}

template <int D, Padding padding, typename Stored, int channels>
BackwardOutcome backward_row_of(const Row<float>& row, const ImageShape& shape,
                                const Channels<const void*>& image, const float* const* grad,
                                float scale, bool add, float* const* out,
                                const Channels<float*>& grad_image, const OwnedRange& owned) {
  const Locator<D, padding> locator(row, shape);
  const LineOffsets<D> offsets(shape);
  const Channels<const void*> source = {image.data, image.stride, channels};
  const float inner_scale = row.scale;
  ShareRow<D, channels> shares(row.n, owned);
  unsigned nan = 0;
  for_each_lanes(row.n, [&](int start, unsigned live) PLASTICINE_INLINE_LAMBDA {
    const CellLanes<D> cell = locator.locate(start, live);
    FloatLanes sum[D] = {};
    for_each_corners<D, Stored>(
        source, offsets.line, cell.row, cell.position[D - 1], locator.row_size(), live,
        [&](std::int64_t channel, const FloatLanes(&corner)[1 << D]) PLASTICINE_INLINE_LAMBDA {
          add_gradient<padding>(cell, corner, load_lanes(grad[channel] + start, live), sum);
        });
    finish_gradient<padding>(cell, sum);
    FloatLanes value[channels];
    for (int channel = 0; channel < channels; ++channel) {
      value[channel] = load_lanes(grad[channel] + start, live);
    }
    for (int axis = 0; axis < D; ++axis) {
      sum[axis] *= inner_scale;
      if constexpr (channels == D) {
        if (add) {
          sum[axis] += value[axis];
        }
      }
      sum[axis] *= scale;
      nan |= nan_bits(sum[axis], live);
      store_lanes(sum[axis], live, out[axis] + start);
    }
    for (int channel = 0; channel < channels; ++channel) {
      value[channel] *= scale;
    }
    shares.put(cell, value, start, live);
  });
  return {nan == 0, shares.add_to(shape, grad_image)};
}

// Calls work(integral constant D, integral constant padding).
template <typename Work>
PLASTICINE_INLINE auto with_cells(int ndim, Padding padding, const Work& work) {
  return with_dimension(
      ndim, [&](auto d) { return with_padding(padding, [&](auto p) { return work(d, p); }); });
}

template <typename Stored>
bool gather_row(const Row<float>& row, const ImageShape& shape, Padding padding,
                const Channels<const void*>& image, float scale, bool add,
                const Channels<void*>& out) {
  return with_cells(shape.ndim, padding, [&](auto d, auto p) {
    const auto run = add ? gather_row_of<d.value, p.value, Stored, true>
                         : gather_row_of<d.value, p.value, Stored, false>;
    return run(row, shape, image, scale, out);
  });
}

template <typename Stored>
bool gradient_row(const Row<float>& row, const ImageShape& shape, Padding padding,
                  const Channels<const void*>& image, const Channels<const void*>& grad,
                  float scale, bool add, float* const* out) {
  return with_cells(shape.ndim, padding, [&](auto d, auto p) {
    return gradient_row_of<d.value, p.value, Stored>(row, shape, image, grad, scale, add, out);
  });
}

inline bool scatter_row(const Row<float>& row, const ImageShape& shape, Padding padding,
                        const float* const* grad, float scale, const Channels<float*>& image,
                        const OwnedRange& owned) {
  static_assert(kScatterChannels == 3, "one, two or three channels");
  return with_cells(shape.ndim, padding, [&](auto d, auto p) {
    switch (image.count) {
      case 1:
        return scatter_row_of<d.value, p.value, 1>(row, shape, grad, scale, image, owned);
      case 2:
        return scatter_row_of<d.value, p.value, 2>(row, shape, grad, scale, image, owned);
      default:
        return scatter_row_of<d.value, p.value, 3>(row, shape, grad, scale, image, owned);
    }
  });
}

template <typename Stored>
BackwardOutcome backward_row(const Row<float>& row, const ImageShape& shape, Padding padding,
                             const Channels<const void*>& image, const float* const* grad,
                             float scale, bool add, float* const* out,
                             const Channels<float*>& grad_image, const OwnedRange& owned) {
  return with_cells(shape.ndim, padding, [&](auto d, auto p) {
    if constexpr (has_one_pass(d.value, 2)) {
      if (image.count == 2) {
        return backward_row_of<d.value, p.value, Stored, 2>(row, shape, image, grad, scale, add,
                                                            out, grad_image, owned);
      }
    }
    return backward_row_of<d.value, p.value, Stored, 1>(row, shape, image, grad, scale, add, out,
                                                        grad_image, owned);
  });
}

PLASTICINE_NAMESPACE_END
#endif  // defined(PLASTICINE_SIMD_AVX512)
