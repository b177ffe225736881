#include "invert/cpu/invert.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/cpu/blocks.h"
#include "core/cpu/parallel.h"
#include "invert/cpu/field.h"

namespace plasticine {

namespace {

// After how many iterations of a block to ask whether the call goes on.
constexpr int kIterationsBetweenQuestions = 128;

template <typename T>
class Inversion {
 public:
  explicit Inversion(const Invert& call)
      : call_(call),
        field_(call.displacement),
        grid_(call.displacement),
        squared_tolerance_(static_cast<T>(call.tolerance) * static_cast<T>(call.tolerance)) {}

  void run() const {
    const std::int64_t samples = call_.displacement.shape[0];
    std::vector<Outcome> outcomes(samples * grid_.tasks);
    for_each_block(samples, grid_, call_.threads, [&](std::int64_t sample, const Block& block) {
      outcomes[grid_.task_of(sample, block)].add(invert(sample, block));
    });
    for (std::int64_t sample = 0; sample < samples; ++sample) {
      Outcome outcome;
      for (std::int64_t task = 0; task < grid_.tasks; ++task) {
        outcome.add(outcomes[sample * grid_.tasks + task]);
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

  Outcome invert(std::int64_t sample, const Block& block) const {
    Working working;
    start(sample, block, &working);
    const Outcome outcome = iterate(field_.components(sample).data, &working);
    const T* result = working.whole ? working.iterates.inverse : working.finished;
    store_rows(result, call_.out, sample, block);
    return outcome;
  }

  // The first iterate: -u(p), or 0 where that is not finite.
  void start(std::int64_t sample, const Block& block, Working* working) const {
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
      for (int j = 0; j < block.count; ++j) {
        inverse[j] = inverse[j] - inverse[j] == T(0) ? -inverse[j] : T(0);
      }
      grid_.for_each_row(block, [&](const std::int64_t* position, int begin, int length) {
        for (int j = 0; j < length; ++j) {
          place[begin + j] = static_cast<T>(position[axis] + (axis == last ? j : 0));
        }
      });
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
  const T squared_tolerance_;
};

}  // namespace

void invert_forward(const Invert& call) {
  with_accumulator(call.displacement.dtype,
                   [&](auto zero) { Inversion<decltype(zero)>(call).run(); });
}

}  // namespace plasticine
