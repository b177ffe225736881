"""``plasticine.jacobian_determinant``: how a displacement changes volume, voxel by voxel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from torch import Tensor

from plasticine import reference
from plasticine.ops import _checks, _words
from plasticine.ops._differentiable import differentiable


@_words.checks_inside
def jacobian_determinant(
    displacement: Tensor,
    *,
    scheme: str = "central",
    spacing: Sequence[float] | None = None,
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Tensor:
    """``det(I + du_i / dx_j)``: the local volume ratio of ``p + u(p)``; 0 or less where it folds.

    Args:
        displacement: ``(N, d, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16, in
            voxels, or in the unit of ``spacing``. Half types are computed in float32, and returned
            in it under ``torch.autocast``.
        scheme: the finite differences: "central" (one-sided at the border), "forward" or
            "backward" (falling back to the other side at the last or first voxel). An axis of
            length 1 has derivative 0.
        spacing: the voxel size along each spatial axis; None for a displacement in voxels.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Returns:
        ``(N, 1, *spatial)`` in the dtype of the displacement. Differentiable twice, and in forward
        mode; the latter two are the definition's, whatever the backend.

    Raises:
        TypeError: ``displacement`` is no tensor or of a dtype that is not served.
        ValueError: a shape or an option is not one of those above.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    if _unknown:
        _words.refuse(jacobian_determinant, _unknown)
    _checks.is_tensor(displacement, "displacement")
    ndim = _checks.field(displacement, "displacement")
    return JACOBIAN(displacement, scheme, _checks.spacing_of(spacing, ndim), backend)


def check(displacement: Tensor, scheme: str, spacing: Sequence[float]) -> None:
    """Raises unless the arguments fit together."""
    ndim = _checks.field(displacement, "displacement")
    _checks.spacing_of(spacing, ndim)


def _shape(displacement: Tensor, scheme: str, spacing: Sequence[float]) -> tuple[int, ...]:
    batch, _, *size = displacement.shape  # faster than slices
    return batch, 1, *size


def _double_backward(
    directions: Sequence[Tensor | None],
    grad: Tensor,
    displacement: Tensor,
    scheme: str,
    spacing: Sequence[float],
    needs: Sequence[bool],
) -> Sequence[Tensor | None]:
    def define(displacement: Tensor) -> Tensor:
        return reference.jacobian_determinant(displacement, scheme, spacing)

    return reference.double_backward(define, (displacement,), directions, grad, needs)


JACOBIAN, JACOBIAN_BACKWARD, JACOBIAN_DOUBLE_BACKWARD = differentiable(
    "jacobian(Tensor displacement, str scheme, float[] spacing) -> Tensor",
    function="jacobian_determinant",
    check=check,
    shape=_shape,
    definition=reference.jacobian_determinant,
    choices={"scheme": _checks.SCHEMES},
    double_backward=_double_backward,
)
