"""Where a deformation lands inside the image that it samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def validity_mask(
    displacement: Tensor, affine: Tensor | None = None, size: Sequence[int] | None = None
) -> Tensor:
    """True where the sample location lies within the sampled image.

    The location is that of ``plasticine.warp``: affine applied to p (p itself without one)
    plus displacement(p). Within means between the first and the last voxel centre of every
    axis, both included, where interpolation invents nothing; NaN is not within.

    Args:
        displacement: (N, d, *spatial), voxels.
        affine: (N, d, d + 1) in voxels, or None for the identity; N may be 1 against N.
        size: spatial size of the sampled image; None is the displacement's own.

    Returns:
        (N, 1, *spatial) bool, without gradient.

    Raises:
        TypeError: the displacement is not floating point, or the affine has another dtype.
        ValueError: shapes, sizes or devices do not fit.
    """
    ndim = displacement.ndim - 2
    if not displacement.is_floating_point():
        raise TypeError(f"displacement must be floating point; got {displacement.dtype}")
    if ndim not in (2, 3) or displacement.shape[1] != ndim:
        raise ValueError(
            "displacement must be (N, d, *spatial) with d = 2 or 3 spatial axes; "
            f"got {tuple(displacement.shape)}"
        )
    spatial = displacement.shape[2:]
    size = tuple(spatial if size is None else size)
    if len(size) != ndim:
        raise ValueError(f"size must have {ndim} numbers; got {size}")
    if affine is not None:
        _check_affine(affine, displacement)
    # Voxel numbers beyond 2048 do not exist in half precision.
    precision = torch.promote_types(displacement.dtype, torch.float32)
    axes = [
        torch.arange(n, dtype=precision, device=displacement.device).view(
            [-1 if axis == other else 1 for other in range(ndim)]
        )
        for axis, n in enumerate(spatial)
    ]
    inside: Tensor | None = None
    for row in range(ndim):
        location = displacement[:, row].to(precision)
        if affine is None:
            location = location + axes[row]
        else:
            entries = affine[:, row].to(precision).view(len(affine), ndim + 1, *([1] * ndim))
            for column, axis in enumerate(axes):
                location = location + entries[:, column] * axis
            location = location + entries[:, ndim]
        within = (location >= 0) & (location <= size[row] - 1)
        inside = within if inside is None else inside & within
    assert inside is not None
    return inside.unsqueeze(1)


def _check_affine(affine: Tensor, displacement: Tensor) -> None:
    ndim = displacement.shape[1]
    if affine.dtype != displacement.dtype:
        raise TypeError(
            f"affine must have the displacement's dtype {displacement.dtype}; got {affine.dtype}"
        )
    if affine.device != displacement.device:
        raise ValueError(
            f"affine must be on the displacement's device {displacement.device}; "
            f"got {affine.device}"
        )
    count = len(displacement)
    if affine.shape[1:] != (ndim, ndim + 1) or not (
        len(affine) == count or 1 in (len(affine), count)
    ):
        raise ValueError(
            f"affine must be (N, {ndim}, {ndim + 1}) for {tuple(displacement.shape)} "
            f"displacements; got {tuple(affine.shape)}"
        )
