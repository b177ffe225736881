"""What a deformation and its inverse must be: each other's."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.nn.validity import validity_mask
from plasticine.ops.compose import compose


def inverse_consistency(
    u: Tensor, u_inverse: Tensor, valid: Tensor | None = None, valid_inverse: Tensor | None = None
) -> Tensor:
    """Mean squared length of what remains when a map and its inverse follow each other.

    Half the sum over both orders: u(p) + u_inverse(p + u(p)) over the voxels p that φ
    sends inside the grid, and the same with the two exchanged; averaged over samples.

    Args:
        u: (N, d, *spatial) displacement, voxels.
        u_inverse: like u, the displacement of the inverse map.
        valid: (N, 1, *spatial) bool, where p + u(p) counts; None is ``validity_mask(u)``.
        valid_inverse: likewise for u_inverse.

    Returns:
        A scalar in squared voxels, of u's dtype. A sample of which nothing lands inside has 0.

    Raises:
        TypeError: a field is not floating point, a mask is not bool, or the dtypes differ.
        ValueError: shapes or devices do not fit.
    """
    _check_field("u", u)
    _check_field("u_inverse", u_inverse)
    if u.shape != u_inverse.shape:
        raise ValueError(
            "u and u_inverse must have one shape; "
            f"got {tuple(u.shape)} and {tuple(u_inverse.shape)}"
        )
    return 0.5 * (
        _mean_squared_length(compose(u_inverse, u), valid, u)
        + _mean_squared_length(compose(u, u_inverse), valid_inverse, u_inverse)
    )


def _check_field(name: str, field: Tensor) -> None:
    if not field.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {field.dtype}")
    if field.ndim not in (4, 5) or field.shape[1] != field.ndim - 2 or field.numel() == 0:
        raise ValueError(
            f"{name} must be (N, d, *spatial) with d = 2 or 3 spatial axes, not empty; "
            f"got {tuple(field.shape)}"
        )


def _mean_squared_length(residual: Tensor, valid: Tensor | None, displacement: Tensor) -> Tensor:
    if valid is None:
        valid = validity_mask(displacement)
    if valid.dtype != torch.bool:
        raise TypeError(f"a validity mask must be bool; got {valid.dtype}")
    if valid.shape != (residual.shape[0], 1, *residual.shape[2:]):
        raise ValueError(
            f"a validity mask of {tuple(residual.shape)} displacements must be "
            f"{(residual.shape[0], 1, *residual.shape[2:])}; got {tuple(valid.shape)}"
        )
    squared = residual.square().sum(1, keepdim=True)
    inside = torch.where(valid, squared, 0.0).flatten(1).sum(1)
    return (inside / valid.flatten(1).sum(1).clamp_min(1)).mean()
