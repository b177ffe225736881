"""``invert`` on each backend; the arguments have been checked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops import _warp_backends
from plasticine.ops._native_interface import (
    PADDING_CODES,
    contiguous_like,
    cuda_launch,
    native,
    threads_for,
)

#: The inverse, the residual and the number of iterations.
Solution = tuple[Tensor, Tensor, Tensor]

# What csrc/invert/cuda/invert.h calls kInvertThreads.
_CUDA_THREADS = 128


def results_like(displacement: Tensor) -> Solution:
    """Uninitialised results of a displacement."""
    batch = displacement.shape[0]
    return (
        contiguous_like(displacement),
        displacement.new_empty(batch, dtype=_precision(displacement)),
        displacement.new_empty(batch, dtype=torch.int64),
    )


def _precision(displacement: Tensor) -> torch.dtype:
    return torch.promote_types(displacement.dtype, torch.float32)


def _cpu_forward(displacement: Tensor, tolerance: float, iterations: int, padding: str) -> Solution:
    inverse, residual, used = results = results_like(displacement)
    backends.NATIVE.invert_forward(
        native(displacement),
        native(inverse),
        native(residual),
        native(used),
        tolerance,
        iterations,
        PADDING_CODES[padding],
        threads_for(displacement),
    )
    return results


def _cpu_backward(grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str) -> Tensor:
    adjoint = displacement.new_empty(displacement.shape, dtype=_precision(displacement))
    result = contiguous_like(displacement)
    backends.NATIVE.invert_backward(
        native(grad),
        native(displacement),
        native(inverse),
        native(adjoint),
        native(result),
        PADDING_CODES[padding],
        threads_for(displacement),
    )
    return result


def _cuda_forward(
    displacement: Tensor, tolerance: float, iterations: int, padding: str
) -> Solution:
    inverse = contiguous_like(displacement)
    blocks = -(-displacement.shape[2:].numel() // _CUDA_THREADS)
    shape = (displacement.shape[0], blocks)
    squared = displacement.new_empty(shape, dtype=_precision(displacement))
    used = displacement.new_empty(shape, dtype=torch.int64)
    backends.CUDA.invert_forward(
        native(displacement),
        native(inverse),
        native(squared),
        native(used),
        tolerance,
        iterations,
        PADDING_CODES[padding],
        *cuda_launch(displacement),
    )
    return _solution_of(inverse, squared, used, tolerance)


def _cuda_backward(grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str) -> Tensor:
    adjoint = displacement.new_empty(displacement.shape, dtype=_precision(displacement))
    backends.CUDA.invert_adjoint(
        native(grad),
        native(displacement),
        native(inverse),
        native(adjoint),
        PADDING_CODES[padding],
        *cuda_launch(displacement),
    )
    return _scattered("cuda", adjoint, inverse, padding).to(displacement.dtype)


def _triton_forward(
    displacement: Tensor, tolerance: float, iterations: int, padding: str
) -> Solution:
    kernels = backends.triton_kernels("invert")[0]
    inverse, squared, used = kernels.invert(displacement, tolerance, iterations, padding)
    return _solution_of(inverse, squared, used, tolerance)


def _triton_backward(grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str) -> Tensor:
    kernels = backends.triton_kernels("invert")[0]
    adjoint = kernels.invert_adjoint(grad, displacement, inverse, padding)
    return _scattered("triton", adjoint, inverse, padding).to(displacement.dtype)


def _solution_of(inverse: Tensor, squared: Tensor, used: Tensor, tolerance: float) -> Solution:
    """The solution from the worst squared residual and most iterations of each block of voxels."""
    if not squared.numel():
        batch = squared.shape[0]
        return inverse, squared.new_zeros(batch), used.new_zeros(batch)
    largest = squared.amax(1)
    limit = torch.full_like(largest, tolerance)
    residual = largest.sqrt()
    # A root that is rounded up must not make a stranger of what has converged.
    residual = torch.where(largest <= limit * limit, torch.minimum(residual, limit), residual)
    return inverse, residual, used.amax(1)


def _scattered(backend: str, adjoint: Tensor, inverse: Tensor, padding: str) -> Tensor:
    """What the adjoint adds to the displacement where the inverse samples it: warp's backward."""
    needs = (True, False, False)
    location = inverse.to(adjoint.dtype)
    scatter = _warp_backends.BACKWARD[backend]
    # Of the image, only type and sizes are asked for.
    gradient = scatter(adjoint, adjoint, location, None, "linear", padding, needs)[0]
    assert gradient is not None
    return gradient


def _reference_forward(
    displacement: Tensor, tolerance: float, iterations: int, padding: str
) -> Solution:
    with torch.no_grad():
        inverse, residual, used = reference.invert(displacement, tolerance, iterations, padding)
    return inverse.contiguous(), residual, used


def _reference_backward(
    grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str
) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        grad, displacement, inverse = (
            x.clone() if x.is_inference() else x for x in (grad, displacement, inverse)
        )
        return reference.invert_adjoint(grad, displacement, inverse, padding).contiguous()


FORWARD: dict[str, Callable[..., Solution]] = {
    "cpu": _cpu_forward,
    "cuda": _cuda_forward,
    "triton": _triton_forward,
    "reference": _reference_forward,
}
BACKWARD: dict[str, Callable[..., Tensor]] = {
    "cpu": _cpu_backward,
    "cuda": _cuda_backward,
    "triton": _triton_backward,
    "reference": _reference_backward,
}
