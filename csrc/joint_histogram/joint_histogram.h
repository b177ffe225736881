// The Parzen joint histogram of two images: what the bindings call.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace plasticine {

// x and y: (N, C, *spatial), of any strides; mask: (N, 1, *spatial) float32, float64 with float64
// images, or absent. value_range: (N, 2, 2), of each image the least and the greatest value that is
// told apart. out and grad: (N, bins, bins), rows over x, in the type of the mask. scratch: (N,
// parts, bins, bins) float64, contiguous: the sums of the parts that the voxels of a sample are cut
// into, whatever the number of threads. out, grad_x and grad_y are contiguous; a gradient without
// data is not wanted.
void joint_histogram_forward(const Tensor& x, const Tensor& y, const Tensor& mask,
                             const Tensor& value_range, const Tensor& out, const Tensor& scratch,
                             int bins, Parzen kernel, double sigma, int threads);
void joint_histogram_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                              const Tensor& mask, const Tensor& value_range, const Tensor& grad_x,
                              const Tensor& grad_y, const Tensor& scratch, int bins, Parzen kernel,
                              double sigma, int threads);

namespace cuda {

void joint_histogram_forward(const Tensor& x, const Tensor& y, const Tensor& mask,
                             const Tensor& value_range, const Tensor& out, const Tensor& scratch,
                             int bins, Parzen kernel, double sigma, int device,
                             std::uintptr_t stream);
void joint_histogram_backward(const Tensor& grad, const Tensor& x, const Tensor& y,
                              const Tensor& mask, const Tensor& value_range, const Tensor& grad_x,
                              const Tensor& grad_y, const Tensor& scratch, int bins, Parzen kernel,
                              double sigma, int device, std::uintptr_t stream);

}  // namespace cuda
}  // namespace plasticine
