#include "core/cpu/parallel.h"
#include "invert/cpu/field.h"
#include "invert/cpu/invert.h"
#include "warp/cpu/warp.h"

namespace plasticine {

namespace {

template <typename T>
class Adjoint {
 public:
  explicit Adjoint(const InvertBackward& call)
      : call_(call), field_(call.displacement), locations_(call.inverse, Tensor(), 1.0) {}

  void run() const {
    const Grid& grid = locations_.grid;
    parallel_for(call_.inverse.shape[0] * grid.tasks, kTaskGrain, call_.threads,
                 [&](std::int64_t task) {
                   const std::int64_t sample = task / grid.tasks;
                   grid.for_each_block(task % grid.tasks, [&](const Block& block) {
                     run_block(sample, field_.components(sample).data, block);
                   });
                 });
  }

 private:
  void run_block(std::int64_t sample, const void* const* field, const Block& block) const {
    alignas(64) T coordinates[3 * kBlock];
    alignas(64) T grad[3 * kBlock];
    alignas(64) T solution[3 * kBlock];
    locations_.load_displacement(sample, block, coordinates);
    locations_.coordinates(sample, block, coordinates, coordinates);
    const int ndim = locations_.grid.ndim;
    for (int axis = 0; axis < ndim; ++axis) {
      load_block(call_.grad_out, locations_.grid, sample, axis, block, grad + axis * kBlock);
    }
    field_.rows.solve_adjoint(field, field_.shape, call_.padding, coordinates, block.count, grad,
                              solution);
    for (int axis = 0; axis < ndim; ++axis) {
      if (select_convert_rows<T>().has_nan(solution + axis * kBlock, block.count)) {
        solve_carefully(field, coordinates, block.count, grad, solution);
        break;
      }
    }
    for (int axis = 0; axis < ndim; ++axis) {
      select_convert_rows<T>().store[static_cast<int>(call_.adjoint.dtype)](
          solution + axis * kBlock, block.count, block_target(call_.adjoint, sample, axis, block));
    }
  }

  void solve_carefully(const void* const* field, const T* coordinates, int n, const T* grad,
                       T* solution) const {
    with_stored<T>(call_.displacement.dtype, [&](auto stored) {
      using Stored = decltype(stored);
      const auto solve = field_.shape.ndim == 2 ? &Adjoint::template solve_voxel<2, Stored>
                                                : &Adjoint::template solve_voxel<3, Stored>;
      for (int j = 0; j < n; ++j) {
        (this->*solve)(field, coordinates, j, grad, solution);
      }
    });
  }

  template <int D, typename Stored>
  void solve_voxel(const void* const* field, const T* coordinates, int j, const T* grad,
                   T* solution) const {
    T value[D];
    T gradient[D][D];
    sample_carefully<D, Stored>(field, field_.shape, call_.padding, coordinates, j, value,
                                gradient);
    T right[D];
    T x[D];
    for (int axis = 0; axis < D; ++axis) {
      right[axis] = -grad[axis * kBlock + j];
    }
    solve_moved<D, true>(gradient, right, x);
    for (int axis = 0; axis < D; ++axis) {
      solution[axis * kBlock + j] = x[axis];
    }
  }

  const InvertBackward& call_;
  const Field<T> field_;
  const Locations<T> locations_;
};

}  // namespace

void invert_backward(const InvertBackward& call) {
  if (call.displacement.dtype == DType::float64) {
    Adjoint<double>(call).run();
  } else {
    Adjoint<float>(call).run();
  }
  WarpBackward scatter;
  scatter.grad_out = call.adjoint;
  scatter.image = call.displacement;  // of which only type and sizes are asked for
  scatter.displacement = call.inverse;
  scatter.grad_image = call.grad_displacement;
  scatter.padding = call.padding;
  scatter.threads = call.threads;
  warp_backward(scatter);
}

}  // namespace plasticine
