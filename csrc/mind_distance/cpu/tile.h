// One tile of two images: the distances of their patches, and the way back from the distances'
// gradients to the images'.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "core/rows/convert.h"
#include "mind_distance/cpu/plan.h"

namespace plasticine {

// Rows are numbered as in the image. A row of an image begins halo columns before the tile, and a
// row of differences, which patches are made of, radius columns.
template <typename T>
class MindTile {
 public:
  MindTile(const MindPlan<T>& plan, std::int64_t task) : plan_(plan), rows_(select_mind_rows<T>()) {
    std::int64_t index = task % plan.tiles_of_image();
    image_ = task / plan.tiles_of_image();
    for (int axis = 2; axis >= 0; --axis) {
      first_[axis] = index % plan.tiles[axis] * plan.size[axis];
      last_[axis] = std::min(first_[axis] + plan.size[axis], plan.layout.size[axis]);
      index /= plan.tiles[axis];
      const std::int64_t reach = axis == 1 && plan.layout.ndim == 2 ? 0 : plan.radius;
      low_[axis] = std::max<std::int64_t>(first_[axis] - reach, 0);
      high_[axis] = std::min(last_[axis] + reach, plan.layout.size[axis]);
      extent_[axis] = last_[axis] - first_[axis];
    }
    length_ = to_lanes(extent_[2]);
    width_ = to_lanes(extent_[2] + 2 * plan.radius);
    // The last row of differences ends within the slack.
    padded_length_ = to_lanes(extent_[2] + 2 * plan.halo[2] + kMindLanes);
    padded_size_ =
        (extent_[0] + 2 * plan.halo[0]) * (extent_[1] + 2 * plan.halo[1]) * padded_length_;
    line_.assign(static_cast<std::size_t>(width_ + 2 * plan.radius + kMindLanes), T(0));
    other_line_ = line_;
  }

  std::int64_t sample() const { return image_ / plan_.layout.channels; }
  std::int64_t channel() const { return image_ % plan_.layout.channels; }
  std::int64_t image() const { return image_; }

  // Takes the tile of an image with what is around it.
  void load(const Tensor& image, int which) {
    const auto convert = select_convert_rows<T>().load[static_cast<int>(image.dtype)];
    const std::int64_t stride = image.strides[image.ndim - 1];
    const std::int64_t columns = plan_.layout.size[2];
    const std::int64_t start = first_[2] - plan_.halo[2];
    const std::int64_t from = std::max<std::int64_t>(start, 0);
    const std::int64_t to = std::min(start + padded_length_, columns);
    padded_[which].reset(new T[static_cast<std::size_t>(padded_size_)]);
    for_each_padded_row([&](std::int64_t z, std::int64_t y) {
      T* row = padded(padded_, which, z, y);
      const std::int64_t offset =
          MindLayout::row_offset(image, sample(), channel(), within(0, z), within(1, y));
      convert(element(image, offset + from * stride), stride, static_cast<int>(to - from),
              row + (from - start));
      std::fill(row, row + (from - start), row[from - start]);
      std::fill(row + (to - start), row + padded_length_, row[to - start - 1]);
    });
  }

  // The sum over pairs of the sums over the voxels of all distances that this tile's differences
  // make.
  double variance(int which, int dilation) const {
    const std::vector<T> shares = column_shares();
    const Steps around = steps(dilation);
    double total = 0;
    for_each_row([&](std::int64_t z, std::int64_t y) {
      const T* points[kMindPoints];
      find_points<const T>(padded(padded_, which, z, y) + plan_.halo[2], around, points);
      const double share =
          static_cast<double>(plan_.share_of(0, z)) * static_cast<double>(plan_.share_of(1, y));
      total += share *
               rows_.variance(points, plan_.pairs.points, shares.data(), static_cast<int>(length_));
    });
    return total;
  }

