"""``plasticine.jacobian_penalty``: what a displacement pays for where it shrinks or folds space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor

from plasticine import reference
from plasticine.ops import _checks, _words
from plasticine.ops._differentiable import differentiable, result_dtype
from plasticine.ops._kernels import call_cuda_with_partial_sums

KINDS = ("hinge", "log")


@_words.checks_inside
def jacobian_penalty(
    u: Tensor,
    *,
    threshold: float = 0.05,
    kind: str = "hinge",
    scheme: str = "central",
    spacing: Sequence[float] | None = None,
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Tensor:
    """The mean over voxels of a penalty on ``J``, the Jacobian determinant of ``p + u(p)``.

    "hinge": ``max(threshold - J, 0)``, nothing while no voxel shrinks below the threshold. "log":
    ``log(J)²``, least where volume is preserved; from the threshold down, where the logarithm would
    soon have no value, it goes on as its tangent there, ``log(t)² + 2 log(t) / t (J - t)``, so that
    folds pay more the deeper they are, and are pushed back by a gradient that does not vanish.

    Args:
        u: ``(N, d, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16, a displacement in
            voxels, or in the unit of ``spacing``. Half types are computed in float32.
        threshold: the volume ratio; for "log" between 0 and 1.
        kind: "hinge" or "log".
        scheme: the finite differences: "central" (one-sided at the border), "forward" or
            "backward", as for :func:`plasticine.jacobian_determinant`.
        spacing: the voxel size along each spatial axis; None for a displacement in voxels.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Returns:
        ``(N,)``: float64 of a float64 displacement, otherwise float32; 0 of one without voxels.
        Differentiable twice, and in forward mode; the latter two are the definition's, whatever
        the backend. The same bits every time.

    Raises:
        TypeError: ``u`` is no tensor or of a dtype that is not served, or the threshold no number.
        ValueError: a shape or an option is not one of those above.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.

    Source: T. Rohlfing, C. R. Maurer, D. A. Bluemke, M. A. Jacobs, "Volume-preserving nonrigid
    registration of MR breast images using free-form deformation with an incompressibility
    constraint", IEEE Transactions on Medical Imaging 22 (2003), for the logarithm, whose square
    and whose continuation by a line are those of MIRTK's Jacobian constraints.
    """
    if _unknown:
        _words.refuse(jacobian_penalty, _unknown)
    _checks.is_tensor(u, "u")
    ndim = _checks.field(u, "u")
    try:
        threshold = float(threshold)
    except (TypeError, ValueError):
        raise TypeError(f"threshold must be a number, got {type(threshold).__name__}") from None
    return PENALTY(u, threshold, kind, scheme, _checks.spacing_of(spacing, ndim), backend)


def check(u: Tensor, threshold: float, kind: str, scheme: str, spacing: Sequence[float]) -> None:
    """Raises unless the arguments fit together."""
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be finite, got {threshold}")
    if kind == "log" and not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1 for kind='log', got {threshold}")
    _checks.spacing_of(spacing, _checks.field(u, "u"))


def _shape(u: Tensor, *_: Any) -> Sequence[int]:
    return (u.shape[0],)


def _serve_cuda(u: Tensor, *options: Any) -> Tensor:
    result = u.new_empty(u.shape[0], dtype=result_dtype(u))
    return call_cuda_with_partial_sums("jacobian_penalty_forward", u, result, *options)


def _double_backward(
    directions: Sequence[Tensor | None], grad: Tensor, u: Tensor, *options: Any
) -> Sequence[Tensor | None]:
    *options_, needs = options

    def define(u: Tensor) -> Tensor:
        return reference.jacobian_penalty(u, *options_)

    return reference.double_backward(define, (u,), directions, grad, needs)


PENALTY, PENALTY_BACKWARD, PENALTY_DOUBLE_BACKWARD = differentiable(
    "jacobian_penalty(Tensor u, float threshold, str kind, str scheme, float[] spacing) -> Tensor",
    function="jacobian_penalty",
    check=check,
    shape=_shape,
    accumulated=True,
    definition=reference.jacobian_penalty,
    choices={"kind": KINDS, "scheme": _checks.SCHEMES},
    serve={"cuda": _serve_cuda},
    double_backward=_double_backward,
)
