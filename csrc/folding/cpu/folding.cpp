#include "folding/cpu/folding.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/cpu/parallel.h"
#include "folding/rows/folding.h"
#include "jacobian/cpu/field_rows.h"

namespace plasticine {

namespace {

struct TaskSums {
  FoldingSums jacobian;
  double volume = 0;

  TaskSums() {
    jacobian.minimum = std::numeric_limits<double>::infinity();
    jacobian.maximum = -std::numeric_limits<double>::infinity();
  }
};

template <typename T>
class Folding {
 public:
  Folding(const Tensor& displacement, Scheme scheme, bool interior, const double* spacing)
      : displacement_(displacement), scheme_(scheme), spacing_(spacing), shape_(displacement) {
    for (int axis = 0; axis < 3; ++axis) {
      const bool shorter = interior && shape_.size[axis] > 2;
      first_[axis] = shorter ? 1 : 0;
      last_[axis] = shape_.size[axis] - (shorter ? 1 : 0);
    }
    tasks_ = shape_.size[2] > 0 ? Tile::count(shape_) : 0;
  }

  void run(double* statistics, int threads) const {
    std::vector<TaskSums> sums(static_cast<std::size_t>(shape_.samples * tasks_));
    std::vector<T> shifts(static_cast<std::size_t>(shape_.samples));
    for (std::int64_t sample = 0; tasks_ > 0 && sample < shape_.samples; ++sample) {
      shifts[sample] = log_shift(sample);
    }
    parallel_for(shape_.samples * tasks_, 1, threads, [&](std::int64_t task) {
      const std::int64_t sample = task / tasks_;
      run_task(sample, task % tasks_, shifts[sample], &sums[task]);
    });
    for (std::int64_t sample = 0; sample < shape_.samples; ++sample) {
      finish(sums.data() + sample * tasks_, statistics + 6 * sample);
    }
  }

 private:
  // Logs are summed less that of one voxel, so that their variance does not drown in their mean.
  T log_shift(std::int64_t sample) const {
    FieldRows<T> field(displacement_, scheme_, spacing_);
    std::vector<T> jacobian(static_cast<std::size_t>(shape_.size[2]));
    select_jacobian_rows<T>().determinant(field.at(sample, first_[0], first_[1]), jacobian.data());
    const T shift = static_cast<T>(select_folding_rows<T>().log_jacobian(jacobian[first_[2]]));
    return std::isfinite(shift) ? shift : T(0);
  }

  void run_task(std::int64_t sample, std::int64_t task, T shift, TaskSums* sums) const {
    FieldRows<T> field(displacement_, scheme_, spacing_);
    std::vector<T> jacobian(static_cast<std::size_t>(shape_.size[2]));
    const Tile tile(shape_, sample, task);
    tile.for_each_row([&](std::int64_t plane, std::int64_t row) {
      if (plane >= first_[0] && plane < last_[0] && row >= first_[1] && row < last_[1]) {
        select_jacobian_rows<T>().determinant(field.at(sample, plane, row), jacobian.data());
        for_each_part(first_[2], last_[2], [&](std::int64_t start, int n) {
          select_folding_rows<T>().add_jacobians(jacobian.data() + start, n, shift,
                                                 &sums->jacobian);
        });
      }
      add_cells(sample, plane, row, &field, &sums->volume);
    });
  }

  // The cells between this row and the next, and this plane and the next.
  void add_cells(std::int64_t sample, std::int64_t plane, std::int64_t row, FieldRows<T>* field,
                 double* volume) const {
    const bool volumetric = shape_.ndim == 3;
    if (shape_.size[2] < 2 || row + 1 >= shape_.size[1] ||
        (volumetric && plane + 1 >= shape_.size[0])) {
      return;
    }
    const T* corner[3][4];
    T scale[3];
    for (int i = 0; i < shape_.ndim; ++i) {
      scale[i] = field->scale(i);
      for (int line = 0; line < (volumetric ? 4 : 2); ++line) {
        corner[i][line] = field->row(sample, i, plane + (line >> 1), row + (line & 1));
      }
    }
    for_each_part(0, shape_.size[2] - 1, [&](std::int64_t start, int n) {
      const T* part[3][4];
      for (int i = 0; i < shape_.ndim; ++i) {
        for (int line = 0; line < (volumetric ? 4 : 2); ++line) {
          part[i][line] = corner[i][line] + start;
        }
      }
      select_folding_rows<T>().add_cells(shape_.ndim, part, scale, n, volume);
    });
  }

  void finish(const TaskSums* sums, double* statistics) const {
    TaskSums total;
    for (std::int64_t task = 0; task < tasks_; ++task) {
      total.jacobian.folds += sums[task].jacobian.folds;
      total.jacobian.nan += sums[task].jacobian.nan;
      total.jacobian.minimum = std::min(total.jacobian.minimum, sums[task].jacobian.minimum);
      total.jacobian.maximum = std::max(total.jacobian.maximum, sums[task].jacobian.maximum);
      total.jacobian.log_sum += sums[task].jacobian.log_sum;
      total.jacobian.log_squares += sums[task].jacobian.log_squares;
      total.volume += sums[task].volume;
    }
    double count = 1;
    for (int axis = 0; axis < 3; ++axis) {
      count *= static_cast<double>(last_[axis] - first_[axis]);
    }
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const bool defined = count > 0 && total.jacobian.nan == 0;
    const double mean = total.jacobian.log_sum / count;
    const double variance = total.jacobian.log_squares / count - mean * mean;
    statistics[0] = total.jacobian.folds;
    statistics[1] = count;
    statistics[2] = defined ? total.jacobian.minimum : nan;
    statistics[3] = defined ? total.jacobian.maximum : nan;
    // An infinite Jacobian has an infinite logarithm: the variance is then NaN, and stays it.
    statistics[4] = defined ? std::sqrt(variance < 0 ? 0.0 : variance) : nan;
    statistics[5] = total.volume;
  }

  const Tensor displacement_;
  const Scheme scheme_;
  const double* spacing_;
  const FieldShape shape_;
  std::int64_t first_[3];
  std::int64_t last_[3];
  std::int64_t tasks_;  // tiles per sample; the order of all sums depends on them alone
};

}  // namespace

void folding(const Tensor& displacement, const Tensor& statistics, Scheme scheme, bool interior,
             const std::vector<double>& spacing, int threads) {
  double* out = statistics.as<double>();
  with_accumulator(displacement.dtype, [&](auto zero) {
    Folding<decltype(zero)>(displacement, scheme, interior, spacing.data()).run(out, threads);
  });
}

}  // namespace plasticine
