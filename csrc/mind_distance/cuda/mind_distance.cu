// The distance of MIND descriptors on the GPU: some planes of an image at a time, whose distances
// for all pairs are held in the scratch. Sums are float64's, in a fixed order.
#include "mind_distance/mind_distance.h"

#include <algorithm>
#include <limits>

#include "core/cuda/dispatch.h"
#include "mind_distance/cuda/kernels.cuh"

namespace plasticine::cuda {
namespace {

constexpr unsigned kMostBlocks = 2048;  // whose sums are held
constexpr unsigned kMostBoxes = 16;     // along x
constexpr std::int64_t kSums = 2 * kMostBlocks;

// How a sample's voxels count, and where its sums are.
template <typename T>
struct MindSample {
  const T* mask;  // or null
  std::int64_t stride[3];
  const double* total;

  __device__ __forceinline__ T weight(const std::int64_t (&at)[3]) const {
    return mask == nullptr ? T(1)
                           : read(mask + at[0] * stride[0] + at[1] * stride[1] + at[2] * stride[2]);
  }
};

template <typename T>
__global__ void __launch_bounds__(kMindThreads, 2)
    mind_total_kernel(const __grid_constant__ MindImage<T> shape,
                      const __grid_constant__ MindSample<T> sample, double* __restrict__ partial) {
  const MindPlanes all{0, shape.size[0]};
  double total = 0;
  shape.for_each(all, [&](const std::int64_t (&at)[3], std::int64_t) {
    total += static_cast<double>(sample.weight(at));
  });
  total = merge_block<kMindThreads>(total, MindSum());
  if (threadIdx.x == 0) {
    partial[mind_block()] = total;
  }
}

// What the voxels of some planes add to the distance: partial[block]. Backward, the gradients take
// the distances' places, and partial[2 * block] and the next are those of the floors; `own` of the
// planes are summed over, for the others are another's.
template <bool backward, typename T>
__global__ void __launch_bounds__(kMindThreads, 2)
    mind_compare_kernel(const __grid_constant__ MindImage<T> shape, const MindPlanes planes,
                        const MindPlanes own, const __grid_constant__ MindSample<T> sample,
                        MindVoxel<T> voxel, const double* __restrict__ variances, double share,
                        T least, const T* __restrict__ grad, double terms,
                        double* __restrict__ partial) {
  voxel.floor_x = mind_floor(variances[0], share, least);
  voxel.floor_y = mind_floor(variances[1], share, least);
  double scale = 1;
  if constexpr (backward) {
    scale = *sample.total > 0 ? static_cast<double>(*grad) / (*sample.total * terms) : 0.0;
  }
  double sums[2] = {};
  shape.for_each(planes, [&](const std::int64_t (&at)[3], std::int64_t index) {
    const T weight = sample.weight(at);
    if constexpr (backward) {
      double floors[2] = {};
      voxel.differentiate(index, static_cast<T>(scale) * weight, floors);
      if (at[0] >= own.first && at[0] < own.last) {
        sums[0] += floors[0];
        sums[1] += floors[1];
      }
    } else {
      sums[0] += static_cast<double>(voxel.compare(index) * weight);
    }
  });
  for (int i = 0; i < (backward ? 2 : 1); ++i) {
    const double total = merge_block<kMindThreads>(sums[i], MindSum());
    if (threadIdx.x == 0) {
      partial[(backward ? 2 : 1) * mind_block() + i] = total;
    }
  }
}

template <typename T>
__global__ void mind_result_kernel(std::int64_t samples, std::int64_t channels,
                                   const double* __restrict__ sums, std::int64_t of_image,
                                   double terms, T* __restrict__ out) {
  const std::int64_t sample = static_cast<std::int64_t>(blockIdx.x) * kMindThreads + threadIdx.x;
  if (sample >= samples) {
    return;
  }
  double distance = 0;
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    distance += sums[(sample * channels + channel) * of_image];
  }
  const double total = channels == 0 ? 0 : sums[sample * channels * of_image + 1];
  out[sample] = total > 0 ? static_cast<T>(distance / (total * terms)) : T(0);
}

template <typename Stored, typename T>
__global__ void __launch_bounds__(kMindThreads, 2)
    mind_round_kernel(const T* __restrict__ values, std::int64_t count, Stored* __restrict__ out) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kMindThreads + threadIdx.x;
  if (index < count) {
    out[index] = store<Stored>(values[index]);
  }
}

