#include "warp/cpu/warp.h"
#include "core/cpu/without.h"

#include <algorithm>
#include <cmath>

#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
#include "warp/cpu/affine_sums.h"
#include "warp/cpu/blocks.h"
#include "warp/cpu/cubic.h"
#include "warp/cpu/scalar.h"
#include "warp/cpu/scatter.h"

namespace plasticine {

namespace {

template <typename T>
class Forward {
 public:
  explicit Forward(const WarpForward& call)
      : call_(call),
        locations_(call.displacement, call.affine, 1.0),
        shape_(spatial_shape(call.image)),
        rows_(select_warp_rows<T>(call.image.dtype, is_wide(shape_))),
        whole_rows_((call.mode == Mode::linear ? rows_.gather_row != nullptr
                                               : rows_.nearest_row != nullptr) &&
                    has_rows(shape_, locations_.grid)) {}

  void run() const {
    const Grid& grid = locations_.grid;
    const std::int64_t samples = call_.displacement.shape[0];
    parallel_for(samples * grid.tasks, kTaskGrain, call_.threads, [&](std::int64_t task) {
      grid.for_each_block(task % grid.tasks, [&](const Block& block) {
        if (whole_rows_) {
          run_rows(task / grid.tasks, block);
        } else {
          run_block(task / grid.tasks, block);
        }
      });
    });
  }

 private:
  void run_rows(std::int64_t sample, const Block& block) const {
    const Tensor& image = call_.image;
    const Tensor& out = call_.out;
    const Channels<const void*> source = {element(image, sample * image.strides[0]),
                                          image.strides[1], image.shape[1]};
    const bool linear = call_.mode == Mode::linear;
    bool smooth = true;
    locations_.for_each_piece(sample, block, [&](const RowPiece<T>& piece, int start) {
      const std::int64_t first = sample * out.strides[0] + block.first + start;
      const Channels<void*> target = {mutable_element(out, first), out.strides[1], out.shape[1]};
      if (!linear) {
        rows_.nearest_row(piece, shape_, call_.padding, source, target);
        return;
      }
      smooth = smooth && (start > 0 || is_smooth(piece));
      if (!smooth) {
        return;
      }
      if (!rows_.gather_row(piece, shape_, call_.padding, source, T(1), call_.add, target)) {
        run_carefully(sample, block);
      }
    });
    if (!smooth) {
      run_block(sample, block);
    }
  }

  // Whether most of what lies side by side is sampled from one row of the image, or two.
  bool is_smooth(const RowPiece<T>& piece) const {
    constexpr int kApart = 15;
    constexpr int kEvery = 64;
    const T rows_apart = T(1.5);
    T change = T(0);
    T most = T(0);
    with_stored<T>(piece.stored, [&](auto stored) {
      using Stored = decltype(stored);
      for (int j = 0; j + kApart < piece.n; j += kEvery) {
        most += rows_apart;
        for (int axis = 0; axis < shape_.ndim - 1; ++axis) {
          const Stored* displacement = static_cast<const Stored*>(piece.displacement[axis]) + j;
          change += std::abs(piece.step[axis] * T(kApart) +
                             piece.scale * (load(displacement[kApart]) - load(displacement[0])));
        }
      }
    });
    static const bool without = is_without("smoothness");
    return change <= most || without;
  }

  // Where a NaN or an infinity is met.
  void run_carefully(std::int64_t sample, const Block& block) const {
    alignas(64) T displacement[3 * kBlock];
    alignas(64) T coordinates[3 * kBlock];
    locations_.load_displacement(sample, block, displacement);
    locations_.coordinates(sample, block, displacement, coordinates);
    for (std::int64_t channel = 0; channel < call_.image.shape[1]; ++channel) {
      gather_carefully(sample, block, channel, coordinates,
                       call_.add ? displacement + channel * kBlock : nullptr);
    }
  }

  void gather_carefully(std::int64_t sample, const Block& block, std::int64_t channel,
                        const T* coordinates, const T* add) const {
    const Tensor& image = call_.image;
    const void* source = element(image, sample * image.strides[0] + channel * image.strides[1]);
    with_stored<T>(image.dtype, [&](auto stored) {
      using Stored = decltype(stored);
      const auto gather =
          shape_.ndim == 2 ? careful_gather<2, Stored, T> : careful_gather<3, Stored, T>;
      gather(source, shape_, call_.padding, coordinates, block.count, T(1), add,
             block_target(call_.out, sample, channel, block));
    });
  }

