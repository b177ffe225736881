#include "splat_cpu.h"

#include "../warp/warp_cpu.h"
#include "../warp/warp_cubic_cpu.h"

namespace plasticine {

namespace {

WarpBackward as_backward(const Splat& call) {
  WarpBackward backward;
  backward.grad_out = call.image;
  backward.image = call.out;  // of which only type and sizes are asked for
  backward.displacement = call.displacement;
  backward.affine = call.affine;
  backward.grad_image = call.out;
  backward.mode = call.mode;
  backward.padding = call.padding;
  backward.threads = call.threads;
  return backward;
}

}  // namespace

void splat_forward(const Splat& call) { warp_backward(as_backward(call)); }

void splat_cubic_forward(const Splat& call) { warp_cubic_backward(as_backward(call)); }

}  // namespace plasticine
