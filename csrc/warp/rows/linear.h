// The vectorised inner loops of the warp, over blocks of consecutive output voxels.
//
// A block is located once (coordinates to cells), then every channel is gathered, differentiated or
// scattered with the same cells.
#pragma once

#include <cstdint>

#include "core/cpu/simd.h"
#include "core/rows/block.h"

namespace plasticine {

// The located block. Index is int32_t where the image spans fewer than 2^31 elements.
template <typename T, typename Index>
struct Cells {
  alignas(64) Index base[kBlock];         // offset of the cell's first voxel
  alignas(64) Index position[3][kBlock];  // its index on each axis
  alignas(64) T weight[3][2][kBlock];
  alignas(64) T derivative[3][2][kBlock];
};

// Storage for either Index, uninitialised.
template <typename T>
struct CellStorage {
  alignas(64) unsigned char bytes[sizeof(Cells<T, std::int64_t>)];
};

constexpr int kScatterChannels = 3;

// The images that WarpRows::backward_row takes: of one channel, and fields in 2D. In 3D the shares
// of three channels fill the first-level cache, and two passes take no longer.
constexpr bool has_one_pass(int ndim, std::int64_t channels) {
  return channels == 1 || (ndim == 2 && channels == 2);
}

// Which halves of a backward pass over a row are done; what met a NaN or an infinity is not.
struct BackwardOutcome {
  bool differentiated;
  bool scattered;
};

// Coordinates are rows of kBlock, one per axis; T is the accumulator type of the image.
template <typename T>
struct WarpRows {
  // Linear mode. Derivatives only where asked for.
  void (*locate)(const T* coordinates, const ImageShape& shape, Padding padding, int n,
                 bool derivatives, CellStorage<T>* cells);
  // out[j] = scale * (image at cell j + add[j]), add may be null. False when some result is NaN:
  // then it must be computed again voxel by voxel (cpu/scalar.h).
  bool (*gather)(const void* image, const ImageShape& shape, const CellStorage<T>& cells, int n,
                 T scale, const T* add, void* out);
  // gradient[axis * kBlock + j] += grad[j] * d(image at cell j) / d(coordinate on axis).
  void (*gradient)(const void* image, const ImageShape& shape, const CellStorage<T>& cells, int n,
                   const T* grad, T* gradient);
  // image[cell j] += grad[j] * weights, in the order of j, within the owned range. False, with
  // nothing done, where grad or a weight is not finite.
  bool (*scatter)(T* image, const ImageShape& shape, const CellStorage<T>& cells, int n,
                  const T* grad, const OwnedRange& owned);
  // Nearest mode: exact as they are.
  void (*locate_nearest)(const T* coordinates, const ImageShape& shape, Padding padding, int n,
                         CellStorage<T>* cells);
  void (*gather_nearest)(const void* image, const CellStorage<T>& cells, int n, void* out);
  void (*scatter_nearest)(T* image, const CellStorage<T>& cells, int n, const T* grad,
                          const OwnedRange& owned);

  // Linear mode in one go, without cells in between. Null where that is not faster; the rows of the
  // image must be contiguous and hold two voxels or more.
  //
  // As gather, of all channels; add is the displacement itself, a channel per axis.
  bool (*gather_row)(const Row<T>& row, const ImageShape& shape, Padding padding,
                     const Channels<const void*>& image, T scale, bool add,
                     const Channels<void*>& out);
  // out[axis][j] = scale * (sum over channels of grad * derivative + grad[axis][j] if add). grad is
  // of the image's type. False when some result is NaN.
  bool (*gradient_row)(const Row<T>& row, const ImageShape& shape, Padding padding,
                       const Channels<const void*>& image, const Channels<const void*>& grad,
                       T scale, bool add, T* const* out);
  // As scatter, of kScatterChannels channels at most, times scale.
  bool (*scatter_row)(const Row<T>& row, const ImageShape& shape, Padding padding,
                      const T* const* grad, T scale, const Channels<T*>& image,
                      const OwnedRange& owned);
  // gradient_row and scatter_row at once where has_one_pass; add only to a channel per axis. The
  // derivative is also multiplied by the row's scale: that of the displacement. grad_image has
  // the image's shape and strides.
  BackwardOutcome (*backward_row)(const Row<T>& row, const ImageShape& shape, Padding padding,
                                  const Channels<const void*>& image, const T* const* grad, T scale,
                                  bool add, T* const* out, const Channels<T*>& grad_image,
                                  const OwnedRange& owned);

  // gather_nearest of all channels likewise.
  void (*nearest_row)(const Row<T>& row, const ImageShape& shape, Padding padding,
                      const Channels<const void*>& image, const Channels<void*>& out);
};

}  // namespace plasticine

PLASTICINE_DECLARE_SIMD(template <typename T> const WarpRows<T>& warp_rows(DType image, bool wide);)

namespace plasticine {

// wide: offsets within the image need 64 bits.
template <typename T>
const WarpRows<T>& select_warp_rows(DType image, bool wide) {
  return wide ? baseline::warp_rows<T>(image, true)
              : PLASTICINE_SELECT_SIMD(warp_rows<T>)(image, false);
}

}  // namespace plasticine