  void run_block(std::int64_t sample, const Block& block) const {
    const int n = block.count;
    alignas(64) T displacement[3 * kBlock];
    alignas(64) T coordinates[3 * kBlock];
    CellStorage<T> cells;
    locations_.load_displacement(sample, block, displacement);
    locations_.coordinates(sample, block, displacement, coordinates);
    if (call_.mode == Mode::linear) {
      rows_.locate(coordinates, shape_, call_.padding, n, false, &cells);
    } else {
      rows_.locate_nearest(coordinates, shape_, call_.padding, n, &cells);
    }
    const Tensor& image = call_.image;
    const Tensor& out = call_.out;
    for (std::int64_t channel = 0; channel < image.shape[1]; ++channel) {
      const void* source = element(image, sample * image.strides[0] + channel * image.strides[1]);
      void* target = block_target(out, sample, channel, block);
      if (call_.mode == Mode::nearest) {
        rows_.gather_nearest(source, cells, n, target);
        continue;
      }
      const T* add = call_.add ? displacement + channel * kBlock : nullptr;
      if (!rows_.gather(source, shape_, cells, n, T(1), add, target)) {
        gather_carefully(sample, block, channel, coordinates, add);
      }
    }
  }

  const WarpForward& call_;
  const Locations<T> locations_;
  const ImageShape shape_;
  const WarpRows<T>& rows_;
  const bool whole_rows_;
};

// The gradients to the displacement and the affine, and on the way what the scatter must know.
template <typename T>
class Gradient {
 public:
  explicit Gradient(const WarpBackward& call)
      : call_(call),
        locations_(call.displacement, call.affine, call.displacement_scale),
        shape_(spatial_shape(call.image)),
        rows_(select_warp_rows<T>(call.image.dtype, is_wide(shape_))),
        whole_rows_(rows_.gradient_row != nullptr && call.mode == Mode::linear &&
                    has_rows(shape_, locations_.grid) && is_dense(call.grad_out)) {}

  void run() const {
    const Grid& grid = locations_.grid;
    const std::int64_t samples = call_.displacement.shape[0];
    AffineSums<T> sums(call_.grad_affine, grid);
    AffineSums<T>* affine = call_.grad_affine.data != nullptr ? &sums : nullptr;
    parallel_for(samples * grid.tasks, kTaskGrain, call_.threads, [&](std::int64_t task) {
      grid.for_each_block(task % grid.tasks, [&](const Block& block) {
        run_block(task / grid.tasks, block, affine, task);
      });
    });
    sums.store();
  }

  // affine, where not null, receives for the task what the block adds to the affine's gradient.
  void run_block(std::int64_t sample, const Block& block, AffineSums<T>* affine,
                 std::int64_t task) const {
    const int n = block.count;
    alignas(64) T gradient[3 * kBlock] = {};
    if (whole_rows_) {
      if (differentiate_rows(sample, block, affine == nullptr, gradient)) {
        return;
      }
    } else if (call_.mode == Mode::linear) {
      differentiate(sample, block, n, gradient);
    }
    if (affine != nullptr) {
      affine->add(task, block, gradient);
    }
    if (call_.grad_displacement.data != nullptr) {
      store_gradient(sample, block, n, gradient);
    }
  }

 private:
  // Without what is added and the scale where they are left to store_gradient. True where the
  // result has been stored.
  bool differentiate_rows(std::int64_t sample, const Block& block, bool may_store,
                          T* gradient) const {
    const Tensor& image = call_.image;
    const Tensor& grad_out = call_.grad_out;
    const Tensor& out = call_.grad_displacement;
    const bool in_place = may_store && call_.displacement_scale == 1.0 &&
                          element_size(out.dtype) == static_cast<std::int64_t>(sizeof(T));
    const Channels<const void*> source = {element(image, sample * image.strides[0]),
                                          image.strides[1], image.shape[1]};
    bool finite = true;
    locations_.for_each_piece(sample, block, [&](const RowPiece<T>& piece, int start) {
      T* target[3];
      for (int axis = 0; axis < shape_.ndim; ++axis) {
        target[axis] = (in_place ? static_cast<T*>(block_target(out, sample, axis, block))
                                 : gradient + axis * kBlock) +
                       start;
      }
      const std::int64_t first = sample * grad_out.strides[0] + block.first + start;
      const Channels<const void*> grad = {element(grad_out, first), grad_out.strides[1],
                                          grad_out.shape[1]};
      finite = rows_.gradient_row(piece, shape_, call_.padding, source, grad,
                                  in_place ? static_cast<T>(call_.scale) : T(1),
                                  in_place && call_.add, target) &&
               finite;
    });
    if (!finite) {
      alignas(64) T coordinates[3 * kBlock];
      locations_.load_displacement(sample, block, coordinates);
      locations_.coordinates(sample, block, coordinates, coordinates);
      differentiate_carefully(sample, block, coordinates, gradient);
    }
    return in_place && finite;
  }

