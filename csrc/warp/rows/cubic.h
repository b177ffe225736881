// The vectorised inner loops of the cubic warp, over blocks of consecutive output voxels, as
// rows/linear.h has them for the linear one.
#pragma once

#include "warp/rows/linear.h"

namespace plasticine {

// What is known of a located voxel before any memory is read.
enum class CellKind : int {
  inside = 0,   // all taps are voxels of the image
  edge = 1,     // some are not: see tap_index
  nowhere = 2,  // there is no location: a coordinate is NaN
};

// The located block. Index is int32_t where the image spans fewer than 2^31 elements.
template <typename T, typename Index>
struct CubicCells {
  alignas(64) Index base[kBlock];         // offset of the first tap, where the cell is inside
  alignas(64) Index position[3][kBlock];  // index of the first tap on each axis
  alignas(64) Index kind[kBlock];         // a CellKind; as wide as the index for the loops' sake
  alignas(64) T weight[3][4][kBlock];
  alignas(64) T derivative[3][4][kBlock];
};

// Storage for either Index, uninitialised.
template <typename T>
struct CubicCellStorage {
  alignas(64) unsigned char bytes[sizeof(CubicCells<T, std::int64_t>)];
};

// Coordinates are rows of kBlock, one per axis; T is the accumulator type of the image.
template <typename T>
struct WarpCubicRows {
  // Derivatives only where asked for.
  //
  // fold: a cell at the edge becomes one of four voxels inside, to whose weights those of the taps
  // beyond are added (or, with zero padding, dropped). It may then hold voxels with weight zero
  // that are no taps: a weight of zero does not silence a NaN or an infinity, so where one is met
  // the block must be located again without. On axes of fewer than four voxels nothing is folded.
  void (*locate)(const T* coordinates, const ImageShape& shape, Mode mode, Padding padding,
                 bool fold, int n, bool derivatives, CubicCellStorage<T>* cells);
  // out[j] = image at cell j, in the image's type. False when some result is NaN.
  bool (*gather)(const void* image, const ImageShape& shape, Padding padding,
                 const CubicCellStorage<T>& cells, int n, void* out);
  // gradient[axis * kBlock + j] += grad[j] * d(image at cell j) / d(coordinate on axis).
  void (*gradient)(const void* image, const ImageShape& shape, Padding padding,
                   const CubicCellStorage<T>& cells, int n, const T* grad, T* gradient);
  // image[cell j] += grad[j] * weights, in the order of j, within the owned range.
  void (*scatter)(T* image, const ImageShape& shape, Padding padding,
                  const CubicCellStorage<T>& cells, int n, const T* grad, const OwnedRange& owned);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T>
                        const WarpCubicRows<T>& warp_cubic_rows(DType image, bool wide);)

namespace plasticine {

// wide: offsets within the image need 64 bits.
template <typename T>
const WarpCubicRows<T>& select_warp_cubic_rows(DType image, bool wide) {
  return wide ? baseline::warp_cubic_rows<T>(image, true)
              : PLASTICINE_SELECT_SIMD(warp_cubic_rows<T>)(image, false);
}

}  // namespace plasticine
