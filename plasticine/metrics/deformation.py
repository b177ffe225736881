"""How right a deformation is, and how well its inverse undoes it.

Folds, their fraction, SDlogJ and the non-diffeomorphic volume are ``plasticine.folding``'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from plasticine.metrics.images import check_pair, check_tensor
from plasticine.nn.validity import validity_mask
from plasticine.ops.compose import compose


def end_point_error_map(
    displacement: torch.Tensor, truth: torch.Tensor, *, spacing: Sequence[float] | None = None
) -> torch.Tensor:
    """Distance of where each voxel is sent from where it should be sent.

    Args:
        displacement: ``(N, d, *spatial)``, voxels, floating point.
        truth: The same shape.
        spacing: Voxel size along each axis; None measures in voxels.

    Returns:
        ``(N, 1, *spatial)``, float64.

    Raises:
        TypeError: A field is not floating point.
        ValueError: Shapes or devices differ, there are not as many components as axes, or the
            spacing is not a positive number for each.
    """
    check_pair(displacement, truth, ("displacement", "truth"))
    return _lengths(displacement.double() - truth.double(), spacing)


def end_point_error(
    displacement: torch.Tensor,
    truth: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    spacing: Sequence[float] | None = None,
) -> float:
    """Mean end-point error; see `end_point_error_map`.

    Args:
        displacement: ``(N, d, *spatial)``, voxels, floating point.
        truth: The same shape.
        mask: Boolean ``(N, 1, *spatial)``: which voxels count; None for all.
        spacing: Voxel size along each axis; None measures in voxels.

    Returns:
        The mean; NaN for an empty mask, or where a voxel that counts is NaN.

    Raises:
        TypeError: A field is not floating point, or the mask is not boolean.
        ValueError: Shapes, devices or the spacing do not fit.
    """
    return _mean(end_point_error_map(displacement, truth, spacing=spacing), mask)


def inverse_consistency_error(
    displacement: torch.Tensor,
    inverse: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    spacing: Sequence[float] | None = None,
) -> float:
    """Mean distance of φ⁻¹(φ(p)) from p.

    Args:
        displacement: ``(N, d, *spatial)``, voxels: u of φ = id + u.
        inverse: The same shape: the displacement of φ⁻¹.
        mask: Boolean ``(N, 1, *spatial)``: which voxels p count; None for those that φ sends
            inside the image, where φ⁻¹ is known.
        spacing: Voxel size along each axis; None measures in voxels.

    Returns:
        The mean; NaN where no voxel counts.

    Raises:
        TypeError: A field is not floating point, or the mask is not boolean.
        ValueError: Shapes, devices or the spacing do not fit.
    """
    check_pair(displacement, inverse, ("displacement", "inverse"))
    left = _lengths(compose(inverse.double(), displacement.double()), spacing)
    return _mean(left, validity_mask(displacement) if mask is None else mask)


def _lengths(field: torch.Tensor, spacing: Sequence[float] | None) -> torch.Tensor:
    ndim = field.dim() - 2
    if field.shape[1] != ndim:
        raise ValueError(f"expected {ndim} components for {ndim} axes, got {tuple(field.shape)}")
    if spacing is not None:
        if len(spacing) != ndim or not all(0 < size < math.inf for size in spacing):
            raise ValueError(f"spacing: expected {ndim} positive numbers, got {list(spacing)}")
        sizes = torch.tensor(list(spacing), dtype=field.dtype, device=field.device)
        field = field * sizes.reshape(1, -1, *[1] * ndim)
    return torch.linalg.vector_norm(field, dim=1, keepdim=True)


def _mean(values: torch.Tensor, mask: torch.Tensor | None) -> float:
    if mask is None:
        return float(values.mean())
    check_tensor(mask, "mask")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: expected a boolean tensor, got {mask.dtype}")
    if mask.shape != values.shape or mask.device != values.device:
        raise ValueError(
            f"mask: expected shape {tuple(values.shape)} on {values.device}, "
            f"got {tuple(mask.shape)} on {mask.device}"
        )
    return float(values[mask].mean())
