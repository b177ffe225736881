"""One deformation for all slices of a volume that a two-dimensional model sees slice by slice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine.ops.folding import Folding, folding
from plasticine.ops.gaussian_smooth import gaussian_smooth
from plasticine.registration.affine import affine_exponential
from plasticine.registration.deformation import Deformation


def stack_deformation(
    parts: Sequence[Deformation], body: Tensor, slice_smoothing: float
) -> Deformation:
    """The slices' deformations as one of the volume, which leaves every slice in its place.

    The velocities, stacked, are smoothed by a Gaussian across slices, so that neighbouring
    slices move alike. All slices share one affine map: the exponential of the mean of their
    logarithms, each counted as much as its slice holds of the body. Nothing moves across slices,
    so the volume's Jacobian determinant is the slice's own.

    Args:
        parts: the deformations of neighbouring slices, in order, each (n, 2, rows, columns).
        body: (N,) voxels of the body in each of the N slices; at least 0.
        slice_smoothing: standard deviation of the Gaussian, in slices; 0 leaves the velocities.

    Returns:
        The deformation of the N slices, (N, 2, rows, columns), without features.

    Raises:
        ValueError: slice_smoothing is negative or not finite.
    """
    first = parts[0]
    affine = inverse_affine = mean = None
    if first.log_affine is not None:
        log_affines = torch.cat([part.log_affine for part in parts if part.log_affine is not None])
        weight = body.to(log_affines) if body.any() else torch.ones_like(log_affines[:, 0, 0])
        mean = torch.einsum("n,nij->ij", weight / weight.sum(), log_affines)
        mean = mean.expand_as(log_affines)
        affine, inverse_affine = affine_exponential(mean, first.velocity.shape[2:])
    inverses = [p.inverse_velocity for p in parts if p.inverse_velocity is not None]
    return dataclasses.replace(
        first,
        velocity=_across_slices([part.velocity for part in parts], slice_smoothing),
        inverse_velocity=_across_slices(inverses, slice_smoothing) if inverses else None,
        affine=affine,
        inverse_affine=inverse_affine,
        log_affine=mean,
        features=(),
    )


def stack_part(stack: Deformation, first: int, count: int) -> Deformation:
    """The deformation of ``count`` of a stack's slices, from the slice ``first`` on."""
    tensors = {name: value for name, value in vars(stack).items() if isinstance(value, Tensor)}
    cut: dict[str, Any] = {name: tensor[first : first + count] for name, tensor in tensors.items()}
    return dataclasses.replace(stack, **cut, features=())


def stack_folding(displacement: Tensor, *, one_field: bool = True) -> Folding:
    """The folding statistics of a stack's displacement, as the one field of a volume or by image.

    Args:
        displacement: (N, 2, rows, columns) voxels, of neighbouring slices; or any displacement
            that is not one field.
        one_field: whether it is the one field of a volume.

    Returns:
        The statistics of the field (1, 3, N, rows, columns) whose component across slices is 0;
        those of each image where it is not one field, and of the plane where there is but one
        slice, which has no cells of a volume.
    """
    if not one_field or len(displacement) == 1:
        return folding(displacement)
    within = displacement.movedim(0, 1)
    return folding(torch.cat([torch.zeros_like(within[:1]), within])[None])


def _across_slices(velocities: Sequence[Tensor], sigma: float) -> Tensor:
    stack = torch.cat(list(velocities)).movedim(0, 1)[None]
    return gaussian_smooth(stack, (sigma, 0, 0))[0].movedim(1, 0).contiguous()