// A call on one GPU, its scratch laid out: for each image the sums, which are its distance, its
// sample's voxels, and for each dilation the variances of x and y and then the floors' gradients;
// sums of blocks; weights; gradients of half images; planes of all pairs, three times.
template <typename Stored>
class MindCall {
 public:
  using T = accumulator_t<Stored>;

  MindCall(const Tensor& x, const Tensor& y, const Tensor& mask, const Tensor& scratch,
           const std::vector<int>& dilations, double sigma, MindKind kind, double epsilon,
           std::uintptr_t stream)
      : layout_(x),
        pairs_(layout_.ndim),
        images_{x, y},
        mask_(mask),
        dilations_(dilations),
        radius_(mind_radius(sigma)),
        kind_(kind),
        epsilon_(static_cast<T>(epsilon)),
        stream_(stream) {
    double* at = scratch.as<double>();
    double* const end = at + scratch.shape[0];
    sums_ = at;
    at += layout_.images() * of_image();
    partial_ = at;
    at += kSums;
    weights_ = reinterpret_cast<T*>(at);
    at += 2 * radius_ + 1;
    T* values = reinterpret_cast<T*>(at);
    if (sizeof(Stored) == 2) {
      for (T*& half : half_gradients_) {
        half = values;
        values += layout_.images() * layout_.voxels();
      }
    }
    const std::int64_t of_plane = 3 * pairs_.count * layout_.size[1] * layout_.size[2];
    planes_ = std::min(layout_.size[0],
                       (reinterpret_cast<T*>(end) - values) / std::max<std::int64_t>(of_plane, 1));
    for (T*& buffer : buffers_) {
      buffer = values;
      values += planes_ * of_plane / 3;
    }
    double total = 0;
    for (int step = -radius_; step <= radius_; ++step) {
      total += std::exp(-0.5 * (step / sigma) * (step / sigma));
    }
    launch("mind_distance", mind_weights_kernel<T>, 1, 1, stream_, radius_, sigma, total, weights_);
  }

  bool is_empty() const { return layout_.images() * layout_.voxels() == 0; }

  void forward(const Tensor& out) {
    for (std::int64_t image = 0; image < layout_.images() && !is_empty(); ++image) {
      find_totals(image);
      for (int i = 0; i < count(); ++i) {
        const std::int64_t step = planes_ - (planes_ < layout_.size[0] ? 2 * radius_ : 0);
        for (std::int64_t z = 0; z < layout_.size[0]; z += step) {
          const MindPlanes own = cut(z, z + step);
          find_distances(image, i, own);
          compare<false>(image, i, own, own, nullptr);
          add_up(few_boxes(own), 1, 0, sums_of(image), i > 0 || z > 0);
        }
      }
    }
    if (layout_.samples > 0) {
      launch("mind_distance", mind_result_kernel<T>, grid_of(layout_.samples), kMindThreads,
             stream_, layout_.samples, is_empty() ? 0 : layout_.channels, sums_, of_image(),
             terms(), out.as<T>());
    }
  }

  void backward(const Tensor& grad, const Tensor& grad_x, const Tensor& grad_y) {
    T* gradients[2] = {};
    const Tensor results[2] = {grad_x, grad_y};
    for (int which = 0; which < 2; ++which) {
      if (results[which]) {
        gradients[which] =
            sizeof(Stored) == 2 ? half_gradients_[which] : static_cast<T*>(results[which].data);
      }
    }
    for (std::int64_t image = 0; image < layout_.images(); ++image) {
      differentiate(image, grad.as<const T>() + image / layout_.channels * grad.strides[0],
                    gradients);
    }
    const std::int64_t voxels = layout_.images() * layout_.voxels();
    for (int which = 0; which < 2 && sizeof(Stored) == 2; ++which) {
      if (results[which]) {
        launch("mind_distance", mind_round_kernel<Stored, T>, grid_of(voxels), kMindThreads,
               stream_, gradients[which], voxels, results[which].template as<Stored>());
      }
    }
  }

 private:
  static constexpr T kLeast = std::numeric_limits<T>::min();

