// Composition of displacement fields, compose(u, v)(p) = u(p + v(p)) + v(p), and its adjoint.
#pragma once

#include "core/tensor.h"

namespace plasticine {

void compose_forward(const Tensor& u, const Tensor& v, const Tensor& out, Padding padding,
                     int threads);

// A gradient without data is not computed.
void compose_backward(const Tensor& grad_out, const Tensor& u, const Tensor& v,
                      const Tensor& grad_u, const Tensor& grad_v, Padding padding, int threads);

}  // namespace plasticine
