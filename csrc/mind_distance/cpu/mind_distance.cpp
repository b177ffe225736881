#include "mind_distance/mind_distance.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "core/cpu/huge_pages.h"
#include "core/cpu/parallel.h"
#include "mind_distance/cpu/tile.h"

namespace plasticine {

namespace {

// What the tiles of an image share: the least variances, and how much its voxels count together.
template <typename T>
class MindCall {
 public:
  MindCall(const MindPlan<T>& plan, const Tensor& x, const Tensor& y, const Tensor& mask,
           int threads)
      : plan_(plan), x_(x), y_(y), mask_(mask), threads_(threads) {
    const std::int64_t of_tile = 2 * count() + 1;
    std::vector<double> found(static_cast<std::size_t>(plan.tasks() * of_tile));
    parallel_for(plan.tasks(), 1, threads, [&](std::int64_t task) {
      MindTile<T> tile = load(task);
      double* sums = found.data() + task * of_tile;
      for (int i = 0; i < count(); ++i) {
        sums[2 * i] = tile.variance(0, dilation(i));
        sums[2 * i + 1] = tile.variance(1, dilation(i));
      }
      std::vector<T> weights(static_cast<std::size_t>(tile.length()));
      tile.for_each_row([&](std::int64_t z, std::int64_t y) {
        tile.load_weights(mask_, z, y, T(1), weights.data());
        for (const T weight : weights) {
          sums[2 * count()] += static_cast<double>(weight);
        }
      });
    });
    sums_ = sum_tiles(found, of_tile);
  }

  // Of each image, in order of the tiles.
  std::vector<double> sum_tiles(const std::vector<double>& values, std::int64_t of_tile) const {
    std::vector<double> sums(static_cast<std::size_t>(plan_.layout.images() * of_tile));
    for (std::int64_t task = 0; task < plan_.tasks(); ++task) {
      for (std::int64_t i = 0; i < of_tile; ++i) {
        sums[static_cast<std::size_t>(task / plan_.tiles_of_image() * of_tile + i)] +=
            values[static_cast<std::size_t>(task * of_tile + i)];
      }
    }
    return sums;
  }

  MindTile<T> load(std::int64_t task) const {
    MindTile<T> tile(plan_, task);
    tile.load(x_, 0);
    tile.load(y_, 1);
    return tile;
  }

  int count() const { return static_cast<int>(plan_.dilations.size()); }
  int dilation(int i) const { return plan_.dilations[static_cast<std::size_t>(i)]; }

  // Of one image, x or y, and one dilation.
  double raw_floor(std::int64_t image, int i, int which) const {
    return kMindNoise * plan_.share() * sum(image, 2 * i + which);
  }
  bool is_least(double floor) const {
    return floor < static_cast<double>(std::numeric_limits<T>::min());
  }
  void find_floors(std::int64_t image, int i, T (&floors)[2]) const {
    for (int which = 0; which < 2; ++which) {
      const double floor = raw_floor(image, i, which);
      floors[which] = is_least(floor) ? std::numeric_limits<T>::min() : static_cast<T>(floor);
    }
  }

  // By what the sum over a sample's voxels, pairs, dilations and channels becomes its mean.
  double scale(std::int64_t sample) const {
    const double total = sum(sample * plan_.layout.channels, 2 * count());
    const int terms = plan_.pairs.count * count();
    return total > 0 ? 1 / (total * terms * static_cast<double>(plan_.layout.channels)) : 0;
  }

  double distance(std::int64_t task) const {
    MindTile<T> tile = load(task);
    std::vector<T> weights(static_cast<std::size_t>(tile.length()));
    double total = 0;
    for (int i = 0; i < count(); ++i) {
      T floors[2];
      find_floors(tile.image(), i, floors);
      tile.find_distances(0, dilation(i));
      tile.find_distances(1, dilation(i));
      tile.for_each_row([&](std::int64_t z, std::int64_t y) {
        tile.load_weights(mask_, z, y, T(1), weights.data());
        total += select_mind_rows<T>().compare(tile.distances(z, y, floors, weights.data()));
      });
    }
    return total;
  }

