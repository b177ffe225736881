// A displacement as the inversion and its adjoint read it, in rows and, where a row meets what is
// not finite, voxel by voxel.
#pragma once

#include "core/cpu/blocks.h"
#include "invert/math/invert.h"
#include "invert/rows/invert.h"
#include "warp/cpu/scalar.h"

namespace plasticine {

template <typename T>
struct Field {
  explicit Field(const Tensor& displacement)
      : tensor(displacement),
        shape(spatial_shape(displacement)),
        rows(select_invert_rows<T>(displacement.dtype, is_wide(shape))) {}

  // The components of one sample.
  struct Components {
    const void* data[3];
  };
  Components components(std::int64_t sample) const {
    Components components = {};
    for (int axis = 0; axis < shape.ndim; ++axis) {
      components.data[axis] =
          element(tensor, sample * tensor.strides[0] + axis * tensor.strides[1]);
    }
    return components;
  }

  const Tensor tensor;
  const ImageShape shape;
  const InvertRows<T>& rows;
};

// The field and its gradient at one voxel's coordinates, where the vectorised rows met what is not
// finite.
template <int D, typename Stored, typename T>
void sample_scalar(const void* const* field, const ImageShape& shape, Padding padding,
                   const T* coordinates, int j, T (&value)[D], T (&gradient)[D][D]) {
  const ScalarCell<D, T> cell(coordinates, j, shape, padding);
  for (int component = 0; component < D; ++component) {
    T corner[corner_count<D>];
    value[component] =
        cell.interpolate(static_cast<const Stored*>(field[component]), shape, corner);
    cell.differentiate(corner, T(1), gradient[component]);
  }
}

}  // namespace plasticine
