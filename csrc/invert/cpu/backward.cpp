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
    for_each_block(call_.inverse.shape[0], locations_.grid, call_.threads,
                   [&](std::int64_t sample, const Block& block) {
                     run_block(sample, field_.components(sample).data, block);
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
    if (has_nan_row(solution, ndim, block.count)) {
      solve_scalar(field, coordinates, block.count, grad, solution);
    }
    store_rows(solution, call_.adjoint, sample, block);
  }

  void solve_scalar(const void* const* field, const T* coordinates, int n, const T* grad,
                    T* solution) const {
    with_stored<T>(call_.displacement.dtype, field_.shape.ndim, [&](auto stored, auto dimension) {
      for (int j = 0; j < n; ++j) {
        solve_voxel<dimension.value, decltype(stored)>(field, coordinates, j, grad, solution);
      }
    });
  }

  template <int D, typename Stored>
  void solve_voxel(const void* const* field, const T* coordinates, int j, const T* grad,
                   T* solution) const {
    T value[D];
    T gradient[D][D];
    sample_scalar<D, Stored>(field, field_.shape, call_.padding, coordinates, j, value, gradient);
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
  with_accumulator(call.displacement.dtype,
                   [&](auto zero) { Adjoint<decltype(zero)>(call).run(); });
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