  // Finds the distances of an image's patches.
  void find_distances(int which, int dilation) {
    reserve(distances_[which], plan_.pairs.count * pair_stride());
    reserve(plane_, (high_[1] - low_[1]) * width_);
    reserve(box_, (high_[0] - low_[0]) * extent_[1] * width_);
    const int width = static_cast<int>(width_);
    const Steps around = steps(dilation);
    for (int k = 0; k < plan_.pairs.count; ++k) {
      const std::int64_t first = around.offset[plan_.pairs.first[k]];
      const std::int64_t second = around.offset[plan_.pairs.second[k]];
      for (std::int64_t z = low_[0]; z < high_[0]; ++z) {
        for (std::int64_t y = low_[1]; y < high_[1]; ++y) {
          const T* row = padded(padded_, which, z, y) + plan_.halo[2] - plan_.radius;
          rows_.square(row + first, row + second, width, plane_.get() + (y - low_[1]) * width_);
        }
        for (std::int64_t y = first_[1]; y < last_[1]; ++y) {
          combine(1, y, low_[1], high_[1], false, plane_.get(), width_, box_row(z, y));
        }
      }
      for_each_row([&](std::int64_t z, std::int64_t y) {
        combine(0, z, low_[0], high_[0], false, box_row(low_[0], y), extent_[1] * width_,
                line_.data());
        repeat_ends(line_.data());
        rows_.smooth(line_.data(), plan_.weights.data(), plan_.taps(), static_cast<int>(length_),
                     distance_row(which, k, z, y));
      });
    }
  }

  // A row of both images' distances.
  MindRow<T> distances(std::int64_t z, std::int64_t y, const T (&floors)[2], const T* weights) {
    return {plan_.pairs.count,
            static_cast<int>(length_),
            pair_stride(),
            distance_row(0, 0, z, y),
            distance_row(1, 0, z, y),
            floors[0],
            floors[1],
            weights,
            plan_.kind,
            plan_.epsilon};
  }

  void clear_gradient(int which) {
    reserve(gradients_[which], padded_size_);
    std::fill_n(gradients_[which].get(), padded_size_, T(0));
  }

  // Adds what the gradients in the distances' places make of the image's.
  void pull_back(int which, int dilation) {
    const int width = static_cast<int>(width_);
    const Steps around = steps(dilation);
    reserve(pulled_, width_);
    for (int k = 0; k < plan_.pairs.count; ++k) {
      const std::int64_t first = around.offset[plan_.pairs.first[k]];
      const std::int64_t second = around.offset[plan_.pairs.second[k]];
      for_each_row([&](std::int64_t z, std::int64_t y) {
        T* spread = other_line_.data();  // zero but for the tile's columns
        std::copy_n(distance_row(which, k, z, y), extent_[2], spread + 2 * plan_.radius);
        rows_.smooth(spread, plan_.weights.data(), plan_.taps(), width, box_row_of_tile(z, y));
        fold_ends(box_row_of_tile(z, y));
      });
      for (std::int64_t z = low_[0]; z < high_[0]; ++z) {
        for (std::int64_t y = first_[1]; y < last_[1]; ++y) {
          combine(0, z, first_[0], last_[0], true, box_row_of_tile(first_[0], y),
                  extent_[1] * width_, plane_.get() + (y - first_[1]) * width_);
        }
        for (std::int64_t y = low_[1]; y < high_[1]; ++y) {
          combine(1, y, first_[1], last_[1], true, plane_.get(), width_, line_.data());
          const std::int64_t column = plan_.halo[2] - plan_.radius;
          const T* row = padded(padded_, which, z, y) + column;
          T* gradient = padded(gradients_, which, z, y) + column;
          rows_.pull(line_.data(), row + first, row + second, width, pulled_.get(),
                     gradient + first, gradient + second);
        }
      }
    }
  }

