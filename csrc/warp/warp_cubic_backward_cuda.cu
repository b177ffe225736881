// warp backward in the cubic modes on the GPU, and splat: the gradients of image, displacement and
// affine in one pass over the voxels, summed as the linear mode sums them.
//
// Which gradients are asked for is known at run time: the taps are read for the location's, then
// walked again to scatter the image's, which needs fewer registers than both at once.
#include "warp/warp_cubic_cuda.h"
#include "warp/warp_cubic_cuda_cell.cuh"
#include "warp/warp_cuda_adjoint.cuh"

namespace plasticine::cuda {
namespace {

constexpr int kMostTurns = 4;

// The scatter of a cell per lane into the channels of an image whose rows are contiguous. Where a
// field is smooth, the cell of a lane lies one voxel after that of the lane before: then three of
// the four voxels in each of its rows are the same, and what the lane before adds to them is handed
// on in registers, so that most rows cost one atomic instead of four.
//
// Whole warps call everything here, lanes without a voxel of their own included.
template <int D, typename T, typename Index>
class CubicScatter {
 public:
  // A lane that is not active adds nothing.
  __device__ __forceinline__ CubicScatter(const CubicCell<D, true, T, Index>& cell, bool active,
                                          const Index (&size)[D], const ScatterTarget<T>& target)
      : active_(active) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const Index own = cell.first[D - 1];
    const bool is_plain = active && own >= 0 && own <= size[D - 1] - kTaps;
    const Index before = __shfl_up_sync(kWholeWarp, is_plain ? own : Index(-2), 1);
    bool follows = lane > 0 && is_plain && before + 1 == own;
#pragma unroll
    for (int axis = 0; axis < D - 1; ++axis) {
      follows = __shfl_up_sync(kWholeWarp, cell.first[axis], 1) == cell.first[axis] && follows;
    }
    // In fixed point, the order in which lanes are combined would show in the bits.
    receives_ = follows && target.fixed == nullptr;
    const unsigned receivers = __ballot_sync(kWholeWarp, receives_);
    passes_on_ = lane < kWarpSize - 1 && (receivers >> (lane + 1) & 1u) != 0u;
  }

  // Adds the cell's weights, times `upstream`, to one channel.
  __device__ __forceinline__ void add(const CubicCell<D, true, T, Index>& cell,
                                      const Index (&size)[D], T upstream,
                                      const ScatterTarget<T>& channel) const {
    constexpr int y = D - 2;
#pragma unroll 1
    for (int i = 0; i < (D == 3 ? kTaps : 1); ++i) {
      const bool has_plane = active_ && (D == 2 || cell.is_inside(0, i));
      const T plane = D == 3 ? upstream * pick(cell.weight[0], i) : upstream;
      const Index first_row = D == 3 ? pick(cell.index[0], i) * size[y] : 0;
#pragma unroll 1
      for (int j = 0; j < kTaps; ++j) {
        add_row(cell, has_plane && cell.is_inside(y, j), plane * pick(cell.weight[y], j),
                (first_row + pick(cell.index[y], j)) * size[D - 1], channel);
      }
    }
  }

 private:
  __device__ __forceinline__ void add_row(const CubicCell<D, true, T, Index>& cell, bool has_row,
                                          T upstream, Index start,
                                          const ScatterTarget<T>& channel) const {
    constexpr int x = D - 1;
    T share[kTaps];
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      share[k] = upstream * cell.weight[x][k];
    }
#pragma unroll
    for (int k = kTaps - 1; k > 0; --k) {
      const T handed = __shfl_up_sync(kWholeWarp, share[k], 1);
      share[k - 1] += receives_ ? handed : T(0);
    }
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      if (has_row && cell.is_inside(x, k) && (k == 0 || !passes_on_)) {
        channel.add(start + cell.index[x][k], share[k]);
      }
    }
  }

  bool active_;
  bool receives_;
  bool passes_on_;
};

