// The gradient to the affine: that to the displacement, summed against the voxels' positions. Sums
// are kept per task, so that they do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cpu/blocks.h"

namespace plasticine {

template <typename T>
class AffineSums {
 public:
  // out: (N, d, d + 1), contiguous; without data nothing is summed.
  AffineSums(const Tensor& out, const Grid& grid)
      : out_(out),
        grid_(grid),
        entries_(grid.ndim * (grid.ndim + 1)),
        sums_(out.data != nullptr ? out.shape[0] * grid.tasks * entries_ : 0, 0.0) {}

  // Adds (gradient of a block) outer (p, 1); gradient: rows of kBlock, one per axis.
  void add(std::int64_t sample, const Block& block, const T* gradient) {
    if (out_.data == nullptr) {
      return;
    }
    double* sums = &sums_[grid_.task_of(sample, block) * entries_];
    const int last = grid_.ndim - 1;
    grid_.for_each_row(block, [&](const std::int64_t* position, int start, int length) {
      for (int axis = 0; axis < grid_.ndim; ++axis) {
        double moment[2] = {0, 0};
        select_convert_rows<T>().moments(gradient + axis * kBlock + start, length, moment);
        double* row = sums + axis * (grid_.ndim + 1);
        for (int column = 0; column < last; ++column) {
          row[column] += moment[0] * static_cast<double>(position[column]);
        }
        row[last] += moment[1] + moment[0] * static_cast<double>(position[last]);
        row[grid_.ndim] += moment[0];
      }
    });
  }

  void store() const {
    if (out_.data == nullptr) {
      return;
    }
    const auto store = select_convert_rows<T>().store[static_cast<int>(out_.dtype)];
    for (std::int64_t sample = 0; sample < out_.shape[0]; ++sample) {
      for (int entry = 0; entry < entries_; ++entry) {
        double sum = 0;
        for (std::int64_t task = 0; task < grid_.tasks; ++task) {
          sum += sums_[(sample * grid_.tasks + task) * entries_ + entry];
        }
        const T value = static_cast<T>(sum);
        store(&value, 1, mutable_element(out_, sample * entries_ + entry));
      }
    }
  }

 private:
  const Tensor out_;
  const Grid grid_;
  const int entries_;
  std::vector<double> sums_;
};

}  // namespace plasticine
