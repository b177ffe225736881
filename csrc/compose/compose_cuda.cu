// compose forward on the GPU, and with it every squaring of an exponential: a thread finds where
// its voxel is sampled once, and reads all components there.
//
// Compiled are the instances of dispatch_instance.
#include "compose/compose_cuda.h"
#include "compose/compose_cuda_field.cuh"

namespace plasticine::cuda {
namespace {

// At most, for what a thread computes once is spread over them.
constexpr int kTurns = 4;

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
  Padding padding;  // where the kernel does not know it
  FieldShape<D, Index> field_shape;
  FieldShape<D, Index> displacement_shape;
  Boxes<D, Index> boxes;
  std::int64_t voxels = 0;
  std::int64_t samples = 0;

  ComposeArguments(const ComposedPair& pair, Padding padding_of_call)
      : add(pair.first.add),
        padding(padding_of_call),
        field_shape(pair.first.field),
        displacement_shape(pair.first.displacement),
        boxes(pair.first.displacement, kTurns),
        voxels(voxel_count(pair.first.displacement)),
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

// Four blocks a multiprocessor would make the compiler spill for half types.
template <typename Stored, typename Index>
constexpr int kBlocks = resident_blocks<accumulator_t<Stored>, Index>(sizeof(Stored) == 2 ? 3 : 4);

template <Padding padding, int D, typename Stored, typename Index>
__global__ void __launch_bounds__(kThreads, (kBlocks<Stored, Index>))
    compose_forward_kernel(const __grid_constant__ ComposeArguments<D, Stored, Index> arguments) {
  using T = accumulator_t<Stored>;
  const unsigned direction = blockIdx.z;
  const T scale = arguments.scale[direction];
  const T location_scale = arguments.location_scale[direction];
  const std::int64_t voxels = arguments.voxels;
  for (std::int64_t n = blockIdx.y; n < arguments.samples; n += gridDim.y) {
    const Components<D, Stored> field(
        arguments.field[direction] + n * arguments.field_shape.sample_stride,
        arguments.field_shape.channel_stride);
    Stored* out = arguments.out[direction] + n * D * voxels;
    Index position[D];
    arguments.boxes.find(static_cast<Index>(blockIdx.x), position);
#pragma unroll 1
    for (int left = arguments.boxes.turns_from(position); left > 0;
         --left, position[0] += Boxes<D, Index>::kStep) {
      T displacement[D];
      T values[D];
      read_sample(arguments.displacement[direction], arguments.displacement_shape, n, position,
                  displacement);
      const FieldCell<padding, D, T, Index> cell(position, location_scale, displacement,
                                                 arguments.field_shape, arguments.padding);
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
  dispatch_instance(first.field, padding, largest, [&](auto instance) {
    using Chosen = decltype(instance);
    constexpr int D = Chosen::D;
    using Stored = typename Chosen::Field;
    using Index = typename Chosen::Index;
    const ComposeArguments<D, Stored, Index> arguments(pair, padding);
    launch("compose_forward", compose_forward_kernel<Chosen::padding, D, Stored, Index>,
           box_grid(arguments.boxes, arguments.samples, pair.second ? 2 : 1), kThreads, stream,
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