  void differentiate(std::int64_t sample, const Block& block, int n, T* gradient) const {
    alignas(64) T coordinates[3 * kBlock];
    alignas(64) T grad[kBlock];
    CellStorage<T> cells;
    locations_.load_displacement(sample, block, coordinates);
    locations_.coordinates(sample, block, coordinates, coordinates);
    rows_.locate(coordinates, shape_, call_.padding, n, true, &cells);
    for_each_channel(sample, block, grad, [&](const void* source) {
      rows_.gradient(source, shape_, cells, n, grad, gradient);
    });
    bool nan = false;
    for (int axis = 0; axis < shape_.ndim; ++axis) {
      nan = nan || select_convert_rows<T>().has_nan(gradient + axis * kBlock, n);
    }
    if (nan) {
      differentiate_carefully(sample, block, coordinates, gradient);
    }
  }

  // Where a NaN or an infinity is met.
  void differentiate_carefully(std::int64_t sample, const Block& block, const T* coordinates,
                               T* gradient) const {
    alignas(64) T grad[kBlock];
    std::fill_n(gradient, 3 * kBlock, T(0));
    with_stored<T>(call_.image.dtype, [&](auto stored) {
      using Stored = decltype(stored);
      const auto careful =
          shape_.ndim == 2 ? careful_gradient<2, Stored, T> : careful_gradient<3, Stored, T>;
      for_each_channel(sample, block, grad, [&](const void* source) {
        careful(source, shape_, call_.padding, coordinates, block.count, grad, gradient);
      });
    });
  }

  // Loads the output's gradient of each channel in turn and calls visit(the channel's image).
  template <typename Visit>
  void for_each_channel(std::int64_t sample, const Block& block, T* grad,
                        const Visit& visit) const {
    const Tensor& image = call_.image;
    for (std::int64_t channel = 0; channel < image.shape[1]; ++channel) {
      load_block(call_.grad_out, locations_.grid, sample, channel, block, grad);
      visit(element(image, sample * image.strides[0] + channel * image.strides[1]));
    }
  }

  void store_gradient(std::int64_t sample, const Block& block, int n, T* gradient) const {
    const Tensor& out = call_.grad_displacement;
    const T scale = static_cast<T>(call_.scale);
    const T inner = static_cast<T>(call_.displacement_scale);
    alignas(64) T grad[kBlock];
    for (int axis = 0; axis < shape_.ndim; ++axis) {
      T* row = gradient + axis * kBlock;
      if (call_.add) {
        load_block(call_.grad_out, locations_.grid, sample, axis, block, grad);
        for (int j = 0; j < n; ++j) {
          row[j] = scale * (inner * row[j] + grad[j]);
        }
      } else if (scale * inner != T(1)) {
        for (int j = 0; j < n; ++j) {
          row[j] *= scale * inner;
        }
      }
      void* target = block_target(out, sample, axis, block);
      select_convert_rows<T>().store[static_cast<int>(out.dtype)](row, n, target);
    }
  }

  const WarpBackward& call_;
  const Locations<T> locations_;
  const ImageShape shape_;
  const WarpRows<T>& rows_;
  const bool whole_rows_;
};

template <typename T>
void backward(const WarpBackward& call) {
  prefer_huge_pages(call.grad_image);
  prefer_huge_pages(call.grad_displacement);
  const bool field = call.grad_displacement.data != nullptr;
  const bool affine = call.grad_affine.data != nullptr;
  if (is_joined_pass<T>(call)) {
    scatter_to_image<T>(call);
  } else if (call.grad_image.data == nullptr || affine || call.accumulate) {
    if (field || affine) {
      Gradient<T>(call).run();
    }
    if (call.grad_image.data != nullptr) {
      scatter_to_image<T>(call);
    }
  } else if (field && is_without("common_blocks")) {
    Gradient<T>(call).run();
    scatter_to_image<T>(call);
  } else if (field) {
    const Gradient<T> gradient(call);
    scatter_to_image<T>(call, [&](std::int64_t sample, const Block& block) {
      gradient.run_block(sample, block, nullptr, 0);
    });
  } else {
    scatter_to_image<T>(call);
  }
}

}  // namespace

void warp_forward(const WarpForward& call) {
  if (is_cubic(call.mode)) {
    warp_cubic_forward(call);
    return;
  }
  prefer_huge_pages(call.out);
  if (call.image.dtype == DType::float64) {
    Forward<double>(call).run();
  } else {
    Forward<float>(call).run();
  }
}

void warp_backward(const WarpBackward& call) {
  if (is_cubic(call.mode)) {
    warp_cubic_backward(call);
    return;
  }
  if (call.image.dtype == DType::float64) {
    backward<double>(call);
  } else {
    backward<float>(call);
  }
}

}  // namespace plasticine
