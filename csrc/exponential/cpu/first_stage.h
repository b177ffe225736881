// The first displacement of a flow, one block at a time: what every pass that starts from the
// velocity does with a block, whether the result is stored or used at once.
#pragma once

#include <algorithm>

#include "core/tensor.h"
#include "exponential/cpu/exponential.h"
#include "warp/cpu/blocks.h"
#include "warp/cpu/scalar.h"

namespace plasticine {

// Samples a field of the accumulator type, linearly, where a displacement leads from a block.
template <typename T>
class FieldSampler {
 public:
  FieldSampler(const Tensor& field, Padding padding)
      : field_(field),
        padding_(padding),
        shape_(spatial_shape(field)),
        rows_(select_warp_rows<T>(field.dtype, is_wide(shape_))),
        whole_rows_(rows_.gather_row != nullptr && has_rows(shape_, Grid(field))) {}

  // out = scale * (field at p + locations' scale * displacement + displacement if add); rows of
  // kBlock per axis, out apart from the displacement.
  void sample(std::int64_t sample, const Block& block, const Locations<T>& locations,
              const T* displacement, T scale, bool add, T* out) const {
    if (whole_rows_ && sample_rows(sample, block, locations, displacement, scale, add, out)) {
      return;
    }
    const int n = block.count;
    alignas(64) T coordinates[3 * kBlock];
    CellStorage<T> cells;
    locations.coordinates(sample, block, displacement, coordinates);
    rows_.locate(coordinates, shape_, padding_, n, false, &cells);
    for (int axis = 0; axis < shape_.ndim; ++axis) {
      const void* source = element(field_, sample * field_.strides[0] + axis * field_.strides[1]);
      const T* added = add ? displacement + axis * kBlock : nullptr;
      T* target = out + axis * kBlock;
      if (!rows_.gather(source, shape_, cells, n, scale, added, target)) {
        const auto gather = shape_.ndim == 2 ? careful_gather<2, T, T> : careful_gather<3, T, T>;
        gather(source, shape_, padding_, coordinates, n, scale, added, target);
      }
    }
  }

 private:
  // False where a NaN or an infinity is met.
  bool sample_rows(std::int64_t sample, const Block& block, const Locations<T>& locations,
                   const T* displacement, T scale, bool add, T* out) const {
    const Channels<const void*> source = {element(field_, sample * field_.strides[0]),
                                          field_.strides[1], shape_.ndim};
    bool finite = true;
    locations.for_each_piece(sample, block, displacement, [&](const RowPiece<T>& piece, int start) {
      const Channels<void*> target = {out + start, kBlock, shape_.ndim};
      finite = rows_.gather_row(piece, shape_, padding_, source, scale, add, target) && finite;
    });
    return finite;
  }

  const Tensor field_;
  const Padding padding_;
  const ImageShape shape_;
  const WarpRows<T>& rows_;
  const bool whole_rows_;
};

// Writes a block of a contiguous field from rows of kBlock per axis.
template <typename T>
void store_rows(const T* rows, const Tensor& out, std::int64_t sample, const Block& block) {
  for (std::int64_t axis = 0; axis < out.shape[1]; ++axis) {
    std::copy_n(rows + axis * kBlock, block.count,
                static_cast<T*>(block_target(out, sample, axis, block)));
  }
}

// The stage first_stage(flow) of a block. With Euler's method and any squarings that is u_1, of
// which u_0 = scale * v needs no memory.
template <typename T>
class FirstStage {
 public:
  explicit FirstStage(const Flow& flow)
      : flow_(flow),
        scale_(static_cast<T>(flow.scale)),
        whole_(flow.velocity, Tensor(), flow.scale),
        half_(flow.velocity, Tensor(), 0.5 * flow.scale),
        velocity_(flow.velocity, flow.padding),
        grid(whole_.grid) {}

  void load(std::int64_t sample, const Block& block, T* velocity) const {
    whole_.load_displacement(sample, block, velocity);
  }

  // From the block's velocity; rows of kBlock per axis.
  void compute(std::int64_t sample, const Block& block, const T* velocity, T* out) const {
    switch (flow_.method) {
      case Method::euler:
        return compute_euler(sample, block, velocity, out);
      case Method::midpoint:
        return velocity_.sample(sample, block, half_, velocity, scale_, false, out);
      case Method::rk4:
        return compute_rk4(sample, block, velocity, out);
    }
  }

  // The second and third slope of the classical Runge-Kutta step, of which the velocity is the
  // first; unscaled.
  void compute_slopes(std::int64_t sample, const Block& block, const T* velocity, T* second,
                      T* third) const {
    velocity_.sample(sample, block, half_, velocity, T(1), false, second);
    velocity_.sample(sample, block, half_, second, T(1), false, third);
  }

 private:
  void compute_euler(std::int64_t sample, const Block& block, const T* velocity, T* out) const {
    if (first_stage(flow_) == 0) {
      for (int axis = 0; axis < grid.ndim; ++axis) {
        select_convert_rows<T>().ramp(velocity + axis * kBlock, scale_, T(0), T(0), block.count,
                                      out + axis * kBlock);
      }
      return;
    }
    velocity_.sample(sample, block, whole_, velocity, scale_, true, out);
  }

  void compute_rk4(std::int64_t sample, const Block& block, const T* velocity, T* out) const {
    alignas(64) T second[3 * kBlock];
    alignas(64) T third[3 * kBlock];
    compute_slopes(sample, block, velocity, second, third);
    velocity_.sample(sample, block, whole_, third, T(1), false, out);
    for (int axis = 0; axis < grid.ndim; ++axis) {
      for (int j = axis * kBlock; j < axis * kBlock + block.count; ++j) {
        out[j] = scale_ / T(6) * (velocity[j] + T(2) * (second[j] + third[j]) + out[j]);
      }
    }
  }

  const Flow flow_;
  const T scale_;
  const Locations<T> whole_;
  const Locations<T> half_;
  const FieldSampler<T> velocity_;

 public:
  const Grid& grid;
};

}  // namespace plasticine
