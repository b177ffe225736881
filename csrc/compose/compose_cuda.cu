// compose forward on the GPU, and with it every squaring of an exponential: a thread finds where
// its voxel is sampled once, and reads all components there.
//
// Compiled are both dimensions and all paddings, for every dtype with 32-bit offsets and for
// float32 with 64-bit ones.
#include "compose_cuda.h"
#include "compose_cuda_dispatch.cuh"
#include "compose_cuda_field.cuh"

namespace plasticine::cuda {
namespace {

constexpr int kTurns = 2;

// Of one composition, or of two that differ in their addresses and factors alone.
template <int D, typename Stored, typename Index>
struct ComposeArguments {
  using T = accumulator_t<Stored>;

  const Stored* field[2] = {};
  const Stored* displacement[2] = {};
  Stored* out[2] = {};
  T scale[2] = {};
  T location_scale[2] = {};
  bool add = true;
  FieldShape<D, Index> field_shape;
  FieldShape<D, Index> displacement_shape;
  Boxes<D, Index, kTurns> boxes;
  std::int64_t samples = 0;

  explicit ComposeArguments(const ComposedPair& pair)
      : add(pair.first.add),
        field_shape(pair.first.field),
        displacement_shape(pair.first.displacement),
        boxes(pair.first.displacement),
        samples(pair.first.displacement.shape[0]) {
    set(0, pair.first, pair.out);
    if (pair.second) {
      set(1, *pair.second, pair.second_out);
    }
  }

  void set(int direction, const Composition& composition, const Tensor& out_tensor) {
    field[direction] = composition.field.as<const Stored>();
    displacement[direction] = composition.displacement.as<const Stored>();
    out[direction] = out_tensor.as<Stored>();
    scale[direction] = static_cast<T>(composition.scale);
    location_scale[direction] = static_cast<T>(composition.location_scale);
  }
};

template <Padding padding, int D, typename Stored, typename Index>
__global__ void __launch_bounds__(kThreads, (resident_blocks<accumulator_t<Stored>, Index>(4)))
    compose_forward_kernel(const __grid_constant__ ComposeArguments<D, Stored, Index> arguments) {
  using T = accumulator_t<Stored>;
  const unsigned direction = blockIdx.z;
  const T scale = arguments.scale[direction];
  const T location_scale = arguments.location_scale[direction];
  const std::int64_t voxels = arguments.boxes.voxels();
  for (std::int64_t n = blockIdx.y; n < arguments.samples; n += gridDim.y) {
    const Components<D, Stored> field(
        arguments.field[direction] + n * arguments.field_shape.sample_stride,
        arguments.field_shape.channel_stride);
    Stored* out = arguments.out[direction] + n * D * voxels;
    Index position[D];
    arguments.boxes.first_position(position);
#pragma unroll 1
    for (int turn = 0; turn < kTurns && arguments.boxes.holds(position);
         ++turn, position[0] += turn_length<D>) {
      T displacement[D];
      T values[D];
      read_sample(arguments.displacement[direction], arguments.displacement_shape, n, position,
                  displacement);
      const FieldCell<padding, D, T, Index> cell(position, location_scale, displacement,
                                                 arguments.field_shape);
      cell.sample(field, arguments.field_shape, values);
      const Index voxel = arguments.boxes.offset(position);
#pragma unroll
      for (int axis = 0; axis < D; ++axis) {
        const T sum = arguments.add ? values[axis] + displacement[axis] : values[axis];
        out[axis * voxels + voxel] = store<Stored>(scale * sum);
      }
    }
  }
}

}  // namespace

void compose_forward(const ComposedPair& pair, Padding padding, std::uintptr_t stream) {
  const Composition& first = pair.first;
  if (element_count(first.displacement) == 0) {
    return;
  }
  const std::int64_t largest =
      largest_offset(first.displacement, {first.field, first.displacement});
  dispatch_field<true>(first.field, padding, largest, [&](auto instance) {
    using Instance = decltype(instance);
    constexpr int D = Instance::dimension;
    using Stored = typename Instance::Stored;
    using Index = typename Instance::Index;
    const ComposeArguments<D, Stored, Index> arguments(pair);
    launch("compose_forward", compose_forward_kernel<Instance::padding, D, Stored, Index>,
           arguments.boxes.launch_grid(arguments.samples, pair.second ? 2 : 1), kThreads, stream,
           arguments);
  });
}

void compose(const Tensor& u, const Tensor& v, const Tensor& out, Padding padding, int device,
             std::uintptr_t stream) {
  const DeviceGuard guard(device);
  ComposedPair pair;
  pair.first.field = u;
  pair.first.displacement = v;
  pair.out = out;
  compose_forward(pair, padding, stream);
}

}  // namespace plasticine::cuda
