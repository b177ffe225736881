// The linear warp one voxel at a time, every neighbour tested: the definition that the vectorised
// rows shorten. It serves the blocks where a NaN or an infinity is met, which the rows multiply by
// a weight of zero and which is left out here.
#pragma once

#include <cstdint>

#include "core/half.h"
#include "core/rows/block.h"
#include "core/rows/dispatch.h"
#include "warp/math/linear.h"

namespace plasticine {

// Calls work(Stored{}, dimension) with the stored type of an image that is computed in T.
template <typename T, typename Work>
void with_stored(DType dtype, int ndim, const Work& work) {
  const auto with_axes = [&](auto stored) {
    with_dimension(ndim, [&](auto dimension) { work(stored, dimension); });
  };
  if constexpr (sizeof(T) == sizeof(double)) {
    with_axes(double{});
  } else if (dtype == DType::float16) {
    with_axes(Half{});
  } else if (dtype == DType::bfloat16) {
    with_axes(BFloat16{});
  } else {
    with_axes(float{});
  }
}

// One located voxel.
template <int D, typename T>
struct ScalarCell {
  AxisSample<T, std::int64_t> axis[D];
  T lower[D];
  T upper[D];

  // coordinates: rows of kBlock, one per axis.
  ScalarCell(const T* coordinates, int j, const ImageShape& shape, Padding padding) {
    for (int a = 0; a < D; ++a) {
      with_padding(padding, [&](auto p) {
        axis[a] = sample_axis<p.value>(coordinates[a * kBlock + j], shape.size[a]);
      });
      lower[a] = axis[a].weight_lower;
      upper[a] = axis[a].weight_upper;
    }
  }

  // Calls visit(corner, offset) for each corner inside the image.
  template <typename Visit>
  void for_each_inside(const ImageShape& shape, const Visit& visit) const {
    for (int c = 0; c < corner_count<D>; ++c) {
      std::int64_t offset = 0;
      bool inside = true;
      for (int a = 0; a < D; ++a) {
        const bool up = (c >> (D - 1 - a)) & 1;
        offset += (up ? axis[a].upper : axis[a].lower) * shape.stride[a];
        inside = inside && (up ? axis[a].upper_inside : axis[a].lower_inside);
      }
      if (inside) {
        visit(c, offset);
      }
    }
  }

  // The value there; corner receives those of the corners. As a sum over the neighbours that are
  // inside: an infinity of one is not multiplied by the zero that stands for another.
  template <typename Stored>
  T interpolate(const Stored* image, const ImageShape& shape, T (&corner)[corner_count<D>]) const {
    T value = T(0);
    for (T& of_corner : corner) {
      of_corner = T(0);
    }
    for_each_inside(shape, [&](int c, std::int64_t offset) {
      corner[c] = load(image[offset]);
      value += corner[c] * corner_weight<D>(lower, upper, c);
    });
    return value;
  }

  // The derivatives with respect to the location, from the corners.
  void differentiate(const T (&corner)[corner_count<D>], T factor, T (&gradient)[D]) const {
    for (int a = 0; a < D; ++a) {
      gradient[a] = T(0);
    }
    add_interpolation_gradient<D>(lower, upper, corner, factor, gradient);
    for (int a = 0; a < D; ++a) {
      gradient[a] *= axis[a].derivative;
    }
  }
};

// See WarpRows::gather.
template <typename T>
void gather_scalar(const void* image, DType dtype, const ImageShape& shape, Padding padding,
                   const T* coordinates, int n, T scale, const T* add, void* out) {
  with_stored<T>(dtype, shape.ndim, [&](auto stored, auto dimension) {
    using Stored = decltype(stored);
    for (int j = 0; j < n; ++j) {
      const ScalarCell<dimension.value, T> cell(coordinates, j, shape, padding);
      T corner[corner_count<dimension.value>];
      T value = cell.interpolate(static_cast<const Stored*>(image), shape, corner);
      for (const auto& axis : cell.axis) {
        value = axis.derivative == axis.derivative ? value : axis.derivative;
      }
      static_cast<Stored*>(out)[j] = store<Stored>(scale * (value + (add ? add[j] : T(0))));
    }
  });
}

// See WarpRows::gradient.
template <typename T>
void differentiate_scalar(const void* image, DType dtype, const ImageShape& shape, Padding padding,
                          const T* coordinates, int n, const T* grad, T* gradient) {
  with_stored<T>(dtype, shape.ndim, [&](auto stored, auto dimension) {
    for (int j = 0; j < n; ++j) {
      const ScalarCell<dimension.value, T> cell(coordinates, j, shape, padding);
      T corner[corner_count<dimension.value>];
      T sum[dimension.value];
      cell.interpolate(static_cast<const decltype(stored)*>(image), shape, corner);
      cell.differentiate(corner, grad[j], sum);
      for (int a = 0; a < dimension.value; ++a) {
        gradient[a * kBlock + j] += sum[a];
      }
    }
  });
}

// See WarpRows::scatter.
template <typename T>
void scatter_scalar(T* image, const ImageShape& shape, Padding padding, const T* coordinates, int n,
                    const T* grad, const OwnedRange& owned) {
  constexpr DType computed = sizeof(T) == sizeof(double) ? DType::float64 : DType::float32;
  with_stored<T>(computed, shape.ndim, [&](auto, auto dimension) {
    const int shift = dimension.value - 1 - owned.axis;
    for (int j = 0; j < n; ++j) {
      const ScalarCell<dimension.value, T> cell(coordinates, j, shape, padding);
      const auto& owner = cell.axis[owned.axis];
      cell.for_each_inside(shape, [&](int c, std::int64_t offset) {
        const std::int64_t position = (c >> shift) & 1 ? owner.upper : owner.lower;
        if (position >= owned.first && position < owned.last) {
          image[offset] += grad[j] * corner_weight<dimension.value>(cell.lower, cell.upper, c);
        }
      });
    }
  });
}

}  // namespace plasticine
