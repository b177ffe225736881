"""``plasticine.invert``: the displacement that undoes another."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops import _autocast, _checks, _words
from plasticine.ops._derivative import Derivative, MaybeTensors, not_twice_differentiable
from plasticine.ops._kernels import Kernel, call, contiguous_like
from plasticine.ops._operator import REGISTRY, Operator
from plasticine.ops.warp import WARP_BACKWARD

#: The inverse, the residual and the number of iterations.
Solution = tuple[Tensor, Tensor, Tensor]

# What csrc/invert calls kInvertThreads.
_CUDA_THREADS = 128


@dataclass(frozen=True)
class Inverse:
    """The inverse of a batch of displacements, and how good it is; tensors on their device.

    Attributes:
        displacement: ``w``, ``(N, d, *spatial)`` in voxels, in the dtype of what was inverted.
        residual: the largest ``|w(p) + u(p + w(p))|`` of each sample, in voxels, ``(N,)`` float32,
            or float64 of a float64 displacement; NaN if any voxel's is. Of half types, before ``w``
            was rounded. Not differentiable.
        iterations: the most steps that a voxel of each sample took, ``(N,)`` int64.
        tolerance: the residual that was asked for, in voxels.
    """

    displacement: Tensor
    residual: Tensor
    iterations: Tensor
    tolerance: float

    @property
    def converged(self) -> Tensor:
        """Whether every voxel of a sample is within the tolerance, ``(N,)`` bool."""
        return self.residual <= self.tolerance


@_words.checks_inside
def invert(
    displacement: Tensor,
    *,
    tolerance: float = 1e-3,
    iterations: int = 100,
    padding: str = "border",
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Inverse:
    """The displacement ``w`` of the inverse of ``p + u(p)``: ``w(p) = -u(p + w(p))``.

    Every voxel is solved for by itself, from ``w = -u(p)``, until its residual ``|w(p) + u(p +
    w(p))|`` is within the tolerance: by Newton's method for ``u`` as it is interpolated, and where
    that fails, as on the "reference" backend throughout, by the fixed-point iteration ``w <- -u(p +
    w)`` (Christensen and Johnson, "Consistent image registration", IEEE TMI 2001; Chen et al., "A
    simple fixed-point approach to invert a deformation field", Medical Physics 2008), both with
    relaxation. ``u`` is interpolated linearly.

    Where a displacement folds, several ``w`` may satisfy the equation; one of them is found, or
    none within the iterations. Where any voxel stays above the tolerance a RuntimeWarning says by
    how much, and ``residual`` and ``converged`` tell: the result is never silently wrong. A NaN in
    ``u`` gives NaN where the search meets it and nowhere else. To warn, the call reads the residual
    and so waits for a GPU; while a CUDA graph is captured it neither waits nor warns: read
    ``residual`` after a replay.

    Args:
        displacement: ``u``, ``(N, d, *spatial)`` in voxels, 2D or 3D, float32, float64, float16 or
            bfloat16; any strides. Half types are solved for in float32 and rounded once (under
            ``torch.autocast`` not rounded: the result is float32).
        tolerance: the largest residual wanted, in voxels, 0 or more. float32 coordinates are exact
            to about 1e-5 voxels on grids of 100 voxels an axis.
        iterations: the most steps in a voxel, 0 or more.
        padding: how ``u`` continues outside its grid: "border", "zeros" or "reflection".
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Returns:
        The inverse with its residual. Its displacement is differentiable once with respect to
        ``displacement``, by the implicit function theorem: exactly so for a residual of zero.

    Raises:
        TypeError: ``displacement`` is no tensor or of a dtype that is not served; ``tolerance`` is
            no number or ``iterations`` no int.
        ValueError: a shape or an option is not one of those above.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    if _unknown:
        _words.refuse(invert, _unknown)
    _checks.is_tensor(displacement, "displacement")
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise TypeError(f"tolerance must be a number, got {type(tolerance).__name__}")
    steps = _checks.count_of(iterations, "iterations")
    tolerance = float(tolerance)
    inverse, residual, used = INVERT(displacement, tolerance, steps, padding, backend)
    return Inverse(inverse, residual, used, tolerance)


def check(displacement: Tensor, tolerance: float, iterations: int, padding: str) -> None:
    """Raises unless the arguments fit together."""
    _checks.field(displacement, "displacement")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be finite, 0 or more, got {tolerance}")
    if not 0 <= iterations < 2**31:
        raise ValueError(f"iterations must be from 0 to 2**31 - 1, got {iterations}")


def _check_backward(grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str) -> None:
    _checks.field(displacement, "displacement")
    _checks.gradient(grad, displacement.shape, displacement)
    if inverse.shape != displacement.shape or inverse.dtype != displacement.dtype:
        raise ValueError(
            "inverse must have the shape and the dtype of displacement, got "
            f"{tuple(inverse.shape)} {inverse.dtype} and {tuple(displacement.shape)} "
            f"{displacement.dtype}"
        )


def _precision(displacement: Tensor) -> torch.dtype:
    return torch.promote_types(displacement.dtype, torch.float32)


def _results(displacement: Tensor, tolerance: float, iterations: int, padding: str) -> Solution:
    """The inverse, the residual and the number of iterations."""
    batch = displacement.shape[0]
    return (
        contiguous_like(displacement),
        displacement.new_empty(batch, dtype=_precision(displacement)),
        displacement.new_empty(batch, dtype=torch.int64),
    )


def _kernel(backend: str) -> Kernel:
    def serve(displacement: Tensor, tolerance: float, iterations: int, padding: str) -> Solution:
        options = tolerance, iterations, padding
        results = _results(displacement, *options)
        call(backend, "invert_forward", displacement, displacement, *results, *options)
        return results

    return serve


def _cuda(displacement: Tensor, tolerance: float, iterations: int, padding: str) -> Solution:
    """From the worst squared residual and most iterations of each block of voxels."""
    inverse = contiguous_like(displacement)
    batch = displacement.shape[0]
    shape = batch, -(-displacement.shape[2:].numel() // _CUDA_THREADS)
    squared = displacement.new_empty(shape, dtype=_precision(displacement))
    used = displacement.new_empty(shape, dtype=torch.int64)
    tensors = displacement, inverse, squared, used
    call("cuda", "invert_forward", displacement, *tensors, tolerance, iterations, padding)
    if not squared.numel():
        return inverse, squared.new_zeros(batch), used.new_zeros(batch)
    largest = squared.amax(1)
    limit = torch.full_like(largest, tolerance)
    residual = largest.sqrt()
    # A root that is rounded up must not make a stranger of what has converged.
    residual = torch.where(largest <= limit * limit, torch.minimum(residual, limit), residual)
    return inverse, residual, used.amax(1)


def _define(displacement: Tensor, tolerance: float, iterations: int, padding: str) -> Solution:
    with torch.no_grad():
        inverse, residual, used = reference.invert(displacement, tolerance, iterations, padding)
    return inverse.contiguous(), residual, used


def _with_warning(serve: Kernel) -> Kernel:
    """The same, which says so where the tolerance is not reached."""

    def solve(displacement: Tensor, tolerance: float, iterations: int, padding: str) -> Solution:
        solution = serve(displacement, tolerance, iterations, padding)
        # A graph under capture has no residual yet.
        if not (displacement.is_cuda and torch.cuda.is_current_stream_capturing()):
            _warn(solution[1], tolerance, iterations)
        return solution

    return solve


def _warn(residual: Tensor, tolerance: float, iterations: int) -> None:
    if bool((residual <= tolerance).all()):
        return
    largest = residual.max().item()
    warnings.warn(
        f"plasticine.invert: a residual of {largest:.3g} voxels is left after {iterations} "
        f"iterations, more than the tolerance of {tolerance:.3g}; the displacement may fold "
        "(see plasticine.folding)"
        if math.isfinite(largest)
        else "plasticine.invert: the search met NaN or infinity in the displacement, and the "
        "inverse is NaN there",
        RuntimeWarning,
        stacklevel=2,
    )


def _cpu_backward(grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str) -> Tensor:
    adjoint = displacement.new_empty(displacement.shape, dtype=_precision(displacement))
    result = contiguous_like(displacement)
    tensors = grad, displacement, inverse, adjoint, result
    call("cpu", "invert_backward", displacement, *tensors, padding)
    return result


def _cuda_backward(grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str) -> Tensor:
    adjoint = displacement.new_empty(displacement.shape, dtype=_precision(displacement))
    tensors = grad, displacement, inverse, adjoint
    call("cuda", "invert_adjoint", displacement, *tensors, padding)
    # What it adds to the displacement where the inverse samples it: warp's backward, which of the
    # image asks for type and sizes alone.
    location = inverse.to(adjoint.dtype)
    options = "linear", padding, (True, False, False)
    gradient = WARP_BACKWARD.serve["cuda"](adjoint, adjoint, location, None, *options)[0]
    return gradient.to(displacement.dtype)


def _define_backward(grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        grad, displacement, inverse = (
            x.clone() if x.is_inference() else x for x in (grad, displacement, inverse)
        )
        return reference.invert_adjoint(grad, displacement, inverse, padding).contiguous()


def _gradients(
    grads: MaybeTensors, saved: MaybeTensors, options: Sequence[Any], needs: Sequence[bool]
) -> MaybeTensors:
    if grads[0] is None:
        return (None,)
    return (INVERT_BACKWARD.from_autograd(grads[0], *saved, *options[2:]),)


INVERT = REGISTRY["invert"] = Operator(
    "invert(Tensor displacement, float tolerance, int iterations, str padding)"
    " -> (Tensor, Tensor, Tensor)",
    check=check,
    results=_results,
    derivative=Derivative(
        _gradients, saved=lambda inputs, results: (inputs[0], results[0]), constant=(1, 2)
    ),
    choices={"padding": _checks.PADDINGS},
    autocast=_autocast.single,
    serve={
        "cpu": _with_warning(_kernel("cpu")),
        "cuda": _with_warning(_cuda),
        "triton": _with_warning(_kernel("triton")),
        "reference": _with_warning(_define),
    },
)
INVERT_BACKWARD = Operator(
    "invert_backward(Tensor grad, Tensor displacement, Tensor inverse, str padding) -> Tensor",
    check=_check_backward,
    results=lambda grad, displacement, *_: contiguous_like(displacement),
    derivative=not_twice_differentiable("invert"),
    choices={"padding": _checks.PADDINGS},
    kernel="invert_backward",
    serve={"cpu": _cpu_backward, "cuda": _cuda_backward, "reference": _define_backward},
    held_as="invert",
)
