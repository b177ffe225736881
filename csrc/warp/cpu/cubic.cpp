#include "warp/cpu/cubic.h"
#include "core/cpu/without.h"

#include <algorithm>

#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
#include "warp/cpu/affine_sums.h"
#include "warp/cpu/blocks.h"
#include "warp/rows/cubic.h"

namespace plasticine {

namespace {

// A call's output grid and image, and how a block of the former is located in the latter.
template <typename T>
struct CubicLocations {
  const Locations<T> locations;
  const ImageShape shape;
  const WarpCubicRows<T>& rows;
  const Mode mode;
  const Padding padding;

  template <typename Call>
  explicit CubicLocations(const Call& call)
      : locations(call.displacement, call.affine, 1.0),
        shape(spatial_shape(call.image)),
        rows(select_warp_cubic_rows<T>(call.image.dtype, is_wide(shape))),
        mode(call.mode),
        padding(call.padding) {}

  void locate(std::int64_t sample, const Block& block, bool fold, bool slopes,
              CubicCellStorage<T>* cells) const {
    alignas(64) T coordinates[3 * kBlock];
    locations.load_displacement(sample, block, coordinates);
    locations.coordinates(sample, block, coordinates, coordinates);
    rows.locate(coordinates, shape, mode, padding, fold, block.count, slopes, cells);
  }

  // Calls visit(task, sample, block) for all blocks; the blocks of a task in order.
  template <typename Visit>
  void for_each_block(std::int64_t samples, int threads, const Visit& visit) const {
    const Grid& grid = locations.grid;
    parallel_for(samples * grid.tasks, kTaskGrain, threads, [&](std::int64_t task) {
      grid.for_each_block(task % grid.tasks,
                          [&](const Block& block) { visit(task, task / grid.tasks, block); });
    });
  }
};

const void* channel_of(const Tensor& image, std::int64_t sample, std::int64_t channel) {
  return element(image, sample * image.strides[0] + channel * image.strides[1]);
}

template <typename T>
void forward(const WarpForward& call) {
  const CubicLocations<T> located(call);
  const auto run = [&](std::int64_t, std::int64_t sample, const Block& block) {
    CubicCellStorage<T> cells;
    const auto gather = [&](std::int64_t channel) {
      return located.rows.gather(channel_of(call.image, sample, channel), located.shape,
                                 call.padding, cells, block.count,
                                 block_target(call.out, sample, channel, block));
    };
    bool fold = !is_without("fold");
    located.locate(sample, block, fold, false, &cells);
    for (std::int64_t channel = 0; channel < call.image.shape[1]; ++channel) {
      if (!gather(channel) && fold) {
        fold = false;
        located.locate(sample, block, fold, false, &cells);
        gather(channel);
      }
    }
  };
  located.for_each_block(call.displacement.shape[0], call.threads, run);
}

// The gradients to the displacement and the affine.
template <typename T>
void differentiate(const WarpBackward& call) {
  const CubicLocations<T> located(call);
  const Grid& grid = located.locations.grid;
  const auto& convert = select_convert_rows<T>();
  AffineSums<T> affine(call.grad_affine, grid);
  const auto run = [&](std::int64_t task, std::int64_t sample, const Block& block) {
    const int n = block.count;
    alignas(64) T gradient[3 * kBlock];
    const auto sum_channels = [&](bool fold) {
      alignas(64) T grad[kBlock];
      CubicCellStorage<T> cells;
      std::fill_n(gradient, 3 * kBlock, T(0));
      located.locate(sample, block, fold, true, &cells);
      for (std::int64_t channel = 0; channel < call.image.shape[1]; ++channel) {
        load_block(call.grad_out, grid, sample, channel, block, grad);
        located.rows.gradient(channel_of(call.image, sample, channel), located.shape, call.padding,
                              cells, n, grad, gradient);
      }
    };
    sum_channels(!is_without("fold"));
    bool nan = false;
    for (int axis = 0; axis < grid.ndim; ++axis) {
      nan = nan || convert.has_nan(gradient + axis * kBlock, n);
    }
    if (nan) {
      sum_channels(false);
    }
    affine.add(task, block, gradient);
    const Tensor& out = call.grad_displacement;
    for (int axis = 0; out.data != nullptr && axis < grid.ndim; ++axis) {
      convert.store[static_cast<int>(out.dtype)](gradient + axis * kBlock, n,
                                                 block_target(out, sample, axis, block));
    }
  };
  located.for_each_block(call.displacement.shape[0], call.threads, run);
  affine.store();
}

template <typename T>
void backward(const WarpBackward& call) {
  if (call.grad_displacement.data != nullptr || call.grad_affine.data != nullptr) {
    differentiate<T>(call);
  }
  if (call.grad_image.data != nullptr) {
    scatter_cubic_to_image<T>(call);
  }
}

}  // namespace

void warp_cubic_forward(const WarpForward& call) {
  prefer_huge_pages(call.out);
  if (call.image.dtype == DType::float64) {
    forward<double>(call);
  } else {
    forward<float>(call);
  }
}

void warp_cubic_backward(const WarpBackward& call) {
  prefer_huge_pages(call.grad_image);
  prefer_huge_pages(call.grad_displacement);
  if (call.image.dtype == DType::float64) {
    backward<double>(call);
  } else {
    backward<float>(call);
  }
}

}  // namespace plasticine
