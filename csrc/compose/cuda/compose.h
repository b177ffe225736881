// The CUDA composition of displacement fields, as the bindings and the exponential call it. Nothing
// here needs a CUDA header.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace plasticine::cuda {

// out = scale * (field(p + location_scale * displacement(p)) + (displacement(p) if add)).
struct Composition {
  Tensor field;         // (N, d, *field_spatial), any strides with contiguous rows
  Tensor displacement;  // (N, d, *spatial), of the same dtype, any strides
  double scale = 1.0;
  double location_scale = 1.0;
  bool add = true;
  Tensor out = {};  // contiguous (N, d, *spatial); the adjoint takes none
};

// One composition, or two in one launch, of tensors that are alike.
void compose_fields(const std::vector<Composition>& compositions, Padding padding,
                    std::uintptr_t stream);

// Where the gradients of a composition go. All are contiguous.
struct CompositionGradients {
  // The shape of the field, in the accumulator's type: the scattered sums are added to it.
  Tensor field;
  // int64, of the same shape, and one float64: a sum that does not depend on the order of the
  // atomics. Finite contributions, times the scale, are then added here, the others to `field`.
  Tensor field_fixed;
  Tensor fixed_scale;
  // The displacement's own, in its type: written in full. Or none, and with `is_same` it is added
  // to `field`, for a field that is its own displacement.
  Tensor displacement;
  bool is_same = false;
  // To the displacement's is added added_scale * added(p), where that has data.
  Tensor added = {};
  double added_scale = 0.0;
};

// The adjoint, for the gradient of out; `add` does not count, for what it means is in `added`.
void compose_adjoint(const Tensor& grad, const Composition& composition,
                     const CompositionGradients& gradients, Padding padding, std::uintptr_t stream);

// The operator: out = u(p + v(p)) + v(p), and its gradients, written in full.
void compose(const Tensor& u, const Tensor& v, const Tensor& out, Padding padding, int device,
             std::uintptr_t stream);
void compose_gradients(const Tensor& grad, const Tensor& u, const Tensor& v,
                       CompositionGradients gradients, Padding padding, int device,
                       std::uintptr_t stream);

}  // namespace plasticine::cuda
