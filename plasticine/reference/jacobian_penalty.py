"""Definition of ``jacobian_penalty``: what a displacement pays for where it shrinks or folds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.reference.jacobian import jacobian_determinant


def jacobian_penalty(
    u: Tensor,
    threshold: float = 0.05,
    kind: str = "hinge",
    scheme: str = "central",
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """The mean over voxels of :func:`penalty` of the Jacobian determinant.

    Args:
        u: ``(N, d, *spatial)`` in the unit of ``spacing``.
        threshold: see :func:`penalty`.
        kind: "hinge" or "log".
        scheme: the finite differences: see ``jacobian_determinant``.
        spacing: the voxel size along each axis; None for 1.

    Returns:
        ``(N,)``, float64 of a float64 displacement, else float32; 0 of one without voxels.
    """
    field = u.to(torch.promote_types(u.dtype, torch.float32))
    if field.shape[1:].numel() == 0:
        return field.flatten(1).sum(1)
    jacobian = jacobian_determinant(field, scheme, spacing)
    return penalty(jacobian, threshold, kind).flatten(1).mean(1)


def penalty(jacobian: Tensor, threshold: float, kind: str) -> Tensor:
    """``relu(threshold - J)``, or ``log(J) ** 2``, which goes on as a line below the threshold."""
    if kind == "hinge":
        return (threshold - jacobian).relu()
    at_threshold = math.log(threshold)
    is_above = jacobian > threshold
    # Replaced before the logarithm too, whose gradient would be NaN.
    logarithm = torch.where(is_above, jacobian, threshold).log()
    line = at_threshold**2 + 2 * at_threshold / threshold * (jacobian - threshold)
    return torch.where(is_above, logarithm.square(), line)
