// The mean penalty of the Jacobian determinant of id + displacement, and its gradient: what the
// bindings call.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace plasticine {

// displacement: (N, d, *spatial), of any strides. out (N,) and grad (N,) are float64 where the
// displacement is, else float32; out and grad_displacement are contiguous.
void jacobian_penalty_forward(const Tensor& displacement, const Tensor& out, double threshold,
                              Penalty kind, Scheme scheme, const std::vector<double>& spacing,
                              int threads);
void jacobian_penalty_backward(const Tensor& grad, const Tensor& displacement,
                               const Tensor& grad_displacement, double threshold, Penalty kind,
                               Scheme scheme, const std::vector<double>& spacing, int threads);

namespace cuda {

// partial: float64 (N, blocks), for what each block adds up.
void jacobian_penalty_forward(const Tensor& displacement, const Tensor& partial, const Tensor& out,
                              double threshold, Penalty kind, Scheme scheme,
                              const std::vector<double>& spacing, int device,
                              std::uintptr_t stream);
void jacobian_penalty_backward(const Tensor& grad, const Tensor& displacement,
                               const Tensor& grad_displacement, double threshold, Penalty kind,
                               Scheme scheme, const std::vector<double>& spacing, int device,
                               std::uintptr_t stream);

}  // namespace cuda

}  // namespace plasticine
