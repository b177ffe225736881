// The affine's gradient: a field's gradient times (p, 1), summed over all voxels.
#pragma once

#include <vector>

#include "warp_blocks.h"

namespace plasticine {

// One matrix of sums per task, so that the result does not depend on the number of threads.
template <typename T>
class AffineSums {
 public:
  AffineSums(const Tensor& out, const Grid& grid, std::int64_t samples)
      : out_(out),
        grid_(grid),
        samples_(samples),
        entries_(grid.ndim * (grid.ndim + 1)),
        sums_(out.data != nullptr ? samples * grid.tasks * entries_ : 0, 0.0) {}

  // gradient: rows of kBlock, one per axis. task counts over all samples.
  void add(std::int64_t task, const Block& block, const T* gradient) {
    if (out_.data == nullptr) {
      return;
    }
    double* sums = &sums_[task * entries_];
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
    for (std::int64_t sample = 0; sample < samples_; ++sample) {
      for (int entry = 0; entry < entries_; ++entry) {
        double sum = 0;
        for (std::int64_t task = 0; task < grid_.tasks; ++task) {
          sum += sums_[(sample * grid_.tasks + task) * entries_ + entry];
        }
        const T value = static_cast<T>(sum);
        select_convert_rows<T>().store[static_cast<int>(out_.dtype)](
            &value, 1, mutable_element(out_, sample * entries_ + entry));
      }
    }
  }

 private:
  const Tensor out_;
  const Grid& grid_;
  const std::int64_t samples_;
  const int entries_;
  std::vector<double> sums_;
};

}  // namespace plasticine
