// A displacement as kernels with stencils read it.
#pragma once

#include "core/cuda_launch.h"
#include "core/half.h"
#include "jacobian/math/jacobian.h"

namespace plasticine::cuda {

// Sizes and strides of a (N, D, *spatial) field. Offsets within a component are of type Index;
// samples and components are always found with 64 bits.
template <int D, typename T, typename Index>
struct FieldLayout {
  std::int64_t samples = 0;
  std::int64_t sample_stride = 0;
  std::int64_t component_stride = 0;
  Index size[D] = {};
  Index stride[D] = {};
  Index voxels = 1;
  // Component i is scaled by 1 / spacing[i]: det(I + du_i / (h_j dx_j)) is the same with u_i / h_i
  // in place of u_i / h_j, the two matrices being similar.
  T scale[D] = {};

  FieldLayout(const Tensor& field, const double* spacing)
      : samples(field.shape[0]),
        sample_stride(field.strides[0]),
        component_stride(field.strides[1]) {
    for (int axis = 0; axis < D; ++axis) {
      size[axis] = static_cast<Index>(field.shape[2 + axis]);
      stride[axis] = static_cast<Index>(field.strides[2 + axis]);
      voxels *= size[axis];
      scale[axis] = T(1) / static_cast<T>(spacing[axis]);
    }
  }
};

// Consecutive values that one instruction loads or stores; the address must be so aligned.
template <int V, typename Stored>
struct alignas(V * sizeof(Stored)) Pack {
  Stored value[V];
};

template <int V, typename Stored, typename T>
__device__ __forceinline__ void load_pack(const Stored* source, T (&target)[V]) {
  const Pack<V, Stored> pack = *reinterpret_cast<const Pack<V, Stored>*>(source);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    target[k] = load(pack.value[k]);
  }
}

template <int V, typename Stored, typename T>
__device__ __forceinline__ void store_pack(Stored* target, const T (&source)[V]) {
  Pack<V, Stored> pack;
#pragma unroll
  for (int k = 0; k < V; ++k) {
    pack.value[k] = store<Stored>(source[k]);
  }
  if constexpr (sizeof(pack) == 16 || (sizeof(pack) == 8 && V > 1)) {
    // Through a word of CUDA's own: left to itself, the compiler stores value by value.
    using Word = std::conditional_t<sizeof(pack) == 16, uint4, uint2>;
    Word word;
    __builtin_memcpy(&word, &pack, sizeof word);
    __stwb(reinterpret_cast<Word*>(target), word);
  } else {
    *target = pack.value[0];
  }
}

// What is known at compile time of the scheme.
enum class Differences { central, one_sided, any };

// The difference along an axis of three neighbours; at an end the missing one repeats the voxel's
// own value.
template <Differences differences, typename T, typename Index>
__device__ __forceinline__ T difference_of(Scheme scheme, Index index, Index last, T before, T here,
                                           T after) {
  if (differences == Differences::central ||
      (differences == Differences::any && scheme == Scheme::central)) {
    const T weight = index > 0 && index < last ? T(0.5) : T(1);
    return weight * (after - before);
  }
  const bool next = scheme == Scheme::forward ? index < last : index == 0;
  return (next ? after : here) - (next ? here : before);
}

// What an offset within a component, or a count of its voxels in whole blocks, can come to.
inline std::int64_t field_reach(const Tensor& field) {
  constexpr std::int64_t kMargin = std::int64_t{1} << 20;
  return std::max(channel_reach(field), voxel_count(field)) + kMargin;
}

}  // namespace plasticine::cuda
