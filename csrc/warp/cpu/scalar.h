// The linear warp one voxel at a time, every neighbour tested: the definition that the vectorised
// rows shorten. It serves the blocks where a NaN or an infinity is met.
#pragma once

#include <cstdint>

#include "core/half.h"
#include "warp/math/linear.h"
#include "warp/rows/linear.h"

namespace plasticine {

// Calls work(Stored{}) with the stored type of an image that is computed in T.
template <typename T, typename Work>
void with_stored(DType dtype, const Work& work) {
  if constexpr (sizeof(T) == sizeof(double)) {
    work(double{});
  } else if (dtype == DType::float16) {
    work(Half{});
  } else if (dtype == DType::bfloat16) {
    work(BFloat16{});
  } else {
    work(float{});
  }
}

template <typename T>
AxisSample<T, std::int64_t> sample_padded(Padding padding, T coordinate, std::int64_t size) {
  switch (padding) {
    case Padding::zeros:
      return sample_axis<Padding::zeros>(coordinate, size);
    case Padding::border:
      return sample_axis<Padding::border>(coordinate, size);
    default:
      return sample_axis<Padding::reflection>(coordinate, size);
  }
}

// One located voxel.
template <int D, typename T>
struct CarefulCell {
  AxisSample<T, std::int64_t> axis[D];
  T lower[D];
  T upper[D];

  // coordinates: rows of kBlock, one per axis.
  CarefulCell(const T* coordinates, int j, const ImageShape& shape, Padding padding) {
    for (int a = 0; a < D; ++a) {
      axis[a] = sample_padded(padding, coordinates[a * kBlock + j], shape.size[a]);
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

  template <typename Stored>
  void load_corners(const Stored* image, const ImageShape& shape,
                    T (&corner)[corner_count<D>]) const {
    for (T& value : corner) {
      value = T(0);
    }
    for_each_inside(shape, [&](int c, std::int64_t offset) { corner[c] = load(image[offset]); });
  }
};

// See WarpRows::gather.
template <int D, typename Stored, typename T>
void careful_gather(const void* image, const ImageShape& shape, Padding padding,
                    const T* coordinates, int n, T scale, const T* add, void* out) {
  for (int j = 0; j < n; ++j) {
    const CarefulCell<D, T> cell(coordinates, j, shape, padding);
    T corner[corner_count<D>];
    cell.load_corners(static_cast<const Stored*>(image), shape, corner);
    T value = T(0);
    // As a sum over the neighbours that are inside: an infinity of one is not multiplied by the
    // zero that stands for another.
    cell.for_each_inside(shape, [&](int c, std::int64_t) {
      value += corner[c] * corner_weight<D>(cell.lower, cell.upper, c);
    });
    for (int a = 0; a < D; ++a) {
      value = cell.axis[a].derivative == cell.axis[a].derivative ? value : cell.axis[a].derivative;
    }
    static_cast<Stored*>(out)[j] = store<Stored>(scale * (value + (add ? add[j] : T(0))));
  }
}

// See WarpRows::gradient.
template <int D, typename Stored, typename T>
void careful_gradient(const void* image, const ImageShape& shape, Padding padding,
                      const T* coordinates, int n, const T* grad, T* gradient) {
  for (int j = 0; j < n; ++j) {
    const CarefulCell<D, T> cell(coordinates, j, shape, padding);
    T corner[corner_count<D>];
    cell.load_corners(static_cast<const Stored*>(image), shape, corner);
    T sum[D] = {};
    add_interpolation_gradient<D>(cell.lower, cell.upper, corner, grad[j], sum);
    for (int a = 0; a < D; ++a) {
      gradient[a * kBlock + j] += sum[a] * cell.axis[a].derivative;
    }
  }
}

// See WarpRows::scatter.
template <int D, typename T>
void careful_scatter(T* image, const ImageShape& shape, Padding padding, const T* coordinates,
                     int n, const T* grad, const OwnedRange& owned) {
  const int shift = D - 1 - owned.axis;
  for (int j = 0; j < n; ++j) {
    const CarefulCell<D, T> cell(coordinates, j, shape, padding);
    const auto& owner = cell.axis[owned.axis];
    cell.for_each_inside(shape, [&](int c, std::int64_t offset) {
      const std::int64_t position = (c >> shift) & 1 ? owner.upper : owner.lower;
      if (position >= owned.first && position < owned.last) {
        image[offset] += grad[j] * corner_weight<D>(cell.lower, cell.upper, c);
      }
    });
  }
}

}  // namespace plasticine
