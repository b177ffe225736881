#include "compose/cpu/compose.h"

#include "warp/cpu/warp.h"

namespace plasticine {

void compose_forward(const Tensor& u, const Tensor& v, const Tensor& out, Padding padding,
                     int threads) {
  WarpForward call;
  call.image = u;
  call.displacement = v;
  call.out = out;
  call.padding = padding;
  call.add = true;
  call.threads = threads;
  warp_forward(call);
}

void compose_backward(const Tensor& grad_out, const Tensor& u, const Tensor& v,
                      const Tensor& grad_u, const Tensor& grad_v, Padding padding, int threads) {
  WarpBackward call;
  call.grad_out = grad_out;
  call.image = u;
  call.displacement = v;
  call.grad_image = grad_u;
  call.grad_displacement = grad_v;
  call.padding = padding;
  call.add = true;
  call.threads = threads;
  warp_backward(call);
}

}  // namespace plasticine
