#include "smoothness/smoothness.h"

#include <vector>

#include "core/cpu/huge_pages.h"
#include "core/cpu/kept_rows.h"
#include "core/cpu/parallel.h"
#include "smoothness/cpu/stencil.h"

namespace plasticine {

namespace {

// Of a tile, whose components are gone through one after the other.
constexpr std::int64_t kTileRows = 64;

// One component of a tile, and what is computed of it.
template <typename T>
class Energy {
 public:
  Energy(const Tensor& field, int order, Scheme scheme, const double* spacing)
      : field_(field),
        order_(order),
        scheme_(scheme),
        shape_(field),
        tiles_(shape_.size[2] > 0 ? Tile::count(shape_, kTileRows) : 0),
        weights_(shape_.size, Spacing(shape_.ndim, spacing).size, order, scheme) {}

  void forward(const Tensor& out, int threads) const {
    std::vector<double> energies(static_cast<std::size_t>(tasks()));
    parallel_for(tasks(), 1, threads, [&](std::int64_t task) { energies[task] = energy_of(task); });
    const std::int64_t per_sample = tiles_ * shape_.ndim;
    for (std::int64_t sample = 0; sample < shape_.samples; ++sample) {
      double sum = 0;
      for (std::int64_t task = 0; task < per_sample; ++task) {
        sum += energies[sample * per_sample + task];
      }
      if (out.dtype == DType::float64) {
        out.as<double>()[sample] = sum;
      } else {
        out.as<float>()[sample] = static_cast<float>(sum);
      }
    }
  }

  void backward(const Tensor& grad, const Tensor& out, int threads) const {
    parallel_for(tasks(), 1, threads, [&](std::int64_t task) { differentiate(grad, out, task); });
  }

 private:
  // As (z, y, x).
  struct Spacing {
    double size[3] = {1, 1, 1};
    Spacing(int ndim, const double* spacing) {
      for (int axis = 0; axis < ndim; ++axis) {
        size[axis + 3 - ndim] = spacing[axis];
      }
    }
  };

  std::int64_t tasks() const { return shape_.samples * shape_.ndim * tiles_; }

  int component_of(std::int64_t task) const {
    return static_cast<int>(task / tiles_ % shape_.ndim);
  }

  Tile tile_of(std::int64_t task) const {
    return Tile(shape_, task / (tiles_ * shape_.ndim), task % tiles_, kTileRows);
  }

  // Whether a row is so far from all borders that all such rows are alike.
  bool is_away(std::int64_t plane, std::int64_t row, std::int64_t margin) const {
    const std::int64_t index[2] = {plane, row};
    bool away = true;
    for (int axis = 3 - shape_.ndim; axis < 2; ++axis) {
      away = away && index[axis] >= margin && index[axis] < shape_.size[axis] - margin;
    }
    return away;
  }

  bool is_inside(std::int64_t plane, std::int64_t row) const {
    return plane >= 0 && plane < shape_.size[0] && row >= 0 && row < shape_.size[1];
  }

  double energy_of(std::int64_t task) const {
    const Tile tile = tile_of(task);
    const int component = component_of(task);
    const auto& rows = select_smoothness_rows<T>();
    KeptRows<T> field(field_, 1, kTileRows);
    SmoothnessSums sums;
    EnergyRows<T> around;
    around.ndim = shape_.ndim;
    around.order = order_;
    around.scheme = scheme_;
    around.columns = shape_.size[2];
    std::int64_t distance[3][3];
    for (int z = -1; z <= 1; ++z) {
      for (int y = -1; y <= 1; ++y) {
        distance[1 + z][1 + y] = field.distance(z, y);
      }
    }
    bool is_known = false;  // what exists in rows away from the border
    tile.for_each_row([&](std::int64_t plane, std::int64_t row) {
      const bool away = is_away(plane, row, 1);
      if (!away || !is_known) {
        find_terms(plane, row, around.exists);
        is_known = away;
      }
      field.prefetch(tile.sample, component, plane + 2, row);
      const T* const centre = field.row(tile.sample, component, plane, row);
      for (int z = -1; z <= 1; ++z) {
        for (int y = -1; y <= 1; ++y) {
          const T** const beside = &around.row[1 + z][1 + y];
          if ((!away || shape_.ndim == 2) && !is_inside(plane + z, row + y)) {
            *beside = nullptr;
          } else if (field.is_in_place()) {
            *beside = centre + distance[1 + z][1 + y];
          } else {
            *beside = field.row(tile.sample, component, plane + z, row + y);
          }
        }
      }
      rows.add_energy(around, &sums);
    });
    double energy = 0;
    for (int term = 0; term < kSmoothnessTerms; ++term) {
      double sum = 0;
      for (const double lane : sums.lanes[term]) {
        sum += lane;
      }
      energy += weights_.of[term] > 0 ? weights_.of[term] * sum : 0;
    }
    return energy;
  }