// What one voxel passes on: scatters to the image, and returns its slope with respect to the
// location. A lane that is not active has no voxel. upstream_offset: of the voxel in a channel of
// grad.
template <int D, typename Image, typename Field, typename Index, typename T>
__device__ __forceinline__ void cubic_voxel(const WarpInputs<D, Image, Field, Index>& inputs,
                                            const ChannelFirst<D, Image, Index>& grad,
                                            const ScatterTarget<T>& target, bool needs_location,
                                            Mode mode, std::int64_t n, bool active,
                                            Index upstream_offset, const T (&location)[D],
                                            T (&slope)[D]) {
  CubicCell<D, true, T, Index> cell;
  cell.find(location, inputs.image_size, mode, inputs.padding);
  // An output that no voxel of the image entered passes nothing on, not even 0 * inf.
  const bool reached = active && cell.reached();
  const CubicScatter<D, T, Index> scatter(cell, reached, inputs.image_size, target);
  std::int64_t plane = 1;
  for (int axis = 0; axis < D; ++axis) {
    plane *= inputs.image_size[axis];
  }
  for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
    const T upstream = reached ? static_cast<T>(read(grad.channel(n, c) + upstream_offset)) : T(0);
    if (needs_location && active) {
      T gradient[D];
      cell.sum(inputs.image.channel(n, c), inputs.image.stride, gradient);
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        slope[axis] += upstream * gradient[axis];
      }
    }
    if (target.values != nullptr) {
      scatter.add(cell, inputs.image_size, upstream,
                  target.plane((n * inputs.channels + c) * plane));
    }
  }
}

template <int D, typename Image, typename Field, typename Index>
__global__ void __launch_bounds__(kThreads, (resident_blocks<accumulator_t<Image>, Index>(2)))
    warp_cubic_backward_kernel(const __grid_constant__ WarpInputs<D, Image, Field, Index> inputs,
                               const __grid_constant__ ChannelFirst<D, Image, Index> grad,
                               const __grid_constant__ Boxes<D, Index> boxes,
                               GradientBuffers<accumulator_t<Image>, Field> buffers, Mode mode) {
  using T = accumulator_t<Image>;
  constexpr int kMoments = D * (D + 1);
  constexpr int kStep = Boxes<D, Index>::kStep;
  __shared__ T sums[kWarps * kMoments];
  const bool has_affine = buffers.affine_partial != nullptr;
  const bool needs_location = has_affine || buffers.displacement != nullptr;
  const ScatterTarget<T> target = buffers.scatter_target();

  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    if (has_affine) {
      clear_affine_sums<D>(sums);
    }
    // More than one box only where partial sums limit the number of blocks. Whole blocks stay
    // together, since lanes exchange what they have.
    for (std::int64_t box = blockIdx.x; box < boxes.count(); box += gridDim.x) {
      Index position[D];
      boxes.find(static_cast<Index>(box), position);
      const int own_turns = boxes.turns_from(position);
      LineMoments<D, T> moments;
#pragma unroll 1
      for (int turn = 0; turn < boxes.turns(); ++turn) {
        const bool active = turn < own_turns;
        T location[D] = {};
        if (active) {
          sample_location(inputs, n, position, location);
        }
        T slope[D] = {};
        cubic_voxel(inputs, grad, target, needs_location, mode, n, active, grad.offset(position),
                    location, slope);
        if (active && buffers.displacement != nullptr) {
          Field* component = buffers.displacement + n * D * inputs.voxels + boxes.offset(position);
#pragma unroll
          for (int axis = 0; axis < D; ++axis) {
            write_once(component, slope[axis]);
            component += inputs.voxels;
          }
        }
        moments.add(slope, position[0]);
        position[0] += kStep;
      }
      if (has_affine) {
        moments.add_to(sums, position);
      }
    }
    if (has_affine) {
      T* const partial = buffers.affine_partial + (n * gridDim.x + blockIdx.x) * kMoments;
      store_affine_sums<D>(sums, partial);
    }
  }
}

}  // namespace

void warp_cubic_backward(const Tensor& grad, const Tensor& image, const Tensor& displacement,
                         const Tensor& affine, const WarpGradients& gradients, Mode mode,
                         Padding padding, int device, std::uintptr_t stream) {
  const DeviceGuard guard(device);
  prepare_gradients(gradients, element_count(grad) == 0, stream);
  const bool needs_location = gradients.displacement || gradients.affine_partial;
  if (element_count(grad) == 0 || (!gradients.image && !needs_location)) {
    return;
  }
  dispatch_cubic_instance(
      displacement.shape[1], grad.dtype, displacement.dtype,
      largest_offset(grad, image, displacement), [&](auto instance) {
        using Chosen = decltype(instance);
        constexpr int D = Chosen::D;
        using Image = typename Chosen::Image;
        using Field = typename Chosen::Field;
        using Index = typename Chosen::Index;
        const WarpInputs<D, Image, Field, Index> inputs(image, displacement, affine, padding);
        const ChannelFirst<D, Image, Index> upstream(grad);
        const Boxes<D, Index> boxes(grad, kMostTurns);
        launch("warp_cubic_backward", warp_cubic_backward_kernel<D, Image, Field, Index>,
               backward_grid(boxes.count(), grad, gradients, needs_location), kThreads, stream,
               inputs, upstream, boxes, buffers_of<accumulator_t<Image>, Field>(gradients), mode);
      });
}

}  // namespace plasticine::cuda
