// Compiled once per instruction set; see macros.h. No header of the standard library that defines
// functions may be included here.
#include "invert/rows/invert.h"

#include "core/rows/table.h"
#include "invert/math/invert.h"
#include "warp/rows/gather.h"

namespace plasticine {
namespace PLASTICINE_SIMD {

namespace {

// Values and derivatives of up to kPart voxels.
template <int D, typename T>
struct Samples {
  alignas(64) T value[D][kPart];
  alignas(64) T derivative[D][D][kPart];
};

template <int D, typename T, typename Index>
struct PartCells {
  alignas(64) Index base[kPart];
  alignas(64) T weight[D][2][kPart];
  alignas(64) T derivative[D][2][kPart];
};

template <int D, Padding padding, typename T, typename Index>
void locate_part(const T* coordinates, const ImageShape& shape, int n,
                 PartCells<D, T, Index>* PLASTICINE_RESTRICT cells) {
  for (int j = 0; j < n; ++j) {
    cells->base[j] = 0;
  }
  for (int axis = 0; axis < D; ++axis) {
    const T* PLASTICINE_RESTRICT coordinate = coordinates + axis * kPart;
    const Index size = static_cast<Index>(shape.size[axis]);
    const Index stride = static_cast<Index>(shape.stride[axis]);
    for (int j = 0; j < n; ++j) {
      const AxisCell<T, Index> cell = axis_cell<padding>(coordinate[j], size);
      cells->base[j] += cell.base * stride;
      cells->weight[axis][0][j] = cell.weight_first;
      cells->weight[axis][1][j] = cell.weight_second;
      cells->derivative[axis][0][j] = cell.derivative_first;
      cells->derivative[axis][1][j] = cell.derivative_second;
    }
  }
}

template <int D, typename Stored, typename Index>
void sample_part(const void* const* field, const ImageShape& shape, Padding padding,
                 const accumulator_t<Stored>* coordinates, int n,
                 Samples<D, accumulator_t<Stored>>* PLASTICINE_RESTRICT samples) {
  using T = accumulator_t<Stored>;
  PartCells<D, T, Index> cells;
  with_padding(padding, [&](auto p) { locate_part<D, p.value>(coordinates, shape, n, &cells); });
  const Steps<D> steps(shape);
  Corners<D, T> corners;
  for (int component = 0; component < D; ++component) {
    fill_corners<D>(static_cast<const Stored*>(field[component]), cells.base, steps, n, &corners);
    for (int j = 0; j < n; ++j) {
      T weight[D][2];
      T derivative_weight[D][2];
      for (int axis = 0; axis < D; ++axis) {
        for (int side = 0; side < 2; ++side) {
          weight[axis][side] = cells.weight[axis][side][j];
          derivative_weight[axis][side] = cells.derivative[axis][side][j];
        }
      }
      T corner[corner_count<D>];
      for (int line = 0; line < corner_count<D> / 2; ++line) {
        corner[2 * line] = corners.pair[line][2 * j];
        corner[2 * line + 1] = corners.pair[line][2 * j + 1];
      }
      T derivative[D];
      samples->value[component][j] =
          interpolate_and_differentiate<D>(weight, derivative_weight, corner, derivative);
      for (int axis = 0; axis < D; ++axis) {
        samples->derivative[component][axis][j] = derivative[axis];
      }
    }
  }
}

template <int D, typename T>
PLASTICINE_INLINE void gradient_at(const Samples<D, T>& samples, int j, T (&gradient)[D][D]) {
  for (int component = 0; component < D; ++component) {
    for (int axis = 0; axis < D; ++axis) {
      gradient[component][axis] = samples.derivative[component][axis][j];
    }
  }
}

template <int D, bool moving, typename T>
Remaining step_part(const Samples<D, T>& samples, int start, int n, T squared_tolerance,
                    bool newton, Iterates<T>* iterates) {
  T* PLASTICINE_RESTRICT inverse = iterates->inverse + start;
  T* PLASTICINE_RESTRICT squared_residual = iterates->squared_residual + start;
  T* PLASTICINE_RESTRICT relaxation = iterates->relaxation + start;
  int open = 0;
  int undefined = 0;
  for (int j = 0; j < n; ++j) {
    T residual[D];
    T squared = T(0);
    for (int axis = 0; axis < D; ++axis) {
      residual[axis] = inverse[axis * kBlock + j] + samples.value[axis][j];
      squared += residual[axis] * residual[axis];
    }
    const bool finite = squared - squared == T(0);
    const bool above = squared > squared_tolerance;
    open += above && finite ? 1 : 0;
    undefined += finite ? 0 : 1;
    if constexpr (moving) {
      T gradient[D][D];
      gradient_at<D>(samples, j, gradient);
      T step[D];
      inversion_step<D>(gradient, residual, squared, newton, step);
      const T share = next_relaxation(relaxation[j], squared, squared_residual[j]);
      relaxation[j] = share;
      for (int axis = 0; axis < D; ++axis) {
        const T old = inverse[axis * kBlock + j];
        inverse[axis * kBlock + j] = above && finite ? old + share * step[axis] : old;
      }
    }
    squared_residual[j] = squared;
  }
  return {open, undefined};
}

template <int D, bool moving, typename Stored, typename Index>
Remaining iterate(const void* const* field, const ImageShape& shape, Padding padding, int n,
                  accumulator_t<Stored> squared_tolerance, bool newton,
                  Iterates<accumulator_t<Stored>>* iterates) {
  using T = accumulator_t<Stored>;
  alignas(64) T coordinates[D * kPart];
  Samples<D, T> samples;
  Remaining remaining = {0, 0};
  for (int start = 0; start < n; start += kPart) {
    const int count = n - start < kPart ? n - start : kPart;
    for (int axis = 0; axis < D; ++axis) {
      const T* position = iterates->position + axis * kBlock + start;
      const T* inverse = iterates->inverse + axis * kBlock + start;
      for (int j = 0; j < count; ++j) {
        coordinates[axis * kPart + j] = position[j] + inverse[j];
      }
    }
    sample_part<D, Stored, Index>(field, shape, padding, coordinates, count, &samples);
    const Remaining part =
        step_part<D, moving>(samples, start, count, squared_tolerance, newton, iterates);
    remaining.open += part.open;
    remaining.undefined += part.undefined;
  }
  return remaining;
}

template <typename Stored, typename Index>
Remaining advance(const void* const* field, const ImageShape& shape, Padding padding, int n,
                  accumulator_t<Stored> squared_tolerance, bool newton,
                  Iterates<accumulator_t<Stored>>* iterates) {
  const auto run =
      shape.ndim == 2 ? iterate<2, true, Stored, Index> : iterate<3, true, Stored, Index>;
  return run(field, shape, padding, n, squared_tolerance, newton, iterates);
}

template <typename Stored, typename Index>
Remaining evaluate(const void* const* field, const ImageShape& shape, Padding padding, int n,
                   accumulator_t<Stored> squared_tolerance,
                   Iterates<accumulator_t<Stored>>* iterates) {
  const auto run =
      shape.ndim == 2 ? iterate<2, false, Stored, Index> : iterate<3, false, Stored, Index>;
  return run(field, shape, padding, n, squared_tolerance, false, iterates);
}

template <int D, typename Stored, typename Index>
void solve_adjoint_cells(const void* const* field, const ImageShape& shape, Padding padding,
                         const accumulator_t<Stored>* coordinates, int n,
                         const accumulator_t<Stored>* PLASTICINE_RESTRICT grad,
                         accumulator_t<Stored>* PLASTICINE_RESTRICT out) {
  using T = accumulator_t<Stored>;
  alignas(64) T part[D * kPart];
  Samples<D, T> samples;
  for (int start = 0; start < n; start += kPart) {
    const int count = n - start < kPart ? n - start : kPart;
    for (int axis = 0; axis < D; ++axis) {
      for (int j = 0; j < count; ++j) {
        part[axis * kPart + j] = coordinates[axis * kBlock + start + j];
      }
    }
    sample_part<D, Stored, Index>(field, shape, padding, part, count, &samples);
    for (int j = 0; j < count; ++j) {
      T gradient[D][D];
      gradient_at<D>(samples, j, gradient);
      T right[D];
      for (int axis = 0; axis < D; ++axis) {
        right[axis] = -grad[axis * kBlock + start + j];
      }
      T solution[D];
      solve_moved<D, true>(gradient, right, solution);
      for (int axis = 0; axis < D; ++axis) {
        out[axis * kBlock + start + j] = solution[axis];
      }
    }
  }
}

template <typename Stored, typename Index>
void solve_adjoint(const void* const* field, const ImageShape& shape, Padding padding,
                   const accumulator_t<Stored>* coordinates, int n,
                   const accumulator_t<Stored>* grad, accumulator_t<Stored>* out) {
  const auto run = shape.ndim == 2 ? solve_adjoint_cells<2, Stored, Index>
                                   : solve_adjoint_cells<3, Stored, Index>;
  run(field, shape, padding, coordinates, n, grad, out);
}

struct Tables {
  template <typename Stored, typename Index>
  static constexpr InvertRows<accumulator_t<Stored>> value = {
      advance<Stored, Index>, evaluate<Stored, Index>, solve_adjoint<Stored, Index>};
};

}  // namespace

template <typename T>
const InvertRows<T>& invert_rows(DType field, bool wide) {
  return table_of<Tables, T>(field, wide);
}

template const InvertRows<float>& invert_rows(DType, bool);
template const InvertRows<double>& invert_rows(DType, bool);

}  // namespace PLASTICINE_SIMD
}  // namespace plasticine
