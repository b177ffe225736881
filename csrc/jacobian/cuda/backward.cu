// The Jacobian determinant's adjoint on the GPU: every voxel gathers from its neighbours.
#include "core/cuda/memory.cuh"
#include "jacobian/cuda/gather.cuh"
#include "jacobian/cuda/jacobian.h"

namespace plasticine::cuda {
namespace {

// The upstream gradient, as what the determinants are multiplied by.
template <int D, typename Stored, typename Index>
struct Upstream {
  const Stored* grad;
  Layout<D, Index> layout;

  explicit Upstream(const Tensor& tensor) : grad(tensor.as<const Stored>()), layout(tensor) {}

  // Beside a voxel.
  struct Voxel {
    const Stored* at;
    const Layout<D, Index>& layout;

    template <int axis, typename Gathered, typename T>
    __device__ __forceinline__ T share(const Gathered&, Index step, T (&)[D][D]) const {
      return read(at + step * layout.stride[axis]);
    }
  };
  __device__ __forceinline__ Voxel of(std::int64_t n, const Index (&position)[D]) const {
    return {grad + n * layout.sample_stride + layout.offset(position), layout};
  }
};

}  // namespace

void jacobian_backward(const Tensor& grad_out, const Tensor& displacement,
                       const Tensor& grad_displacement, Scheme scheme,
                       const std::vector<double>& spacing, int device, std::uintptr_t stream) {
  if (element_count(grad_displacement) == 0) {
    return;
  }
  const DeviceGuard guard(device);
  const std::int64_t reach = std::max(field_reach(displacement), channel_reach(grad_out));
  dispatch_field(displacement, reach, [&](auto instance) {
    using I = decltype(instance);
    gather_jacobian<I>("jacobian_backward",
                       Upstream<I::D, typename I::Field, typename I::Index>(grad_out), displacement,
                       grad_displacement, scheme, spacing, stream);
  });
}

}  // namespace plasticine::cuda
