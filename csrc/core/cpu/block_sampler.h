// Sampling an image where displacements lead from a block: by the rows of the instruction set, by
// cells where the image has no whole rows or a NaN or an infinity is met, and there voxel by voxel.
#pragma once

#include <cstdint>

#include "core/cpu/blocks.h"
#include "warp/cpu/scalar.h"
#include "warp/rows/linear.h"

namespace plasticine {

// Where a block of all channels of a contiguous tensor is written.
inline Channels<void*> channels_at(const Tensor& tensor, std::int64_t sample, const Block& block) {
  return {block_target(tensor, sample, 0, block), tensor.strides[1], tensor.shape[1]};
}

// T is the accumulator type of the image; mode is linear or nearest.
template <typename T>
class BlockSampler {
 public:
  BlockSampler(const Tensor& image, Mode mode, Padding padding, const Grid& grid)
      : image_(image),
        linear_(mode == Mode::linear),
        padding_(padding),
        shape_(spatial_shape(image)),
        rows_(select_warp_rows<T>(image.dtype, is_wide(shape_))),
        whole_rows_((linear_ ? rows_.gather_row != nullptr : rows_.nearest_row != nullptr) &&
                    has_rows(shape_, grid)) {}

  // out = scale * (image there + displacement if add), of all channels, in the image's type; scale
  // and add in linear mode only. displacement: rows of kBlock per axis, or null, and it is read
  // from memory.
  void sample(std::int64_t sample, const Block& block, const Locations<T>& locations,
              const T* displacement, T scale, bool add, const Channels<void*>& out) const {
    if (whole_rows_ && sample_rows(sample, block, locations, displacement, scale, add, out)) {
      return;
    }
    const int n = block.count;
    alignas(64) T loaded[3 * kBlock];
    alignas(64) T coordinates[3 * kBlock];
    CellStorage<T> cells;
    if (displacement == nullptr) {
      locations.load_displacement(sample, block, loaded);
      displacement = loaded;
    }
    locations.coordinates(sample, block, displacement, coordinates);
    if (linear_) {
      rows_.locate(coordinates, shape_, padding_, n, false, &cells);
    } else {
      rows_.locate_nearest(coordinates, shape_, padding_, n, &cells);
    }
    for (std::int64_t channel = 0; channel < out.count; ++channel) {
      const void* source =
          element(image_, sample * image_.strides[0] + channel * image_.strides[1]);
      void* target =
          static_cast<char*>(out.data) + channel * out.stride * element_size(image_.dtype);
      const T* added = add ? displacement + channel * kBlock : nullptr;
      if (!linear_) {
        rows_.gather_nearest(source, cells, n, target);
      } else if (!rows_.gather(source, shape_, cells, n, scale, added, target)) {
        gather_scalar(source, image_.dtype, shape_, padding_, coordinates, n, scale, added, target);
      }
    }
  }

 private:
  // False where a NaN or an infinity is met.
  bool sample_rows(std::int64_t sample, const Block& block, const Locations<T>& locations,
                   const T* displacement, T scale, bool add, const Channels<void*>& out) const {
    const Channels<const void*> source = {element(image_, sample * image_.strides[0]),
                                          image_.strides[1], out.count};
    bool finite = true;
    locations.for_each_row(sample, block, displacement, [&](const Row<T>& row, int start) {
      const Channels<void*> target = {
          static_cast<char*>(out.data) + start * element_size(image_.dtype), out.stride, out.count};
      if (linear_) {
        finite = rows_.gather_row(row, shape_, padding_, source, scale, add, target) && finite;
      } else {
        rows_.nearest_row(row, shape_, padding_, source, target);
      }
    });
    return finite;
  }

  const Tensor image_;
  const bool linear_;
  const Padding padding_;
  const ImageShape shape_;
  const WarpRows<T>& rows_;
  const bool whole_rows_;
};

}  // namespace plasticine
