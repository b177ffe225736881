// The smoothness energies, diffusion and bending, and their gradients: what the bindings call.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace plasticine {

// field: (N, d, *spatial), of any strides. out (N,) and grad (N,) are float64 where the field is,
// else float32; out and grad_field are contiguous.
void smoothness_forward(const Tensor& field, const Tensor& out, int order, Scheme scheme,
                        const std::vector<double>& spacing, int threads);
void smoothness_backward(const Tensor& grad, const Tensor& field, const Tensor& grad_field,
                         int order, Scheme scheme, const std::vector<double>& spacing, int threads);

namespace cuda {

// partial: float64 (N, blocks), for what each block adds up.
void smoothness_forward(const Tensor& field, const Tensor& partial, const Tensor& out, int order,
                        Scheme scheme, const std::vector<double>& spacing, int device,
                        std::uintptr_t stream);
void smoothness_backward(const Tensor& grad, const Tensor& field, const Tensor& grad_field,
                         int order, Scheme scheme, const std::vector<double>& spacing, int device,
                         std::uintptr_t stream);

}  // namespace cuda

}  // namespace plasticine
