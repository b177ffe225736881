// What the vectorised inner loops over an image are given: blocks and rows.
#pragma once

#include <cstdint>

#include "core/types.h"

namespace plasticine {

// Voxels in a block: what is located at a time, in the first-level cache.
constexpr int kBlock = 256;

// The spatial axes of an image; strides in elements.
struct ImageShape {
  int ndim;
  std::int64_t size[3];
  std::int64_t stride[3];
};

// What a scatter may touch: voxels with index in [first, last) along axis.
struct OwnedRange {
  int axis;
  std::int64_t first;
  std::int64_t last;
};

// The voxels of a block that lie on one row of the output. The coordinate of voxel j on an axis is
// start + step * j + scale * displacement[j].
template <typename T>
struct Row {
  int n;
  T scale;
  DType stored;  // of the displacement: a type that is computed in T
  const void* displacement[3];
  T start[3];
  T step[3];
};

// The channels of a row or of an image: channel c begins at data + c * stride elements.
template <typename Pointer>
struct Channels {
  Pointer data;
  std::int64_t stride;
  std::int64_t count;
};

}  // namespace plasticine