  // Which terms have a difference at some column of a row.
  void find_terms(std::int64_t plane, std::int64_t row, bool (&exists)[kSmoothnessTerms]) const {
    const std::int64_t index[2] = {plane, row};
    for (int term = 0; term < kSmoothnessTerms; ++term) {
      exists[term] = weights_.of[term] > 0;
      for (int axis = 0; axis < 2; ++axis) {
        const std::int64_t size = shape_.size[axis];
        const bool derived = first_axis(term) == axis || second_axis(term) == axis;
        const bool on_both_sides = derived && order_ == 2 && term < 3;
        const bool has =
            scheme_ == Scheme::central || on_both_sides
                ? (derived ? is_inner(index[axis], size) : is_counted(scheme_, index[axis], size))
                : !derived || index[axis] < size - 1;
        exists[term] = exists[term] && has;
      }
    }
  }

  void differentiate(const Tensor& grad, const Tensor& out, std::int64_t task) const {
    const Tile tile = tile_of(task);
    const int component = component_of(task);
    const auto& rows = select_smoothness_rows<T>();
    const auto store = select_convert_rows<T>().store[static_cast<int>(out.dtype)];
    const bool in_place = element_size(out.dtype) == static_cast<std::int64_t>(sizeof(T));
    const std::int64_t columns = shape_.size[2];
    const std::int64_t at = tile.sample * grad.strides[0];
    const double upstream =
        grad.dtype == DType::float64 ? grad.as<double>()[at] : grad.as<float>()[at];
    KeptRows<T> field(field_, 2, kTileRows);
    std::vector<T> scratch(static_cast<std::size_t>(in_place ? 0 : columns));
    const auto stencil_of = [&](std::int64_t plane, std::int64_t row) {
      return Stencil<T>(field, order_, scheme_, weights_, 2 * upstream, plane, row);
    };
    Stencil<T> stencil = stencil_of(tile.plane[0], tile.row[0]);
    bool is_known = is_away(tile.plane[0], tile.row[0], 2);  // that of rows away from the border
    tile.for_each_row([&](std::int64_t plane, std::int64_t row) {
      const std::int64_t line =
          ((tile.sample * shape_.ndim + component) * shape_.size[0] + plane) * shape_.size[1] + row;
      T* const result = in_place ? out.as<T>() + line * columns : scratch.data();
      const bool away = is_away(plane, row, 2);
      if (!away || !is_known) {
        stencil = stencil_of(plane, row);
        is_known = away;
      }
      field.prefetch(tile.sample, component, plane + 3, row);
      rows.gradient(stencil.at(&field, tile.sample, component, plane, row), result);
      if (!in_place) {
        for_each_part(0, columns, [&](std::int64_t start, int n) {
          store(result + start, n, mutable_element(out, line * columns + start));
        });
      }
    });
  }

  const Tensor field_;
  const int order_;
  const Scheme scheme_;
  const FieldShape shape_;
  const std::int64_t tiles_;
  const SmoothnessWeights weights_;
};

}  // namespace

void smoothness_forward(const Tensor& field, const Tensor& out, int order, Scheme scheme,
                        const std::vector<double>& spacing, int threads) {
  with_accumulator(field.dtype, [&](auto zero) {
    Energy<decltype(zero)>(field, order, scheme, spacing.data()).forward(out, threads);
  });
}

void smoothness_backward(const Tensor& grad, const Tensor& field, const Tensor& grad_field,
                         int order, Scheme scheme, const std::vector<double>& spacing,
                         int threads) {
  prefer_huge_pages(grad_field);
  with_accumulator(field.dtype, [&](auto zero) {
    Energy<decltype(zero)>(field, order, scheme, spacing.data())
        .backward(grad, grad_field, threads);
  });
}

}  // namespace plasticine
