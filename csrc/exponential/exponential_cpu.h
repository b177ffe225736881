// The exponential of a stationary velocity field by scaling and squaring (Arsigny et al., MICCAI
// 2006): u_0 = scale * v, u_{k+1} = compose(u_k, u_k), and its adjoint.
#pragma once

#include "../common/tensor.h"

namespace plasticine {

// scale is a power of two or its negative. stages (steps, N, d, *spatial) receives u_0 to
// u_{steps-1}; without it scratch, at least one field, is needed from two steps on. Contiguous
// outputs; float32 or float64.
void exponential_forward(const Tensor& velocity, const Tensor& out, const Tensor& stages,
                         const Tensor& scratch, double scale, int steps, Padding padding,
                         int threads);

// scratch: at least one field, needed from two steps on.
void exponential_backward(const Tensor& grad_out, const Tensor& stages, const Tensor& grad_velocity,
                          const Tensor& scratch, double scale, int steps, Padding padding,
                          int threads);

}  // namespace plasticine
