// A grid of voxels in blocks, and the locations of a block that an affine and a displacement give.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/cpu/parallel.h"
#include "core/rows/block.h"
#include "core/rows/convert.h"
#include "core/tensor.h"

namespace plasticine {

// One task of the thread pool: a fixed number of blocks, so that sums per task do not depend on the
// number of threads.
constexpr std::int64_t kBlocksPerTask = 8;
constexpr int kTaskGrain = 4;

inline ImageShape spatial_shape(const Tensor& tensor) {
  ImageShape shape = {tensor.ndim - 2, {1, 1, 1}, {0, 0, 0}};
  for (int axis = 0; axis < shape.ndim; ++axis) {
    shape.size[axis] = tensor.shape[axis + 2];
    shape.stride[axis] = tensor.strides[axis + 2];
  }
  return shape;
}

// Whether offsets within one channel need 64 bits. Cells sum one offset per axis, and indices are
// one or two beyond the size before they are bounded.
inline bool is_wide(const ImageShape& shape) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 31;
  std::int64_t span = 1;
  bool wide = false;
  for (int axis = 0; axis < shape.ndim; ++axis) {
    const std::int64_t stride = shape.stride[axis] < 0 ? -shape.stride[axis] : shape.stride[axis];
    span += shape.size[axis] * stride;
    wide = wide || shape.size[axis] >= kLimit - 4;
  }
  return wide || span >= kLimit;
}

// Consecutive voxels of one sample of the output.
struct Block {
  std::int64_t index;
  std::int64_t first;        // its first voxel, counted in memory order
  std::int64_t position[3];  // and that voxel's index on each axis
  int count;
};

// The output grid, cut into blocks.
struct Grid {
  int ndim;
  std::int64_t size[3];
  std::int64_t voxels;
  std::int64_t blocks;
  std::int64_t tasks;  // per sample

  explicit Grid(const Tensor& field) : ndim(field.ndim - 2), size{1, 1, 1}, voxels(1) {
    for (int axis = 0; axis < ndim; ++axis) {
      size[axis] = field.shape[axis + 2];
      voxels *= size[axis];
    }
    blocks = divide_up(voxels, kBlock);
    tasks = divide_up(blocks, kBlocksPerTask);
  }

  // Which of all samples' tasks a block is in.
  std::int64_t task_of(std::int64_t sample, const Block& block) const {
    return sample * tasks + block.index / kBlocksPerTask;
  }

  Block block(std::int64_t index) const {
    Block block = {index, index * kBlock, {0, 0, 0}, 0};
    std::int64_t rest = block.first;
    for (int axis = ndim - 1; axis > 0; --axis) {
      block.position[axis] = rest % size[axis];
      rest /= size[axis];
    }
    block.position[0] = rest;
    block.count = static_cast<int>(std::min<std::int64_t>(kBlock, voxels - block.first));
    return block;
  }

  // Calls visit(position, start, length) for each row in the block; start counts from
  // the block's first voxel.
  template <typename Visit>
  void for_each_row(const Block& block, const Visit& visit) const {
    std::int64_t position[3] = {block.position[0], block.position[1], block.position[2]};
    const int last = ndim - 1;
    for (int start = 0; start < block.count;) {
      const int length = static_cast<int>(
          std::min<std::int64_t>(size[last] - position[last], block.count - start));
      visit(position, start, length);
      start += length;
      position[last] = 0;
      for (int axis = last - 1; axis >= 0; --axis) {
        if (++position[axis] < size[axis]) {
          break;
        }
        position[axis] = 0;
      }
    }
  }
};

// Calls visit(sample, block) for every block of every sample; the blocks of a task in order, on one
// thread.
template <typename Visit>
void for_each_block(std::int64_t samples, const Grid& grid, int threads, const Visit& visit) {
  parallel_for(samples * grid.tasks, kTaskGrain, threads, [&](std::int64_t task) {
    const std::int64_t first = task % grid.tasks * kBlocksPerTask;
    const std::int64_t end = std::min(first + kBlocksPerTask, grid.blocks);
    for (std::int64_t index = first; index < end; ++index) {
      visit(task / grid.tasks, grid.block(index));
    }
  });
}

