// The spline's systems on the GPU: a thread solves one line, a launch all lines along one axis.
//
// Up a line and down again, four accesses a value; the second two find in cache what the first two
// left, as far as the lines in flight fit there. Along any axis but the last, neighbouring threads
// solve neighbouring lines, and every access is coalesced as it is. Rows along the last axis pass
// through shared memory, a tile of columns at a time, which transposes them.
#include "core/cuda/dispatch.h"
#include "core/cuda/launch.h"
#include "core/half.h"
#include "spline_coefficients/cuda/spline_coefficients.h"
#include "spline_coefficients/math/spline.h"

namespace plasticine::cuda {
namespace {

constexpr int kTile = 32;      // columns: those that a warp reads at once
constexpr int kRows = 64;      // of a block, one a thread
constexpr int kThreads = 128;  // lines of a block, where they need no tile
constexpr int kChunk = 16;     // values of a line that are read before the first is needed

// SplineFactors of any size as a kernel's argument. All but the first and the last few are equal to
// a double's rounding: from row to row a pivot comes closer to its limit by a factor of 14.
template <typename T>
class SplineTable {
 public:
  SplineTable(std::int64_t size, Padding padding, bool adjoint)
      : size(size), left_out_(std::max<std::int64_t>(size - kHead - kTail, 0)) {
    const SplineFactors<T> factors(size, padding, adjoint);
    for (std::int64_t slot = 0; slot < std::min<std::int64_t>(size, kHead + kTail); ++slot) {
      const std::int64_t row = slot < kHead ? slot : slot + left_out_;
      gain_[slot] = factors.gain[row];
      lower_[slot] = factors.lower[row];
      upper_[slot] = factors.upper[row];
    }
  }

  // The solution of the lower system at row i, from that at i - 1.
  __device__ __forceinline__ T up(std::int64_t i, T value, T before) const {
    const std::int64_t slot = slot_of(i);
    return gain_[slot] * value - lower_[slot] * before;
  }

  // The solution at row i, from that at i + 1.
  __device__ __forceinline__ T down(std::int64_t i, T value, T before) const {
    return value - upper_[slot_of(i)] * before;
  }

  std::int64_t size;

 private:
  static constexpr int kHead = 24;
  static constexpr int kTail = 2;

  __device__ __forceinline__ std::int64_t slot_of(std::int64_t i) const {
    const std::int64_t shifted = i - left_out_;
    return i < kHead || shifted < kHead ? (i < kHead ? i : kHead - 1) : shifted;
  }

  std::int64_t left_out_;
  T gain_[kHead + kTail] = {};
  T lower_[kHead + kTail] = {};
  T upper_[kHead + kTail] = {};
};

// An image of any strides as rows along its last axis, counted in memory order of the result.
template <typename Stored>
struct ImageRows {
  const Stored* data;
  std::int64_t column_stride;
  std::int64_t count = 1;
  int axes;
  std::int64_t shape[kMaxAxes];
  std::int64_t stride[kMaxAxes];

  explicit ImageRows(const Tensor& image)
      : data(image.as<const Stored>()),
        column_stride(image.strides[image.ndim - 1]),
        axes(image.ndim - 1) {
    for (int axis = 0; axis < axes; ++axis) {
      shape[axis] = image.shape[axis];
      stride[axis] = image.strides[axis];
      count *= shape[axis];
    }
  }

