// The first displacement of a flow, one block at a time: what every pass that starts from the
// velocity does with a block, whether the result is stored or used at once.
#pragma once

#include "core/cpu/block_sampler.h"
#include "core/tensor.h"
#include "exponential/cpu/exponential.h"

namespace plasticine {

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
        velocity_(flow.velocity, Mode::linear, flow.padding, whole_.grid),
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
        return sample_velocity(sample, block, half_, velocity, scale_, false, out);
      case Method::rk4:
        return compute_rk4(sample, block, velocity, out);
    }
  }

  // The second and third stage of the classical Runge-Kutta step, of which the velocity is the
  // first; unscaled.
  void compute_stages(std::int64_t sample, const Block& block, const T* velocity, T* second,
                      T* third) const {
    sample_velocity(sample, block, half_, velocity, T(1), false, second);
    sample_velocity(sample, block, half_, second, T(1), false, third);
  }

 private:
  // out = scale * (velocity there + displacement if add); rows of kBlock per axis.
  void sample_velocity(std::int64_t sample, const Block& block, const Locations<T>& locations,
                       const T* displacement, T scale, bool add, T* out) const {
    velocity_.sample(sample, block, locations, displacement, scale, add, {out, kBlock, grid.ndim});
  }

  void compute_euler(std::int64_t sample, const Block& block, const T* velocity, T* out) const {
    if (first_stage(flow_) == 0) {
      for (int axis = 0; axis < grid.ndim; ++axis) {
        select_convert_rows<T>().ramp(velocity + axis * kBlock, scale_, T(0), T(0), block.count,
                                      out + axis * kBlock);
      }
      return;
    }
    sample_velocity(sample, block, whole_, velocity, scale_, true, out);
  }

  void compute_rk4(std::int64_t sample, const Block& block, const T* velocity, T* out) const {
    alignas(64) T second[3 * kBlock];
    alignas(64) T third[3 * kBlock];
    compute_stages(sample, block, velocity, second, third);
    sample_velocity(sample, block, whole_, third, T(1), false, out);
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
  const BlockSampler<T> velocity_;

 public:
  const Grid& grid;
};

}  // namespace plasticine