// Whether a channel's voxels follow each other in memory.
inline bool is_dense(const Tensor& tensor) {
  std::int64_t stride = 1;
  for (int axis = tensor.ndim - 1; axis >= 2; --axis) {
    if (tensor.shape[axis] != 1 && tensor.strides[axis] != stride) {
      return false;
    }
    stride *= tensor.shape[axis];
  }
  return true;
}

// Copies one channel of a block from a tensor of any strides, converted.
template <typename T>
void load_block(const Tensor& tensor, const Grid& grid, std::int64_t sample, std::int64_t channel,
                const Block& block, T* out) {
  const auto load = select_convert_rows<T>().load[static_cast<int>(tensor.dtype)];
  const std::int64_t origin = sample * tensor.strides[0] + channel * tensor.strides[1];
  if (is_dense(tensor)) {
    load(element(tensor, origin + block.first), 1, block.count, out);
    return;
  }
  grid.for_each_row(block, [&](const std::int64_t* position, int start, int length) {
    std::int64_t offset = origin;
    for (int axis = 0; axis < grid.ndim; ++axis) {
      offset += position[axis] * tensor.strides[axis + 2];
    }
    load(element(tensor, offset), tensor.strides[grid.ndim + 1], length, out + start);
  });
}

// The same without a copy where the tensor holds the block as consecutive T; otherwise by way of
// buffer, kBlock long.
template <typename T>
const T* block_values(const Tensor& tensor, const Grid& grid, std::int64_t sample,
                      std::int64_t channel, const Block& block, T* buffer) {
  if (element_size(tensor.dtype) == static_cast<std::int64_t>(sizeof(T)) && is_dense(tensor)) {
    const std::int64_t origin = sample * tensor.strides[0] + channel * tensor.strides[1];
    return static_cast<const T*>(element(tensor, origin + block.first));
  }
  load_block(tensor, grid, sample, channel, block, buffer);
  return buffer;
}

// Whether rows of an image can be read, or added to, as wholes (WarpRows::gather_row and so on),
// and are worth it.
inline bool has_rows(const ImageShape& image, const Grid& grid) {
  constexpr std::int64_t kShortRow = 8;
  const int last = image.ndim - 1;
  return image.stride[last] == 1 && image.size[last] >= 2 && grid.size[last] >= kShortRow;
}

// Where a block of one channel of a contiguous tensor is written.
inline void* block_target(const Tensor& tensor, std::int64_t sample, std::int64_t channel,
                          const Block& block) {
  return mutable_element(tensor,
                         sample * tensor.strides[0] + channel * tensor.strides[1] + block.first);
}

// Writes a block of all channels of a contiguous tensor from rows of kBlock, converted.
template <typename T>
void store_rows(const T* rows, const Tensor& out, std::int64_t sample, const Block& block) {
  const auto store = select_convert_rows<T>().store[static_cast<int>(out.dtype)];
  for (std::int64_t channel = 0; channel < out.shape[1]; ++channel) {
    store(rows + channel * kBlock, block.count, block_target(out, sample, channel, block));
  }
}

// Whether some of the first n values of a row of kBlock are NaN.
template <typename T>
bool has_nan_row(const T* rows, int count, int n) {
  bool nan = false;
  for (int row = 0; row < count; ++row) {
    nan = nan || select_convert_rows<T>().has_nan(rows + row * kBlock, n);
  }
  return nan;
}

// Sample locations: affine p + scale * displacement(p).
template <typename T>
class Locations {
 public:
  Locations(const Tensor& displacement, const Tensor& affine, double scale)
      : grid(displacement),
        displacement_(displacement),
        matrices_(affine.data == nullptr ? 1 : displacement.shape[0]),
        scale_(static_cast<T>(scale)) {
    for (std::size_t sample = 0; sample < matrices_.size(); ++sample) {
      for (int row = 0; row < grid.ndim; ++row) {
        load_row(affine, static_cast<std::int64_t>(sample), row, matrices_[sample].entry[row]);
      }
    }
  }

  // The displacement of a block, unscaled: rows of kBlock per axis.
  void load_displacement(std::int64_t sample, const Block& block, T* out) const {
    for (int axis = 0; axis < grid.ndim; ++axis) {
      load_block(displacement_, grid, sample, axis, block, out + axis * kBlock);
    }
  }