  // Adds the gradient of variance() times a number.
  void pull_variance(int which, int dilation, double scale) {
    const std::vector<T> shares = column_shares();
    const Steps around = steps(dilation);
    for_each_row([&](std::int64_t z, std::int64_t y) {
      const T share = static_cast<T>(scale * static_cast<double>(plan_.share_of(0, z)) *
                                     static_cast<double>(plan_.share_of(1, y)));
      for (std::int64_t j = 0; j < length_; ++j) {
        line_[static_cast<std::size_t>(j)] = share * shares[static_cast<std::size_t>(j)];
      }
      const T* points[kMindPoints];
      T* gradients[kMindPoints];
      find_points<const T>(padded(padded_, which, z, y) + plan_.halo[2], around, points);
      find_points(padded(gradients_, which, z, y) + plan_.halo[2], around, gradients);
      rows_.pull_variance(points, plan_.pairs.points, line_.data(), static_cast<int>(length_),
                          gradients);
    });
  }

  // Adds the tile's gradient to the image's, (N * C, z, y, x).
  void add_gradient(int which, T* gradient) {
    const std::int64_t* size = plan_.layout.size;
    const std::int64_t start = first_[2] - plan_.halo[2];
    const std::int64_t end = last_[2] + plan_.halo[2];
    const std::int64_t from = std::max<std::int64_t>(start, 0);
    const std::int64_t to = std::min(end, size[2]);
    for_each_padded_row([&](std::int64_t z, std::int64_t y) {
      T* row = padded(gradients_, which, z, y);
      for (std::int64_t x = start; x < from; ++x) {
        row[from - start] += row[x - start];
      }
      for (std::int64_t x = to; x < end; ++x) {
        row[to - 1 - start] += row[x - start];
      }
      const std::int64_t line = (image_ * size[0] + within(0, z)) * size[1] + within(1, y);
      rows_.add(row + (from - start), static_cast<int>(to - from),
                gradient + line * size[2] + from);
    });
  }

  // How much the voxels of a row count: a row of a mask, times a number; nothing beyond the tile.
  void load_weights(const Tensor& mask, std::int64_t z, std::int64_t y, T scale, T* out) const {
    std::fill_n(out, extent_[2], T(1));
    std::fill(out + extent_[2], out + length_, T(0));
    if (mask) {
      const std::int64_t stride = mask.strides[mask.ndim - 1];
      const std::int64_t offset =
          MindLayout::row_offset(mask, sample(), 0, z, y) + first_[2] * stride;
      select_convert_rows<T>().load[static_cast<int>(mask.dtype)](
          element(mask, offset), stride, static_cast<int>(extent_[2]), out);
    }
    for (std::int64_t j = 0; j < extent_[2]; ++j) {
      out[j] *= scale;
    }
  }

  std::int64_t length() const { return length_; }

  // Calls visit(z, y) for each row.
  template <typename Visit>
  void for_each_row(const Visit& visit) const {
    for (std::int64_t z = first_[0]; z < last_[0]; ++z) {
      for (std::int64_t y = first_[1]; y < last_[1]; ++y) {
        visit(z, y);
      }
    }
  }

 private:
  using Buffer = std::unique_ptr<T[]>;  // not zeroed

  void reserve(Buffer& buffer, std::int64_t count) const {
    if (!buffer) {
      buffer.reset(new T[static_cast<std::size_t>(count)]);
    }
  }

  std::int64_t within(int axis, std::int64_t at) const {
    return std::clamp<std::int64_t>(at, 0, plan_.layout.size[axis] - 1);
  }

  std::int64_t pair_stride() const { return extent_[0] * extent_[1] * length_; }

  T* padded(const Buffer (&buffers)[2], int which, std::int64_t z, std::int64_t y) const {
    const std::int64_t row = (z - first_[0] + plan_.halo[0]) * (extent_[1] + 2 * plan_.halo[1]) +
                             y - first_[1] + plan_.halo[1];
    return buffers[which].get() + row * padded_length_;
  }

  T* box_row(std::int64_t z, std::int64_t y) const {
    return box_.get() + ((z - low_[0]) * extent_[1] + y - first_[1]) * width_;
  }

  T* box_row_of_tile(std::int64_t z, std::int64_t y) const {
    return box_.get() + ((z - first_[0]) * extent_[1] + y - first_[1]) * width_;
  }

  T* distance_row(int which, int k, std::int64_t z, std::int64_t y) const {
    return distances_[which].get() + k * pair_stride() +
           ((z - first_[0]) * extent_[1] + y - first_[1]) * length_;
  }

