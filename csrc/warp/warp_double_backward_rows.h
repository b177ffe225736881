// The vectorised inner loops of the warp's double backward, over blocks of consecutive voxels.
#pragma once

#include "warp_rows.h"

namespace plasticine {

// The located block. Offsets are formed from the positions: images of different strides share it.
template <typename T>
struct SlopedCells {
  alignas(64) std::int64_t position[3][kBlock];  // of the cell's first voxel on each axis
  alignas(64) T weight[3][2][kBlock];
  alignas(64) T slope[3][2][kBlock];
};

// Coordinates, directions and gradients are rows of kBlock, one per axis; corner weights are rows
// of kBlock, one per corner. Corners are in the order of warp_math.h.
template <typename T>
struct DoubleBackwardRows {
  void (*locate)(const T* coordinates, const ImageShape& shape, Padding padding, int n,
                 SlopedCells<T>* cells);
  // value[j] += image at cell j; gradient[axis * kBlock + j] += grad[j] * its derivative.
  void (*first_order)(const void* image, const ImageShape& shape, const SlopedCells<T>& cells,
                      int n, const T* grad, T* value, T* gradient);
  // The same of the image's derivative along direction[axis * kBlock + j].
  void (*second_order)(const void* image, const ImageShape& shape, const SlopedCells<T>& cells,
                       int n, const T* grad, const T* direction, T* value, T* gradient);
  // The derivatives of the corners' weights along the direction. False where one is not finite.
  bool (*corner_weights)(const SlopedCells<T>& cells, int ndim, int n, const T* direction,
                         T* weights);
  // image[corner of cell j] += grad[j] * its weight, in the order of j, within the owned range.
  // False, with nothing done, where grad is not finite.
  bool (*scatter)(T* image, const ImageShape& shape, const SlopedCells<T>& cells, int n,
                  const T* grad, const T* weights, const OwnedRange& owned);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T>
                        const DoubleBackwardRows<T>& double_backward_rows(DType image);)

namespace plasticine {

template <typename T>
const DoubleBackwardRows<T>& select_double_backward_rows(DType image) {
  return PLASTICINE_SELECT_SIMD(double_backward_rows<T>)(image);
}

}  // namespace plasticine
