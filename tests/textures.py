"""Smooth images and velocities, drawn for registrations to find."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine import gaussian_smooth


def texture(size: tuple[int, ...], count: int = 1, channels: int = 1, seed: int = 0) -> Tensor:
    """Smooth images within [-1, 1]."""
    noise = torch.randn((count, channels, *size), generator=torch.Generator().manual_seed(seed))
    smooth = gaussian_smooth(noise, 1.5)
    return smooth / smooth.flatten(2).abs().amax(2).view(count, channels, *[1] * len(size))


def smooth_velocity(size: tuple[int, ...], voxels: float, seed: int = 1) -> Tensor:
    """A smooth field, so many voxels long in the mean."""
    generator = torch.Generator().manual_seed(seed)
    drawn = gaussian_smooth(torch.randn((1, len(size), *size), generator=generator), 6)
    return voxels * drawn / drawn.norm(dim=1).mean()


def inside(size: tuple[int, ...]) -> Tensor:
    """All but the outermost four voxels."""
    mask = torch.zeros(1, 1, *size, dtype=torch.bool)
    mask[(slice(None), slice(None), *[slice(4, -4)] * len(size))] = True
    return mask
