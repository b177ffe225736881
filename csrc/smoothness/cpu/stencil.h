// Which rows the gradient of a row is made of, and by what they are multiplied.
#pragma once

#include <cstdint>

#include "core/cpu/kept_rows.h"
#include "smoothness/rows/smoothness.h"

namespace plasticine {

template <typename T>
class Stencil {
 public:
  // factor: of all weights.
  Stencil(const KeptRows<T>& field, int order, Scheme scheme, const SmoothnessWeights& weights,
          double factor, std::int64_t plane, std::int64_t row) {
    const std::int64_t (&size)[3] = field.shape().size;
    const Place place(size, plane, row);
    Sums sums;
    const int reach = first_reach(scheme);
    const double square = first_square(scheme);
    const bool counted[2] = {is_counted(scheme, plane, size[0]), is_counted(scheme, row, size[1])};
    rows_.order = order;
    rows_.scheme = scheme;
    rows_.columns = size[2];
    rows_.has_own = counted[0] && counted[1] && weights.of[2] > 0;
    rows_.own = static_cast<T>(factor * (order == 1 ? -square : 1) * weights.of[2]);
    for (int axis = 0; axis < 2; ++axis) {
      if (!counted[1 - axis]) {
        continue;
      }
      for (int step = -2; step <= 2; ++step) {
        const bool is_side = step == -reach || step == reach;
        if (step == 0 || !place.has(axis, step)) {
          continue;
        }
        if (order == 1 && is_side) {
          sums.add(axis, step, -square * weights.of[axis]);
        }
        if (order == 2) {
          const int coefficient =
              second_coefficient<std::int64_t>(place.index[axis], step, size[axis]);
          if (coefficient != 0) {
            sums.add(axis, step, coefficient * weights.of[axis]);
          }
          if (is_side) {
            sums.turn(axis, step, square * square * weights.of[4 + axis]);
          }
        }
      }
    }
    if (order == 2) {
      add_corners(place, reach, square * square * weights.of[3], &sums);
    }
    list(sums, factor);
    for (int i = 0; i < rows_.count; ++i) {
      distance_[i] = field.distance(step_[i][0], step_[i][1]);
    }
  }

  // The rows around one.
  const GradientRows<T>& at(KeptRows<T>* field, std::int64_t sample, int component,
                            std::int64_t plane, std::int64_t row) {
    rows_.centre = field->row(sample, component, plane, row);
    for (int i = 0; i < rows_.count; ++i) {
      rows_.row[i] = field->is_in_place()
                         ? rows_.centre + distance_[i]
                         : field->row(sample, component, plane + step_[i][0], row + step_[i][1]);
    }
    return rows_;
  }

 private:
  struct Place {
    std::int64_t index[2];
    std::int64_t size[2];

    Place(const std::int64_t (&sizes)[3], std::int64_t plane, std::int64_t row)
        : index{plane, row}, size{sizes[0], sizes[1]} {}

    bool has(int axis, int step) const {
      return index[axis] + step >= 0 && index[axis] + step < size[axis];
    }
  };

  // Of the rows around, planes and rows further from -2.
  struct Sums {
    struct Row {
      bool taken = false;
      bool turned = false;
      double weight = 0;
      double along = 0;
    };
    Row row[5][5];

    Row* at(int axis, int step) { return axis == 0 ? &row[2 + step][2] : &row[2][2 + step]; }

    void add(int axis, int step, double weight) {
      at(axis, step)->taken = true;
      at(axis, step)->weight += weight;
    }

    void turn(int axis, int step, double weight) {
      at(axis, step)->taken = true;
      at(axis, step)->turned = true;
      at(axis, step)->along = weight;
    }
  };

  // v(z + a, y + b) - v(z + a, y) - v(z, y + b) + v(z, y) of every corner that exists.
  static void add_corners(const Place& place, int reach, double weight, Sums* sums) {
    for (const int z : {-reach, reach}) {
      for (const int y : {-reach, reach}) {
        if (place.has(0, z) && place.has(1, y)) {
          sums->row[2 + z][2 + y].taken = true;
          sums->row[2 + z][2 + y].weight += weight;
          sums->add(0, z, -weight);
          sums->add(1, y, -weight);
        }
      }
    }
  }

  // Those with both coefficients first.
  void list(const Sums& sums, double factor) {
    for (const bool turned : {true, false}) {
      for (int z = -2; z <= 2; ++z) {
        for (int y = -2; y <= 2; ++y) {
          const typename Sums::Row& row = sums.row[2 + z][2 + y];
          if (row.taken && row.turned == turned) {
            const int i = rows_.count++;
            step_[i][0] = z;
            step_[i][1] = y;
            rows_.weight[i] = static_cast<T>(factor * row.weight);
            rows_.inner[i] = static_cast<T>(factor * (row.weight - 2 * row.along));
            rows_.along[i] = static_cast<T>(factor * row.along);
          }
        }
      }
      if (turned) {
        rows_.turned = rows_.count;
      }
    }
  }

  GradientRows<T> rows_ = {};
  int step_[GradientRows<T>::kMost][2] = {};  // planes and rows further
  std::int64_t distance_[GradientRows<T>::kMost] = {};
};

}  // namespace plasticine
