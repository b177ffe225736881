// warp forward in the cubic modes on the GPU: a thread finds its voxel's taps once, then serves its
// channels.
#include "warp_cubic_cuda.h"
#include "warp_cubic_cuda_cell.cuh"

namespace plasticine::cuda {
namespace {

template <int D, typename Image, typename Field, typename Index>
__global__ void __launch_bounds__(kThreads, (resident_blocks<accumulator_t<Image>, Index>(2)))
    warp_cubic_forward_kernel(const __grid_constant__ WarpInputs<D, Image, Field, Index> inputs,
                              CubicOptions options, Image* __restrict__ out) {
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
    CubicCell<D, false, T, Index> cell;
    cell.find(location, inputs.image_size, options);
    Image* target = out + n * inputs.channels * inputs.voxels + voxel;
    for (std::int64_t c = blockIdx.z; c < inputs.channels; c += gridDim.z) {
      T unused[D];
      const T value = cell.sum(inputs.image.channel(n, c), inputs.image.stride, unused);
      target[c * inputs.voxels] = store<Image>(value);
    }
  }
}

}  // namespace

void warp_cubic_forward(const Tensor& image, const Tensor& displacement,
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
    dispatch_cubic_types(image.dtype, displacement.dtype, [&](auto image_tag, auto field_tag) {
      dispatch_index(largest, [&](auto index_tag) {
        constexpr int D = decltype(dimension)::value;
        using Image = typename decltype(image_tag)::type;
        using Field = typename decltype(field_tag)::type;
        using Index = typename decltype(index_tag)::type;
        const WarpInputs<D, Image, Field, Index> inputs(image, displacement, affine);
        launch("warp_cubic_forward", warp_cubic_forward_kernel<D, Image, Field, Index>, grid,
               kThreads, stream, inputs, CubicOptions{mode, padding}, out.as<Image>());
      });
    });
  });
}

}  // namespace plasticine::cuda
