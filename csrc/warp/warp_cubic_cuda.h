// The CUDA warp in its cubic modes as the bindings call it. Nothing here needs a CUDA header.
#pragma once

#include "warp/warp_cuda.h"

namespace plasticine::cuda {

// As warp_forward and warp_backward, for Mode::cubic and Mode::bspline (of coefficients, which may
// be float32 where the displacement is 16 bits wide). Of `image`, where only its gradient is asked
// for, only the sizes are looked at.
void warp_cubic_forward(const Tensor& image, const Tensor& displacement, const Tensor& affine,
                        const Tensor& out, Mode mode, Padding padding, int device,
                        std::uintptr_t stream);

void warp_cubic_backward(const Tensor& grad, const Tensor& image, const Tensor& displacement,
                         const Tensor& affine, const WarpGradients& gradients, Mode mode,
                         Padding padding, int device, std::uintptr_t stream);

}  // namespace plasticine::cuda