  // Adds a tile's gradients to those of the images, of the second where there is one; and what the
  // least variances have of it to floors, 2 for each dilation.
  void differentiate(std::int64_t task, double grad, T* grad_x, T* grad_y, double* floors_grad) {
    MindTile<T> tile = load(task);
    std::vector<T> weights(static_cast<std::size_t>(tile.length()));
    T* const gradients[2] = {grad_x, grad_y};
    const int images = grad_y == nullptr ? 1 : 2;
    const T scaled = static_cast<T>(grad * scale(tile.sample()));
    for (int which = 0; which < images; ++which) {
      tile.clear_gradient(which);
    }
    for (int i = 0; i < count(); ++i) {
      T floors[2];
      find_floors(tile.image(), i, floors);
      tile.find_distances(0, dilation(i));
      tile.find_distances(1, dilation(i));
      tile.for_each_row([&](std::int64_t z, std::int64_t y) {
        tile.load_weights(mask_, z, y, scaled, weights.data());
        select_mind_rows<T>().compare_backward(tile.distances(z, y, floors, weights.data()),
                                               images == 2, floors_grad + 2 * i);
      });
      for (int which = 0; which < images; ++which) {
        tile.pull_back(which, dilation(i));
      }
    }
    for (int which = 0; which < images; ++which) {
      tile.add_gradient(which, gradients[which]);
    }
  }

  // Adds what the least variances, which are shares of the images' means, make of their gradients.
  void differentiate_floors(std::int64_t task, T* grad_x, T* grad_y,
                            const std::vector<double>& floors_grad) {
    T* const gradients[2] = {grad_x, grad_y};
    for (int which = 0; which < 2; ++which) {
      const double* of_image =
          floors_grad.data() + task / plan_.tiles_of_image() * 2 * count() + which;
      const auto is_zero = [&](int i) {
        return of_image[2 * i] == 0 || is_least(raw_floor(task / plan_.tiles_of_image(), i, which));
      };
      bool has_any = false;
      for (int i = 0; i < count(); ++i) {
        has_any = has_any || !is_zero(i);
      }
      if (gradients[which] == nullptr || !has_any) {
        continue;
      }
      MindTile<T> tile(plan_, task);
      tile.load(which == 0 ? x_ : y_, which);
      tile.clear_gradient(which);
      for (int i = 0; i < count(); ++i) {
        if (!is_zero(i)) {
          tile.pull_variance(which, dilation(i), of_image[2 * i] * kMindNoise * plan_.share());
        }
      }
      tile.add_gradient(which, gradients[which]);
    }
  }

 private:
  double sum(std::int64_t image, int i) const {
    return sums_[static_cast<std::size_t>(image * (2 * count() + 1) + i)];
  }

  const MindPlan<T>& plan_;
  const Tensor x_;
  const Tensor y_;
  const Tensor mask_;
  const int threads_;
  std::vector<double> sums_;
};

double read(const Tensor& values, std::int64_t i) {
  const void* value = element(values, i * values.strides[0]);
  return values.dtype == DType::float64 ? *static_cast<const double*>(value)
                                        : static_cast<double>(*static_cast<const float*>(value));
}

template <typename T>
void forward(const MindPlan<T>& plan, const Tensor& x, const Tensor& y, const Tensor& mask,
             const Tensor& out, int threads) {
  std::fill_n(out.as<T>(), plan.layout.samples, T(0));
  if (plan.tasks() == 0) {
    return;
  }
  const MindCall<T> call(plan, x, y, mask, threads);
  std::vector<double> distances(static_cast<std::size_t>(plan.tasks()));
  parallel_for(plan.tasks(), 1, threads, [&](std::int64_t task) {
    distances[static_cast<std::size_t>(task)] = call.distance(task);
  });
  const std::vector<double> sums = call.sum_tiles(distances, 1);
  for (std::int64_t sample = 0; sample < plan.layout.samples; ++sample) {
    const double* of_sample = sums.data() + sample * plan.layout.channels;
    double total = 0;
    for (std::int64_t channel = 0; channel < plan.layout.channels; ++channel) {
      total += of_sample[channel];
    }
    const double scale = call.scale(sample);
    out.as<T>()[sample] = scale == 0 ? T(0) : static_cast<T>(total * scale);
  }
}

// A gradient as sums are taken in it: the result itself, or memory that is rounded to it.
template <typename T>
class MindGradient {
 public:
  explicit MindGradient(const Tensor& result, std::int64_t count)
      : result_(result), count_(result ? count : 0) {
    if (!result) {
      return;
    }
    prefer_huge_pages(result);
    if (element_size(result.dtype) == static_cast<std::int64_t>(sizeof(T))) {
      sums_ = result.as<T>();
      std::fill_n(sums_, count, T(0));
    } else {
      own_.resize(static_cast<std::size_t>(count));
      sums_ = own_.data();
    }
  }