  int count() const { return static_cast<int>(dilations_.size()); }
  std::int64_t of_image() const { return 4 * count() + 2; }
  double* sums_of(std::int64_t image) const { return sums_ + image * of_image(); }
  double* variances(std::int64_t image, int i) const { return sums_of(image) + 2 + 4 * i; }
  double* floors(std::int64_t image, int i) const { return variances(image, i) + 2; }
  double terms() const { return static_cast<double>(layout_.channels) * pairs_.count * count(); }
  double share() const {
    return 1 / (static_cast<double>(layout_.voxels()) * static_cast<double>(pairs_.count));
  }
  std::int64_t plane() const { return layout_.size[1] * layout_.size[2]; }

  MindPlanes cut(std::int64_t first, std::int64_t last) const {
    return {std::max<std::int64_t>(first, 0), std::min(last, layout_.size[0])};
  }
  MindPlanes wider(const MindPlanes& planes, int by) const {
    return cut(planes.first - by, planes.last + by);
  }

  static unsigned grid_of(std::int64_t items) {
    return static_cast<unsigned>(divide_up(items, kMindThreads));
  }
  // Of boxes of voxels, for so many pairs.
  dim3 boxes(const MindPlanes& planes, int pairs) const {
    return dim3(static_cast<unsigned>(divide_up(layout_.size[2], kBoxLength)),
                grid_extent(divide_up(planes.count() * layout_.size[1], kBoxRows)),
                static_cast<unsigned>(pairs));
  }
  // The same for sums, of which few are held.
  dim3 few_boxes(const MindPlanes& planes) const {
    const dim3 all = boxes(planes, 1);
    return dim3(std::min(all.x, kMostBoxes), std::min(all.y, kMostBlocks / kMostBoxes));
  }

  const Stored* data(int which, std::int64_t image) const {
    return images_[which].template as<const Stored>() +
           MindLayout::row_offset(images_[which], image / layout_.channels,
                                  image % layout_.channels, 0, 0);
  }

  static void strides_of(const Tensor& tensor, std::int64_t (&strides)[3]) {
    strides[0] = tensor.strides[2];
    strides[1] = tensor.ndim == 5 ? tensor.strides[3] : 0;
    strides[2] = tensor.strides[tensor.ndim - 1];
  }

  MindImage<T> shape(int which, int i) const {
    MindImage<T> shape{pairs_, dilations_[static_cast<std::size_t>(i)], radius_, weights_, {}, {}};
    std::copy_n(layout_.size, 3, shape.size);
    strides_of(images_[which], shape.stride);
    return shape;
  }

  MindSample<T> sample(std::int64_t image) const {
    MindSample<T> sample{nullptr, {}, sums_of(image) + 1};
    if (mask_) {
      sample.mask = mask_.template as<const T>() + image / layout_.channels * mask_.strides[0];
      strides_of(mask_, sample.stride);
    }
    return sample;
  }

  void add_up(dim3 blocks, int stride, int offset, double* out, bool add) const {
    launch("mind_distance", add ? mind_sum_kernel<true> : mind_sum_kernel<false>, 1, kMindThreads,
           stream_, partial_ + offset, static_cast<int>(blocks.x * blocks.y), stride, out);
  }

  void find_totals(std::int64_t image) const {
    const MindPlanes all = cut(0, layout_.size[0]);
    const dim3 grid = few_boxes(all);
    launch("mind_distance", mind_total_kernel<T>, grid, kMindThreads, stream_, shape(0, 0),
           sample(image), partial_);
    add_up(grid, 1, 0, sums_of(image) + 1, false);
    for (int i = 0; i < count(); ++i) {
      for (int which = 0; which < 2; ++which) {
        launch("mind_distance", mind_variance_kernel<Stored, T>, grid, kMindThreads, stream_,
               shape(which, i), data(which, image), partial_);
        add_up(grid, 1, 0, variances(image, i) + which, false);
      }
    }
  }

  // Of x in the first and of y in the second buffer.
  void find_distances(std::int64_t image, int i, const MindPlanes& planes) const {
    const MindPlanes wide = wider(planes, radius_);
    for (int which = 0; which < 2; ++which) {
      launch("mind_distance", mind_across_kernel<Stored, T>, boxes(wide, pairs_.count),
             kMindThreads, stream_, shape(which, i), wide, data(which, image), buffers_[2]);
      launch("mind_distance", mind_smooth_kernel<false, T>, boxes(planes, pairs_.count),
             kMindThreads, stream_, shape(which, i), wide, planes, buffers_[2], buffers_[which]);
    }
  }

