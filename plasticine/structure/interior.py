"""Grey levels of the body's interior, brought to those of other images."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.nn.body import exterior
from plasticine.structure.contour import clipped_distance

BACKGROUND = 0.05
"""Intensity up to which a voxel that is joined to the image's border lies outside of the body."""
LEVELS = 67
"""Grey levels that a curve is known at: quantiles, and the ends of [0, 1]."""


def depth_in_body(images: Tensor, reach: int) -> Tensor:
    """How far each voxel lies from the outside of the body, in voxels, at most ``reach``.

    Args:
        images: (N, 1, *spatial) within [0, 1].
        reach: voxels, at least 1.

    Returns:
        (N, 1, *spatial), float32.
    """
    return clipped_distance(exterior(images, BACKGROUND), reach)


def interior_curve(
    made: Tensor, made_depth: Tensor, real: Tensor, real_depth: Tensor, depth: int
) -> Tensor:
    """How the grey levels of pictures become those of real images, deep inside the body.

    Args:
        made: (N, 1, *spatial) within [0, 1], the pictures that a network made.
        made_depth: like made, ``depth_in_body`` of the images that they were made of.
        real: (M, 1, *spatial) within [0, 1], images of the domain that ``made`` shows.
        real_depth: like real, ``depth_in_body`` of them.
        depth: voxels from the body's surface at which its interior begins, at least 1.

    Returns:
        (2, LEVELS): grey levels of ``made`` and what they become, both ascending from 0 to 1;
        between the ends, equally spaced quantiles of all of the interior's voxels together.

    Raises:
        ValueError: no voxel lies that deep.
    """
    return torch.stack([_levels(made, made_depth, depth), _levels(real, real_depth, depth)])


def check_interior(images: Tensor, depth: int) -> None:
    """Refuses images of which ``interior_curve`` knows no grey level.

    Args:
        images: (N, 1, *spatial) within [0, 1].
        depth: voxels from the body's surface at which its interior begins, at least 1.

    Raises:
        ValueError: no voxel lies that deep.
    """
    _levels(images, depth_in_body(images, depth), depth)


def match_interior(made: Tensor, made_depth: Tensor, curve: Tensor, depth: int) -> Tensor:
    """Sends the grey levels of the body's interior through a curve.

    It acts in full from ``depth`` on, and fades to nothing at half of that: near the surface,
    outline and partial volumes rule, and two domains' quantiles are of different things.

    Args:
        made: (N, 1, *spatial) within [0, 1].
        made_depth: like made, ``depth_in_body`` of the images that they were made of.
        curve: of ``interior_curve``; linear between its levels.
        depth: voxels, at least 1.

    Returns:
        Like made, within [0, 1].
    """
    found, wanted = curve.to(made.dtype)
    place = torch.searchsorted(found, made.contiguous(), right=True).clamp(1, LEVELS - 1)
    low, high = found[place - 1], found[place]
    share = ((made - low) / (high - low).clamp_min(torch.finfo(made.dtype).tiny)).clamp(0, 1)
    matched = torch.lerp(wanted[place - 1], wanted[place], share)
    within = (2 * made_depth / depth - 1).clamp(0, 1).to(made.dtype)
    return torch.lerp(made, matched, within)


def _levels(images: Tensor, depths: Tensor, depth: int) -> Tensor:
    inside = images[depths >= depth]
    if not inside.numel():
        raise ValueError(
            f"no voxel lies {depth} voxels or more inside of a body; the deepest lies "
            f"{float(depths.max()):g}"
        )
    ordered = inside.sort().values
    index = torch.linspace(
        0, len(ordered) - 1, LEVELS - 2, dtype=torch.float32, device=ordered.device
    )
    return torch.cat([ordered.new_zeros(1), ordered[index.round().long()], ordered.new_ones(1)])