  // The coordinates of a block from its displacement; both may be the same memory.
  void coordinates(std::int64_t sample, const Block& block, const T* displacement, T* out) const {
    for (int axis = 0; axis < grid.ndim; ++axis) {
      axis_coordinates(sample, block, axis, displacement + axis * kBlock, out + axis * kBlock);
    }
  }

  // The coordinates on one axis, from memory.
  void load_axis(std::int64_t sample, const Block& block, int axis, T* out) const {
    load_block(displacement_, grid, sample, axis, block, out);
    axis_coordinates(sample, block, axis, out, out);
  }

  // Calls visit(row, start) for each row in the block; start counts from its first
  // voxel. rows: another displacement, in rows of kBlock per axis, or null.
  template <typename Visit>
  void for_each_row(std::int64_t sample, const Block& block, const T* rows,
                    const Visit& visit) const {
    constexpr DType computed = sizeof(T) == sizeof(double) ? DType::float64 : DType::float32;
    alignas(64) T buffer[3 * kBlock];
    const void* displacement[3];
    const bool in_memory = rows == nullptr && is_dense(displacement_);
    if (rows == nullptr && !in_memory) {
      load_displacement(sample, block, buffer);
      rows = buffer;
    }
    for (int axis = 0; axis < grid.ndim; ++axis) {
      displacement[axis] =
          in_memory ? element(displacement_, sample * displacement_.strides[0] +
                                                 axis * displacement_.strides[1] + block.first)
                    : rows + axis * kBlock;
    }
    visit_rows(sample, block, in_memory ? displacement_.dtype : computed, displacement, visit);
  }

  const Grid grid;

 private:
  // What the affine gives along a row: start + step * j.
  struct Ramp {
    T start;
    T step;
  };

  template <typename Visit>
  void visit_rows(std::int64_t sample, const Block& block, DType stored,
                  const void* const* displacement, const Visit& visit) const {
    const std::int64_t bytes = element_size(stored);
    grid.for_each_row(block, [&](const std::int64_t* position, int start, int length) {
      Row<T> row;
      row.n = length;
      row.scale = scale_;
      row.stored = stored;
      for (int axis = 0; axis < grid.ndim; ++axis) {
        const Ramp ramp = ramp_at(sample, axis, position);
        row.displacement[axis] = static_cast<const char*>(displacement[axis]) + start * bytes;
        row.start[axis] = ramp.start;
        row.step[axis] = ramp.step;
      }
      visit(row, start);
    });
  }

  struct Matrix {
    double entry[3][4];
  };

  void load_row(const Tensor& affine, std::int64_t sample, int row, double* out) const {
    for (int column = 0; column <= grid.ndim; ++column) {
      T value = row == column ? T(1) : T(0);
      if (affine.data != nullptr) {
        const std::int64_t offset =
            sample * affine.strides[0] + row * affine.strides[1] + column * affine.strides[2];
        select_convert_rows<T>().load[static_cast<int>(affine.dtype)](element(affine, offset), 1, 1,
                                                                      &value);
      }
      out[column] = static_cast<double>(value);
    }
  }

  Ramp ramp_at(std::int64_t sample, int axis, const std::int64_t* position) const {
    const std::size_t index = matrices_.size() == 1 ? 0 : static_cast<std::size_t>(sample);
    const double* row = matrices_[index].entry[axis];
    double start = row[grid.ndim];
    for (int column = 0; column < grid.ndim; ++column) {
      start += row[column] * static_cast<double>(position[column]);
    }
    return {static_cast<T>(start), static_cast<T>(row[grid.ndim - 1])};
  }

  void axis_coordinates(std::int64_t sample, const Block& block, int axis, const T* displacement,
                        T* out) const {
    const auto& rows = select_convert_rows<T>();
    grid.for_each_row(block, [&](const std::int64_t* position, int start, int length) {
      const Ramp ramp = ramp_at(sample, axis, position);
      rows.ramp(displacement + start, scale_, ramp.start, ramp.step, length, out + start);
    });
  }

  const Tensor displacement_;
  std::vector<Matrix> matrices_;
  const T scale_;
};

}  // namespace plasticine
