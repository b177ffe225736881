#include "invert/cpu/invert.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/cpu/blocks.h"
#include "core/cpu/parallel.h"
#include "invert/cpu/field.h"

namespace plasticine {

namespace {

// A task begins without neighbours to start from, so it holds more blocks than a warp's.
constexpr std::int64_t kBlocksPerInversionTask = 64;
// How many rows back a solution still says more about a voxel's than its own displacement does.
constexpr std::int64_t kFarthestRow = 3;
// After how many iterations of a block to ask whether the call goes on.
constexpr int kIterationsBetweenQuestions = 128;

template <typename T>
class Inversion {
 public:
  explicit Inversion(const Invert& call)
      : call_(call),
        field_(call.displacement),
        grid_(call.displacement),
        tasks_(divide_up(grid_.blocks, kBlocksPerInversionTask)),
        squared_tolerance_(static_cast<T>(call.tolerance) * static_cast<T>(call.tolerance)) {}

  void run() const {
    const std::int64_t samples = call_.displacement.shape[0];
    std::vector<Outcome> outcomes(samples * tasks_);
    parallel_for(samples * tasks_, 1, call_.threads, [&](std::int64_t task) {
      outcomes[task] = run_task(task / tasks_, task % tasks_);
    });
    for (std::int64_t sample = 0; sample < samples; ++sample) {
      Outcome outcome;
      for (std::int64_t task = 0; task < tasks_; ++task) {
        outcome.add(outcomes[sample * tasks_ + task]);
      }
      call_.residual.as<T>()[sample] = residual_of(outcome);
      call_.iterations.as<std::int64_t>()[sample] = outcome.iterations;
    }
  }

 private:
  struct Outcome {
    T squared_residual = T(0);
    int iterations = 0;
    bool defined = true;

    void add(const Outcome& other) {
      squared_residual = std::max(squared_residual, other.squared_residual);
      iterations = std::max(iterations, other.iterations);
      defined = defined && other.defined;
    }
  };

  T residual_of(const Outcome& outcome) const {
    if (!outcome.defined) {
      return std::numeric_limits<T>::quiet_NaN();
    }
    const T residual = std::sqrt(outcome.squared_residual);
    // A root that is rounded up must not make a stranger of what has converged.
    const bool converged = outcome.squared_residual <= squared_tolerance_;
    return converged ? std::min(residual, static_cast<T>(call_.tolerance)) : residual;
  }

  // What is iterated of a block: at first all of it, later those voxels that are still open.
  struct Working {
    Iterates<T> iterates;
    int count;
    bool whole;         // nothing has been put aside yet
    int index[kBlock];  // each iterate's place in the block
    alignas(64) T finished[3 * kBlock];
  };

  Outcome run_task(std::int64_t sample, std::int64_t task) const {
    Outcome outcome;
    const typename Field<T>::Components field = field_.components(sample);
    const std::int64_t first = task * kBlocksPerInversionTask;
    const std::int64_t end = std::min(first + kBlocksPerInversionTask, grid_.blocks);
    Working working;
    for (std::int64_t index = first; index < end; ++index) {
      const Block block = grid_.block(index);
      start(sample, block, first * kBlock, &working);
      outcome.add(iterate(field.data, &working));
      const T* result = working.whole ? working.iterates.inverse : working.finished;
      store_rows(result, call_.out, sample, block);
    }
    return outcome;
  }

  // The first iterate: what two voxels before on the last axis but one lead to expect, where this
  // task has solved for them (so that no result depends on the threads), else -u(p).
  void start(std::int64_t sample, const Block& block, std::int64_t task_first,
             Working* working) const {
    Iterates<T>& iterates = working->iterates;
    working->count = block.count;
    working->whole = true;
    for (int j = 0; j < block.count; ++j) {
      working->index[j] = j;
      iterates.squared_residual[j] = std::numeric_limits<T>::infinity();
      iterates.relaxation[j] = T(1);
    }
    const int last = grid_.ndim - 1;
    for (int axis = 0; axis < grid_.ndim; ++axis) {
      T* inverse = iterates.inverse + axis * kBlock;
      T* place = iterates.position + axis * kBlock;
      load_block(call_.displacement, grid_, sample, axis, block, inverse);
      grid_.for_each_row(block, [&](const std::int64_t* position, int begin, int length) {
        for (int j = 0; j < length; ++j) {
          place[begin + j] = static_cast<T>(position[axis] + (axis == last ? j : 0));
        }
        const std::int64_t voxel = block.first + begin;
        const std::int64_t known =
            std::min(position[last - 1], (voxel - task_first) / grid_.size[last]);
        // The nearest row before that is not of this block.
        const std::int64_t back =
            std::max<std::int64_t>(divide_up(begin + length, grid_.size[last]), 1);
        if (back > kFarthestRow || known < back) {
          start_plainly(length, inverse + begin);
        } else {
          start_from_rows(sample, axis, voxel, back, known > back, length, inverse + begin);
        }
      });
    }
  }

  // row holds u on entry.
  static void start_plainly(int n, T* row) {
    for (int j = 0; j < n; ++j) {
      row[j] = row[j] - row[j] == T(0) ? -row[j] : T(0);
    }
  }

