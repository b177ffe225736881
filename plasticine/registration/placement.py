"""Whether an affine map is a better place to deform from than where the headers put the images."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from plasticine.nn.validity import validity_mask
from plasticine.ops.gaussian_smooth import gaussian_smooth
from plasticine.ops.lncc import lncc
from plasticine.registration.affine_registration import AffineMap, map_of
from plasticine.registration.descent import Descent

_COARSE = 2
"""Levels of the registration that the two are tried by."""
_COVERED = 0.95
"""Of the fixed voxels, at least, the headers' place must put within the moving image."""
_BETTER = 1.03
"""By so much must the headers' place be the better one."""
_SIGMA, _WINDOW = 1.0, 9
"""Of the comparison, voxels: coarse levels leave detail as it is."""


def affine_or_placed(
    found: AffineMap,
    registration: Descent,
    moving: Tensor,
    fixed: Tensor,
    moving_affine: Tensor,
    fixed_affine: Tensor,
    *,
    moving_mask: Tensor | None,
    fixed_mask: Tensor | None,
) -> AffineMap:
    """The map from which a coarse deformation makes images more alike: what was found, or none.

    An affine map is judged by the images as they are, where it is what a deformation makes of it
    that counts. Of images that were cut out around one organ, such as hearts of two people, the
    cuts lie on one another already, and an affine map may bring the ribs together and the hearts
    apart. Where the two are as good, or the cuts lie elsewhere, the affine map remains.

    Args:
        found: the affine registration.
        registration: the deformable one, whose first levels are tried.
        moving: (1, C, *spatial), of which the first channel is compared.
        fixed: (1, C, *its own spatial), likewise.
        moving_affine: (d + 1, d + 1) float64, voxels to millimetres.
        fixed_affine: likewise.
        moving_mask: (1, 1, *spatial of moving).
        fixed_mask: (1, 1, *spatial of fixed).

    Returns:
        ``found``, or the map of the start "header" that moves nothing.
    """
    identity = torch.eye(fixed.ndim - 1, dtype=torch.float64)
    placed = map_of(identity, moving_affine, fixed_affine, "header")
    still = fixed.new_zeros(1).expand(1, fixed.ndim - 2, *fixed.shape[2:])
    covered = validity_mask(still, placed.voxels[None].to(fixed), tuple(moving.shape[2:]))
    if float(covered.float().mean()) < _COVERED:
        return found
    coarse = dataclasses.replace(registration, levels=registration.levels[:_COARSE])
    spacing = fixed_affine[:-1, :-1].norm(dim=0).tolist()
    target = gaussian_smooth(fixed[:, :1], _SIGMA)

    def likeness(affine: AffineMap) -> float:
        mapping = coarse(
            moving,
            fixed,
            affine=affine.voxels[None].to(fixed),
            spacing=spacing,
            moving_mask=moving_mask,
            fixed_mask=fixed_mask,
        )
        warped = gaussian_smooth(mapping.warp(moving[:, :1]), _SIGMA)
        return float(lncc(warped, target, window=_WINDOW, mask=fixed_mask))

    return placed if likeness(placed) > _BETTER * likeness(found) else found