  template <bool backward>
  void compare(std::int64_t image, int i, const MindPlanes& planes, const MindPlanes& own,
               const T* grad) const {
    const MindVoxel<T> voxel{
        pairs_.count, planes.count() * plane(), buffers_[0], buffers_[1], T(0), T(0), kind_,
        epsilon_};
    launch("mind_distance", mind_compare_kernel<backward, T>, few_boxes(planes), kMindThreads,
           stream_, shape(0, i), planes, own, sample(image), voxel, variances(image, i), share(),
           kLeast, grad, terms(), partial_);
  }

  void differentiate(std::int64_t image, const T* grad, T* const (&gradients)[2]) const {
    find_totals(image);
    for (int i = 0; i < count(); ++i) {
      const int dilation = dilations_[static_cast<std::size_t>(i)];
      const int halo = 2 * (dilation + 2 * radius_);
      const std::int64_t step = planes_ - (planes_ < layout_.size[0] ? halo : 0);
      for (std::int64_t z = 0; z < layout_.size[0]; z += step) {
        const MindPlanes own = cut(z, z + step);
        const MindPlanes pulled = wider(own, dilation);
        const MindPlanes compared = wider(own, dilation + radius_);
        find_distances(image, i, compared);
        compare<true>(image, i, compared, own, grad);
        for (int which = 0; which < 2; ++which) {
          add_up(few_boxes(compared), 2, which, floors(image, i) + which, z > 0);
          if (gradients[which] != nullptr) {
            pull_back(image, i, which, compared, pulled, own,
                      gradients[which] + image * layout_.voxels());
          }
        }
      }
    }
    for (int which = 0; which < 2; ++which) {
      for (int i = 0; i < count() && gradients[which] != nullptr; ++i) {
        launch("mind_distance", mind_gather_floor_kernel<Stored, T>,
               boxes(cut(0, layout_.size[0]), 1), kMindThreads, stream_, shape(which, i),
               data(which, image), floors(image, i) + which, variances(image, i) + which, share(),
               kLeast, gradients[which] + image * layout_.voxels());
      }
    }
  }

  void pull_back(std::int64_t image, int i, int which, const MindPlanes& compared,
                 const MindPlanes& pulled, const MindPlanes& own, T* gradient) const {
    const dim3 grid = boxes(pulled, pairs_.count);
    launch("mind_distance", mind_smooth_kernel<true, T>, grid, kMindThreads, stream_,
           shape(which, i), compared, pulled, buffers_[which], buffers_[2]);
    launch("mind_distance", mind_pull_kernel<Stored, T>, grid, kMindThreads, stream_,
           shape(which, i), pulled, data(which, image), buffers_[2], buffers_[which]);
    launch("mind_distance", i > 0 ? mind_gather_kernel<true, T> : mind_gather_kernel<false, T>,
           boxes(own, 1), kMindThreads, stream_, shape(which, i), pulled, own, buffers_[which],
           gradient);
  }

  const MindLayout layout_;
  const MindPairs pairs_;
  const Tensor images_[2];
  const Tensor mask_;
  const std::vector<int> dilations_;
  const int radius_;
  const MindKind kind_;
  const T epsilon_;
  const std::uintptr_t stream_;
  double* sums_;
  double* partial_;
  T* weights_;
  T* half_gradients_[2] = {};
  T* buffers_[3];
  std::int64_t planes_;
};

}  // namespace

void mind_distance_forward(const Tensor& x, const Tensor& y, const Tensor& mask, const Tensor& out,
                           const Tensor& scratch, const std::vector<int>& dilations, double sigma,
                           MindKind kind, double epsilon, int device, std::uintptr_t stream) {
  const DeviceGuard guard(device);
  dispatch_type(x.dtype, [&](auto tag) {
    MindCall<typename decltype(tag)::type>(x, y, mask, scratch, dilations, sigma, kind, epsilon,
                                           stream)
        .forward(out);
  });
}

void mind_distance_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                            const Tensor& mask, const Tensor& grad_x, const Tensor& grad_y,
                            const Tensor& scratch, const std::vector<int>& dilations, double sigma,
                            MindKind kind, double epsilon, int device, std::uintptr_t stream) {
  const DeviceGuard guard(device);
  if (MindLayout(x).images() * MindLayout(x).voxels() == 0) {
    return;
  }
  dispatch_type(x.dtype, [&](auto tag) {
    MindCall<typename decltype(tag)::type>(x, y, mask, scratch, dilations, sigma, kind, epsilon,
                                           stream)
        .backward(grad, grad_x, grad_y);
  });
}

}  // namespace plasticine::cuda