  template <typename Visit>
  void for_each_padded_row(const Visit& visit) const {
    for (std::int64_t z = first_[0] - plan_.halo[0]; z < last_[0] + plan_.halo[0]; ++z) {
      for (std::int64_t y = first_[1] - plan_.halo[1]; y < last_[1] + plan_.halo[1]; ++y) {
        visit(z, y);
      }
    }
  }

  // How far the points are from the centre in the rows of the images.
  struct Steps {
    std::int64_t offset[kMindPoints];
  };
  Steps steps(int dilation) const {
    Steps steps{};
    for (int point = 0; point < plan_.pairs.points; ++point) {
      const int* step = plan_.pairs.step[point];
      const std::int64_t rows = step[0] * (extent_[1] + 2 * plan_.halo[1]) + step[1];
      steps.offset[point] = dilation * (rows * padded_length_ + step[2]);
    }
    return steps;
  }

  template <typename Value>
  void find_points(Value* centre, const Steps& steps, Value* (&points)[kMindPoints]) const {
    for (int point = 0; point < plan_.pairs.points; ++point) {
      points[point] = centre + steps.offset[point];
    }
  }

  // The rows of [low, high), the first of which is at `rows` and the others follow in steps of
  // `stride`, as the patch at `place` of an axis weighs them; or as their patches weigh the place.
  void combine(int axis, std::int64_t place, std::int64_t low, std::int64_t high, bool adjoint,
               const T* rows, std::int64_t stride, T* out) const {
    const std::int64_t from = std::max(place - plan_.radius, low);
    const std::int64_t to = std::min(place + plan_.radius + 1, high);
    const T* weights = adjoint ? plan_.patches_of(axis, place) : plan_.patch(axis, place);
    rows_.combine(rows + (from - low) * stride, stride, weights + (from - place + plan_.radius),
                  static_cast<int>(to - from), static_cast<int>(width_), out);
  }

  // The columns of a row of differences that are the image's first and last.
  std::int64_t first_column() const { return std::max<std::int64_t>(plan_.radius - first_[2], 0); }
  std::int64_t last_column() const {
    const std::int64_t end = extent_[2] + 2 * plan_.radius;
    return std::min(plan_.layout.size[2] - first_[2] + plan_.radius, end) - 1;
  }

  void repeat_ends(T* row) const {
    std::fill(row, row + first_column(), row[first_column()]);
    std::fill(row + last_column() + 1, row + width_, row[last_column()]);
  }

  void fold_ends(T* row) const {
    const std::int64_t first = first_column();
    const std::int64_t last = last_column();
    const std::int64_t end = extent_[2] + 2 * plan_.radius;
    row[first] = std::accumulate(row, row + first, row[first]);
    row[last] = std::accumulate(row + last + 1, row + end, row[last]);
    std::fill(row, row + first, T(0));
    std::fill(row + last + 1, row + width_, T(0));
  }

  std::vector<T> column_shares() const {
    std::vector<T> shares(static_cast<std::size_t>(length_));
    for (std::int64_t j = 0; j < extent_[2]; ++j) {
      shares[static_cast<std::size_t>(j)] = plan_.share_of(2, first_[2] + j);
    }
    return shares;
  }

  const MindPlan<T>& plan_;
  const MindRows<T>& rows_;
  std::int64_t image_;
  std::int64_t first_[3];  // voxels of the tile
  std::int64_t last_[3];
  std::int64_t low_[3];  // and of its patches
  std::int64_t high_[3];
  std::int64_t extent_[3];
  std::int64_t length_;         // of a row of distances
  std::int64_t width_;          // of a row of differences
  std::int64_t padded_length_;  // of a row of the images
  std::int64_t padded_size_;
  Buffer padded_[2];
  Buffer distances_[2];
  Buffer gradients_[2];
  Buffer plane_;
  Buffer box_;
  Buffer pulled_;
  std::vector<T> line_;
  std::vector<T> other_line_;
};

}  // namespace plasticine
