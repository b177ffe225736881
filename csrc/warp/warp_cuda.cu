// warp forward on the GPU: a thread finds where its voxel is sampled once, then serves its
// channels.
#include "warp_cuda_location.cuh"

namespace plasticine::cuda {
namespace {

// Four would make sm_80's compiler spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kResidentBlocks = 3;
#else
constexpr int kResidentBlocks = 4;
#endif

template <Mode mode, Padding padding, int D, typename Image, typename Field, typename Index>
__global__ void __launch_bounds__(kThreads,
                                  (resident_blocks<accumulator_t<Image>, Index>(kResidentBlocks)))
    warp_forward_kernel(const __grid_constant__ WarpInputs<D, Image, Field, Index> inputs,
                        Image* __restrict__ out) {
  using T = accumulator_t<Image>;
  const Index voxel = static_cast<Index>(blockIdx.x) * kThreads + static_cast<Index>(threadIdx.x);
  if (voxel >= inputs.voxels) {
    return;
  }
  Index position[D];
  inputs.position_of(voxel, position);
  for (std::int64_t n = blockIdx.y; n < inputs.samples; n += gridDim.y) {
    T location[D];
    sample_location(inputs, n, position, location);
    Image* target = out + n * inputs.channels * inputs.voxels + voxel;
    if constexpr (mode == Mode::linear) {
      Cell<D, T, Index> cell;
      cell.template find<padding>(location, inputs.image_size);
      for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
        const Image* source = inputs.image.channel(n, c);
        T corner[corner_count<D>];
#pragma unroll
        for (int k = 0; k < corner_count<D>; ++k) {
          corner[k] = cell.inside(k) ? load(source[cell.offset(k, inputs.image.stride)]) : T(0);
        }
        target[c * inputs.voxels] = store<Image>(interpolate<D, T>(cell.lower, cell.upper, corner));
      }
    } else {
      NearestVoxel<D, T, Index> nearest;
      nearest.template find<padding>(location, inputs.image_size);
      const Index offset = inputs.image.offset(nearest.index);
      for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
        T value = nearest.is_nan ? std::numeric_limits<T>::quiet_NaN() : T(0);
        if (nearest.inside) {
          value = load(inputs.image.channel(n, c)[offset]);
        }
        target[c * inputs.voxels] = store<Image>(value);
      }
    }
  }
}

}  // namespace

void warp_forward(const Tensor& image, const Tensor& displacement,
                  const std::optional<Tensor>& affine, const Tensor& out, Mode mode,
                  Padding padding, int device, std::uintptr_t stream) {
  if (element_count(out) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  const std::int64_t voxels = element_count(out) / (out.shape[0] * out.shape[1]);
  const std::int64_t largest = std::max(
      {channel_reach(image), channel_reach(displacement), voxels + std::int64_t{kThreads}});
  const dim3 grid = launch_grid((voxels + kThreads - 1) / kThreads, image.shape[0], image.shape[1]);
  dispatch_dimension(displacement.shape[1], [&](auto dimension) {
    dispatch_types(image.dtype, displacement.dtype, [&](auto image_tag, auto field_tag) {
      dispatch_padding(padding, [&](auto padding_tag) {
        dispatch_index(largest, [&](auto index_tag) {
          constexpr int D = decltype(dimension)::value;
          constexpr Padding kPadding = decltype(padding_tag)::value;
          using Image = typename decltype(image_tag)::type;
          using Field = typename decltype(field_tag)::type;
          using Index = typename decltype(index_tag)::type;
          const WarpInputs<D, Image, Field, Index> inputs(image, displacement, affine);
          const auto kernel =
              mode == Mode::linear
                  ? warp_forward_kernel<Mode::linear, kPadding, D, Image, Field, Index>
                  : warp_forward_kernel<Mode::nearest, kPadding, D, Image, Field, Index>;
          launch("warp_forward", kernel, grid, kThreads, stream, inputs, out.as<Image>());
        });
      });
    });
  });
}

}  // namespace plasticine::cuda
