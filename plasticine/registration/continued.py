"""A velocity that begins from a displacement: the deformation that is left, after what is known."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from plasticine.nn.points import move_points
from plasticine.ops.compose import compose
from plasticine.registration.displaced import AffineDisplacement
from plasticine.registration.landmarks import Landmarks, mapped
from plasticine.registration.unfolding import unfolded
from plasticine.registration.velocity import VelocityRegistration


@torch.no_grad()
def continued(
    registration: VelocityRegistration,
    moving: Tensor,
    fixed: Tensor,
    *,
    affine: Tensor,
    initial: Tensor,
    moving_mask: Tensor | None = None,
    landmarks: Landmarks | None = None,
    **options: Any,
) -> AffineDisplacement:
    """φ = A∘(id + initial)∘exp(v).

    A displacement is in general no exponential of a stationary velocity, so none can begin at it.
    The moving image is carried by it once, and v is found between that and the fixed image.

    Args:
        registration: how v is found.
        moving: as ``Descent`` takes it.
        fixed: likewise.
        affine: (N, d, d + 1), A, fixed voxels to moving voxels.
        initial: (N, d, *fixed spatial), voxels of the fixed image; smoothed where it folds.
        moving_mask: as ``Descent`` takes it.
        landmarks: likewise.
        options: what else it takes.

    Returns:
        φ, without folds. It has no velocity: as a whole it is no exponential.
    """
    begun = AffineDisplacement(unfolded(initial), affine, tuple(moving.shape[2:]))
    if moving_mask is not None:
        counts = moving_mask.to(fixed.dtype).expand(len(fixed), *moving_mask.shape[1:])
        moving_mask = begun.warp(counts, padding="zeros")
    if landmarks is not None:
        back = begun.inverse()
        assert back.affine is not None  # it has one where the map has
        points = landmarks.moving.to(back.displacement).expand(len(fixed), -1, -1)
        points = mapped(back.affine, move_points(points, back.displacement))
        landmarks = dataclasses.replace(
            landmarks, moving=points, fixed=landmarks.fixed.double().expand_as(points)
        )
    left = registration(
        begun.warp(moving), fixed, moving_mask=moving_mask, landmarks=landmarks, **options
    )
    u = compose(begun.displacement, left.displacement)
    return dataclasses.replace(begun, displacement=unfolded(u))