  __device__ __forceinline__ std::int64_t offset(std::int64_t row) const {
    std::int64_t sum = 0;
    for (int axis = axes - 1; axis >= 0; --axis) {
      const std::int64_t above = row / shape[axis];
      sum += (row - above * shape[axis]) * stride[axis];
      row = above;
    }
    return sum;
  }
};

// All rows along the last axis; target is contiguous.
template <typename Stored, typename T>
__global__ void __launch_bounds__(kRows)
    spline_rows_kernel(const __grid_constant__ ImageRows<Stored> source,
                       const __grid_constant__ SplineTable<T> table, T* target) {
  __shared__ T tile[kRows][kTile + 1];  // an odd pitch: no two rows in one bank
  __shared__ std::int64_t offset[kRows];
  constexpr int kRowsAtOnce = kRows / kTile;
  const int lane = static_cast<int>(threadIdx.x) % kTile;
  const int first = static_cast<int>(threadIdx.x) / kTile;
  const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const int rows = static_cast<int>(source.count - block < kRows ? source.count - block : kRows);
  T* const row = tile[threadIdx.x];
  T* const block_target = target + block * table.size;
  offset[threadIdx.x] =
      static_cast<int>(threadIdx.x) < rows ? source.offset(block + threadIdx.x) : 0;
  __syncthreads();

  // Calls work(r) for the rows of which this thread moves the value at a column to or from the
  // tile.
  const auto for_rows = [&](std::int64_t column, const auto& work) {
#pragma unroll 8
    for (int r = first; r < kRows; r += kRowsAtOnce) {
      if (r < rows && column < table.size) {
        work(r);
      }
    }
    __syncthreads();
  };
  const std::int64_t last = (table.size - 1) / kTile * kTile;
  T before = T(0);
  for (std::int64_t start = 0; start <= last; start += kTile) {
    const std::int64_t column = start + lane;
    for_rows(column, [&](int r) {
      tile[r][lane] = static_cast<T>(load(source.data[offset[r] + column * source.column_stride]));
    });
#pragma unroll 8
    for (int c = 0; c < kTile; ++c) {
      if (start + c < table.size) {
        before = table.up(start + c, row[c], before);
        row[c] = before;
      }
    }
    __syncthreads();
    if (start < last) {  // the last tile goes down as it is
      for_rows(column, [&](int r) { block_target[r * table.size + column] = tile[r][lane]; });
    }
  }

  before = T(0);
  for (std::int64_t start = last; start >= 0; start -= kTile) {
    const std::int64_t column = start + lane;
    if (start < last) {
      for_rows(column, [&](int r) { tile[r][lane] = block_target[r * table.size + column]; });
    }
#pragma unroll 8
    for (int c = kTile - 1; c >= 0; --c) {
      if (start + c < table.size) {
        before = table.down(start + c, row[c], before);
        row[c] = before;
      }
    }
    __syncthreads();
    for_rows(column, [&](int r) { block_target[r * table.size + column] = tile[r][lane]; });
  }
}

// All lines along another axis, in place but for the way down, which ends in target: it may be
// source itself. Voxels next to each other along the line are `stride` elements apart.
template <typename T, typename Target>
__global__ void __launch_bounds__(kThreads)
    spline_lines_kernel(T* source, Target* target, const __grid_constant__ SplineTable<T> table,
                        std::int64_t lines, std::int64_t stride) {
  const std::int64_t line = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (line >= lines) {
    return;
  }
  const std::int64_t outer = line / stride;
  const std::int64_t origin = outer * table.size * stride + (line - outer * stride);
  source += origin;
  target += origin;
  T value[kChunk];
  T before = T(0);
  for (std::int64_t start = 0; start < table.size; start += kChunk) {
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      value[k] = start + k < table.size ? source[(start + k) * stride] : T(0);
    }
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      if (start + k < table.size) {
        before = table.up(start + k, value[k], before);
        source[(start + k) * stride] = before;
      }
    }
  }
  before = T(0);
  for (std::int64_t end = table.size; end > 0; end -= kChunk) {
#pragma unroll
    for (int k = 1; k <= kChunk; ++k) {
      value[k - 1] = end - k >= 0 ? source[(end - k) * stride] : T(0);
    }
#pragma unroll
    for (int k = 1; k <= kChunk; ++k) {
      if (end - k >= 0) {
        before = table.down(end - k, value[k - 1], before);
        target[(end - k) * stride] = store<Target>(before);
      }
    }
  }
}

dim3 blocks_of(std::int64_t lines, int per_block) {
  return dim3(static_cast<unsigned>(divide_up(lines, per_block)));
}

template <typename T, typename Target>
void solve_lines(T* source, Target* target, const Tensor& image, int axis, Padding padding,
                 bool adjoint, std::uintptr_t stream) {
  const std::int64_t size = image.shape[axis];
  std::int64_t stride = 1;
  for (int inner = axis + 1; inner < image.ndim; ++inner) {
    stride *= image.shape[inner];
  }
  const std::int64_t lines = element_count(image) / size;
  const SplineTable<T> table(size, padding, adjoint);
  launch("spline_coefficients", spline_lines_kernel<T, Target>, blocks_of(lines, kThreads),
         kThreads, stream, source, target, table, lines, stride);
}

}  // namespace

void spline_coefficients(const Tensor& image, const Tensor& out, const Tensor& scratch,
                         Padding padding, bool adjoint, int device, std::uintptr_t stream) {
  if (element_count(image) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  dispatch_type(image.dtype, [&](auto tag) {
    using Stored = typename decltype(tag)::type;
    using T = accumulator_t<Stored>;
    T* const between = (scratch ? scratch : out).template as<T>();
    const int last = image.ndim - 1;
    const ImageRows<Stored> rows(image);
    const SplineTable<T> table(image.shape[last], padding, adjoint);
    launch("spline_coefficients", spline_rows_kernel<Stored, T>, blocks_of(rows.count, kRows),
           kRows, stream, rows, table, between);
    for (int axis = last - 1; axis > 2; --axis) {
      solve_lines(between, between, image, axis, padding, adjoint, stream);
    }
    solve_lines(between, out.as<Stored>(), image, 2, padding, adjoint, stream);
  });
}

}  // namespace plasticine::cuda
