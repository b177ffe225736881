"""``plasticine.invert``: the displacement that undoes another."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plasticine import backends
from plasticine.ops import _autocast, _checks
from plasticine.ops._invert_backends import BACKWARD, FORWARD, Solution, results_like
from plasticine.ops._native_interface import contiguous_like, device_type
from plasticine.ops._operator import Operator, not_twice_differentiable


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


def invert(
    displacement: Tensor,
    *,
    tolerance: float = 1e-3,
    iterations: int = 100,
    padding: str = "border",
    backend: str = "auto",
) -> Inverse:
    """The displacement ``w`` of the inverse of ``p + u(p)``: ``w(p) = -u(p + w(p))``.

    Every voxel is solved for by itself, from ``w = -u(p)`` or, on the "cpu" backend, its
    neighbours' solution, until its residual ``|w(p) + u(p + w(p))|`` is within the tolerance: by
    Newton's method for ``u`` as it is interpolated, and where that fails, as on the "reference"
    backend throughout, by the fixed-point iteration ``w <- -u(p + w)`` (Christensen and Johnson,
    "Consistent image registration", IEEE TMI 2001; Chen et al., "A simple fixed-point approach to
    invert a deformation field", Medical Physics 2008), both with relaxation. ``u`` is interpolated
    linearly.

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
    _checks.is_tensor(displacement, "displacement")
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise TypeError(f"tolerance must be a number, got {type(tolerance).__name__}")
    steps = _checks.count_of(iterations, "iterations")
    tolerance = float(tolerance)
    if _autocast.is_any_enabled():
        displacement = _autocast.single(displacement)
    inverse, residual, used = INVERT(displacement, tolerance, steps, padding, backend)
    return Inverse(inverse, residual, used, tolerance)


def check(displacement: Tensor, tolerance: float, iterations: int, padding: str) -> None:
    """Raises unless the arguments fit together."""
    _checks.field(displacement, "displacement")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be finite, 0 or more, got {tolerance}")
    if not 0 <= iterations < 2**31:
        raise ValueError(f"iterations must be from 0 to 2**31 - 1, got {iterations}")
    _checks.one_of(padding, "padding", _checks.PADDINGS)


def _check_gradient(grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str) -> None:
    check(displacement, 0.0, 0, padding)
    _checks.gradient(grad, displacement.shape, displacement)
    if inverse.shape != displacement.shape or inverse.dtype != displacement.dtype:
        raise ValueError(
            "inverse must have the shape and the dtype of displacement, got "
            f"{tuple(inverse.shape)} {inverse.dtype} and {tuple(displacement.shape)} "
            f"{displacement.dtype}"
        )


def _forward(
    displacement: Tensor, tolerance: float, iterations: int, padding: str, backend: str
) -> Solution:
    """The inverse, the residual and the number of iterations."""
    check(displacement, tolerance, iterations, padding)
    served = backends.choose(backend, "invert", device_type(displacement))
    inverse, residual, used = FORWARD[served](displacement, tolerance, iterations, padding)
    # A graph under capture has no residual yet.
    is_captured = displacement.is_cuda and torch.cuda.is_current_stream_capturing()
    if not is_captured and not bool((residual <= tolerance).all()):
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
    return inverse, residual, used


def _forward_fake(
    displacement: Tensor, tolerance: float, iterations: int, padding: str, backend: str
) -> Solution:
    check(displacement, tolerance, iterations, padding)
    return results_like(displacement)


def _backward(
    grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str, backend: str
) -> Tensor:
    """The displacement's gradient."""
    _check_gradient(grad, displacement, inverse, padding)
    return _backward_unchecked(grad, displacement, inverse, padding, backend)


def _backward_unchecked(
    grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str, backend: str
) -> Tensor:
    served = backends.choose(backend, "invert", device_type(displacement))
    return BACKWARD[served](grad, displacement, inverse, padding)


def _backward_fake(
    grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str, backend: str
) -> Tensor:
    _check_gradient(grad, displacement, inverse, padding)
    return contiguous_like(displacement)


class _Invert(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Solution:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Solution) -> None:
        ctx.mark_non_differentiable(output[1], output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[0], output[0])
        ctx.options = inputs[3:5]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        displacement = None
        if grad is not None:
            displacement = INVERT_BACKWARD.from_autograd(grad, *ctx.saved_tensors, *ctx.options)
        return displacement, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        displacement, *options, execute = arguments
        folded = displacement.movedim(in_dims[0], 0).flatten(0, 1)
        results = execute(folded, *options)
        return tuple(x.unflatten(0, (info.batch_size, -1)) for x in results), (0, 0, 0)


INVERT = Operator(
    "invert(Tensor displacement, float tolerance, int iterations, str padding, str backend)"
    " -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    _Invert,
    tensors=1,
)
INVERT_BACKWARD = Operator(
    "invert_backward(Tensor grad, Tensor displacement, Tensor inverse, str padding, str backend)"
    " -> Tensor",
    _backward,
    _backward_fake,
    not_twice_differentiable("invert", 3),
    tensors=3,
    unchecked=_backward_unchecked,
)
