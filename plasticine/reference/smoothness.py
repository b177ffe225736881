"""Definition of ``smoothness``: the diffusion and the bending energy by finite differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def smoothness(
    v: Tensor, order: int = 1, scheme: str = "forward", spacing: Sequence[float] | None = None
) -> Tensor:
    """Of all derivatives of one order of all components the mean squares, added up.

    Args:
        v: ``(N, d, *spatial)``.
        order: 1 or 2.
        scheme: "forward" or "central": see :func:`squared_derivatives`.
        spacing: the voxel size along each axis; None for 1.

    Returns:
        ``(N,)``, float64 of a float64 field, else float32; 0 where there are no differences.
    """
    field = v.to(torch.promote_types(v.dtype, torch.float32))
    axes = range(v.dim() - 2)
    spacing = (1.0,) * len(axes) if spacing is None else spacing
    total = field.new_zeros(len(field))
    # Of a mixed derivative and its twin there is one here, which counts twice.
    for derived in itertools.combinations_with_replacement(axes, order):
        difference = derivative(field, derived, scheme)
        if math.prod(difference.shape[1:]) > 0:
            weight = len(set(derived)) / math.prod(spacing[axis] for axis in derived) ** 2
            squares = difference.square().flatten(2).mean(2).sum(1)
            total = total + weight * squares
    return total


def derivative(field: Tensor, derived: Sequence[int], scheme: str) -> Tensor:
    """The finite difference of ``(N, d, *spatial)`` along one axis or two, in voxels.

    "forward": ``v(p + 1) - v(p)``, of each of two unlike axes in turn, and ``[1, -2, 1]`` along one
    axis twice; wherever the voxels exist. "central": ``(v(p + 1) - v(p - 1)) / 2`` and, along one
    axis twice, ``[1, -2, 1]``; where the voxels on both sides along all axes exist. An axis of
    fewer than three voxels is none of these.
    """
    if scheme == "central":
        for axis in range(2, field.dim()):
            is_derived = axis - 2 in derived
            if field.shape[axis] < 3:
                field = field.narrow(axis, 0, 0) if is_derived else field
            elif not is_derived:
                field = field.narrow(axis, 1, field.shape[axis] - 2)
    for axis in sorted(set(derived)):
        if derived.count(axis) == 2:
            field = field.diff(n=2, dim=axis + 2)
        elif scheme == "forward":
            field = field.diff(dim=axis + 2)
        else:
            size = max(field.shape[axis + 2] - 2, 0)
            lower = field.narrow(axis + 2, 0, size)
            field = (field.narrow(axis + 2, field.shape[axis + 2] - size, size) - lower) / 2
    return field