  // Continues the rows that lie `back` rows before, and one more where `two`.
  void start_from_rows(std::int64_t sample, int axis, std::int64_t voxel, std::int64_t back,
                       bool two, int n, T* row) const {
    alignas(64) T before[kBlock];
    alignas(64) T earlier[kBlock];
    const Tensor& out = call_.out;
    const auto load = select_convert_rows<T>().load[static_cast<int>(out.dtype)];
    const std::int64_t length = grid_.size[grid_.ndim - 1];
    const std::int64_t origin =
        sample * out.strides[0] + axis * out.strides[1] + voxel - back * length;
    load(element(out, origin), 1, n, before);
    load(element(out, two ? origin - length : origin), 1, n, earlier);
    const T steps = static_cast<T>(back);
    for (int j = 0; j < n; ++j) {
      const T plain = row[j] - row[j] == T(0) ? -row[j] : T(0);
      const T expected = before[j] + steps * (before[j] - earlier[j]);
      row[j] = expected - expected == T(0) ? expected : plain;
    }
  }

  Outcome iterate(const void* const* field, Working* working) const {
    Outcome outcome;
    Iterates<T>* iterates = &working->iterates;
    const InvertRows<T>& rows = field_.rows;
    for (int iteration = 0;; ++iteration) {
      const bool last = iteration == call_.limit;
      const bool newton = is_newton_step(iteration);
      const int n = working->count;
      Remaining remaining =
          last ? rows.evaluate(field, field_.shape, call_.padding, n, squared_tolerance_, iterates)
               : rows.advance(field, field_.shape, call_.padding, n, squared_tolerance_, newton,
                              iterates);
      if (remaining.undefined > 0) {
        remaining.open += advance_scalar(field, last, working);
      }
      outcome.iterations = iteration;
      if (iteration % kIterationsBetweenQuestions == kIterationsBetweenQuestions - 1) {
        leave_if_over();
      }
      if (remaining.open == 0 || last) {
        break;
      }
      // To iterate what has converged costs less than to sort it out, up to a point.
      if (4 * remaining.open <= n) {
        put_aside(false, working, &outcome);
      }
    }
    put_aside(true, working, &outcome);
    return outcome;
  }

  // Moves what has converged, or all, out of the iterates.
  void put_aside(bool all, Working* working, Outcome* outcome) const {
    Iterates<T>& iterates = working->iterates;
    const int ndim = grid_.ndim;
    int kept = 0;
    for (int j = 0; j < working->count; ++j) {
      const T squared = iterates.squared_residual[j];
      if (!all && squared > squared_tolerance_) {
        for (int axis = 0; axis < ndim; ++axis) {
          iterates.position[axis * kBlock + kept] = iterates.position[axis * kBlock + j];
          iterates.inverse[axis * kBlock + kept] = iterates.inverse[axis * kBlock + j];
        }
        iterates.squared_residual[kept] = squared;
        iterates.relaxation[kept] = iterates.relaxation[j];
        working->index[kept] = working->index[j];
        ++kept;
        continue;
      }
      outcome->defined = outcome->defined && squared == squared;
      outcome->squared_residual = std::max(outcome->squared_residual, squared);
      if (!all || !working->whole) {
        for (int axis = 0; axis < ndim; ++axis) {
          working->finished[axis * kBlock + working->index[j]] =
              iterates.inverse[axis * kBlock + j];
        }
      }
    }
    working->count = kept;
    working->whole = working->whole && all;
  }

  // The iterates whose residual is not finite, one by one; returns how many are open. One that has
  // no finite residual becomes NaN, and is done.
  int advance_scalar(const void* const* field, bool last, Working* working) const {
    int open = 0;
    for (int j = 0; j < working->count; ++j) {
      const T squared = working->iterates.squared_residual[j];
      if (!(squared - squared == T(0))) {
        with_stored<T>(call_.displacement.dtype, grid_.ndim, [&](auto stored, auto dimension) {
          open +=
              advance_voxel<dimension.value, decltype(stored)>(field, last, j, &working->iterates);
        });
      }
    }
    return open;
  }

  template <int D, typename Stored>
  int advance_voxel(const void* const* field, bool last, int j, Iterates<T>* iterates) const {
    T coordinates[3 * kBlock];
    for (int axis = 0; axis < D; ++axis) {
      const int entry = axis * kBlock + j;
      coordinates[entry] = iterates->position[entry] + iterates->inverse[entry];
    }
    T residual[D];
    T gradient[D][D];
    sample_scalar<D, Stored>(field, field_.shape, call_.padding, coordinates, j, residual,
                             gradient);
    T squared = T(0);
    for (int axis = 0; axis < D; ++axis) {
      residual[axis] += iterates->inverse[axis * kBlock + j];
      squared += residual[axis] * residual[axis];
    }
    const bool finite = squared - squared == T(0);
    const bool open = finite && squared > squared_tolerance_;
    iterates->squared_residual[j] = finite ? squared : std::numeric_limits<T>::quiet_NaN();
    T step[D];
    inversion_step<D>(gradient, residual, squared, true, step);
    for (int axis = 0; axis < D; ++axis) {
      T& inverse = iterates->inverse[axis * kBlock + j];
      inverse = finite ? inverse + (open && !last ? step[axis] : T(0))
                       : std::numeric_limits<T>::quiet_NaN();
    }
    return open ? 1 : 0;
  }

  const Invert& call_;
  const Field<T> field_;
  const Grid grid_;
  const std::int64_t tasks_;
  const T squared_tolerance_;
};

}  // namespace

void invert_forward(const Invert& call) {
  with_accumulator(call.displacement.dtype,
                   [&](auto zero) { Inversion<decltype(zero)>(call).run(); });
}

}  // namespace plasticine
