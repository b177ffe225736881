"""Definition of ``jacobian_determinant``: ``det(I + du/dx)`` by finite differences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def jacobian_determinant(
    displacement: Tensor, scheme: str = "central", spacing: Sequence[float] | None = None
) -> Tensor:
    """The determinant of the gradient of ``p + u(p)`` in every voxel.

    Args:
        displacement: ``(N, d, *spatial)`` in the unit of ``spacing``.
        scheme: "central" (one-sided at the border), "forward" or "backward" (falling back to the
            other side at the last or first voxel).
        spacing: the voxel size along each axis; None for 1.

    Returns:
        ``(N, 1, *spatial)`` in the dtype of the displacement; half types are computed in float32.
    """
    precision = torch.promote_types(displacement.dtype, torch.float32)
    field = displacement.to(precision)
    ndim = displacement.shape[1]
    spacing = (1.0,) * ndim if spacing is None else spacing
    rows = []
    for i in range(ndim):
        row = [derivative(field[:, i], j, scheme) / spacing[j] for j in range(ndim)]
        row[i] = row[i] + 1
        rows.append(row)
    return determinant(rows).unsqueeze(1).to(displacement.dtype)


def derivative(component: Tensor, axis: int, scheme: str) -> Tensor:
    """The finite difference of ``(N, *spatial)`` along a spatial axis, in voxels; 0 on length 1."""
    axis += 1
    size = component.shape[axis]
    if size < 2:
        return component * 0
    step = component.narrow(axis, 1, size - 1) - component.narrow(axis, 0, size - 1)
    first = step.narrow(axis, 0, 1)
    last = step.narrow(axis, size - 2, 1)
    if scheme == "forward":
        return torch.cat([step, last], axis)
    if scheme == "backward":
        return torch.cat([first, step], axis)
    inner = component.narrow(axis, 2, size - 2) - component.narrow(axis, 0, size - 2)
    return torch.cat([first, inner / 2, last], axis)


def determinant(rows: list[list[Tensor]]) -> Tensor:
    """The determinant of a 2 x 2 or 3 x 3 matrix of tensors."""
    if len(rows) == 2:
        (a, b), (c, d) = rows
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