  T* sums() const { return sums_; }

  void round() const {
    constexpr std::int64_t kPart = 1 << 16;
    for (std::int64_t start = 0; start < count_ && !own_.empty(); start += kPart) {
      select_convert_rows<T>().store[static_cast<int>(result_.dtype)](
          sums_ + start, static_cast<int>(std::min(kPart, count_ - start)),
          mutable_element(result_, start));
    }
  }

 private:
  const Tensor result_;
  const std::int64_t count_;
  std::vector<T> own_;
  T* sums_ = nullptr;
};

template <typename T>
void backward(const MindPlan<T>& plan, const Tensor& grad, const Tensor& x, const Tensor& y,
              const Tensor& mask, const Tensor& grad_x, const Tensor& grad_y, int threads) {
  if (plan.tasks() == 0) {
    return;
  }
  const std::int64_t voxels = plan.layout.images() * plan.layout.voxels();
  const MindGradient<T> of_x(grad_x, voxels);
  const MindGradient<T> of_y(grad_y, voxels);
  MindCall<T> call(plan, x, y, mask, threads);
  const std::int64_t of_tile = 2 * call.count();
  std::vector<double> floors(static_cast<std::size_t>(plan.tasks() * of_tile));
  const auto parallel = [&](std::int64_t tasks, const auto& work) {
    parallel_for(tasks, 1, threads, work);
  };
  plan.for_each_apart(parallel, [&](std::int64_t task) {
    const std::int64_t sample = task / plan.tiles_of_image() / plan.layout.channels;
    if (call.scale(sample) != 0) {
      call.differentiate(task, read(grad, sample), of_x.sums(), of_y.sums(),
                         floors.data() + task * of_tile);
    }
  });
  const std::vector<double> of_image = call.sum_tiles(floors, of_tile);
  plan.for_each_apart(parallel, [&](std::int64_t task) {
    call.differentiate_floors(task, of_x.sums(), of_y.sums(), of_image);
  });
  of_x.round();
  of_y.round();
}

}  // namespace

void mind_distance_forward(const Tensor& x, const Tensor& y, const Tensor& mask, const Tensor& out,
                           const Tensor& /*scratch*/, const std::vector<int>& dilations,
                           double sigma, MindKind kind, double epsilon, int threads) {
  with_accumulator(x.dtype, [&](auto zero) {
    const MindPlan<decltype(zero)> plan(x, dilations, sigma, kind, epsilon);
    forward(plan, x, y, mask, out, threads);
  });
}

void mind_distance_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                            const Tensor& mask, const Tensor& grad_x, const Tensor& grad_y,
                            const Tensor& /*scratch*/, const std::vector<int>& dilations,
                            double sigma, MindKind kind, double epsilon, int threads) {
  with_accumulator(x.dtype, [&](auto zero) {
    const MindPlan<decltype(zero)> plan(x, dilations, sigma, kind, epsilon);
    if (grad_x) {
      backward(plan, grad, x, y, mask, grad_x, grad_y, threads);
    } else {  // what is far from one image is as far from the other
      backward(plan, grad, y, x, mask, grad_y, grad_x, threads);
    }
  });
}

}  // namespace plasticine
