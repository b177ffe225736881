"""Smoothing by a Gaussian along one axis."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def gaussian_smooth(images: Tensor, axis: int, sigma: float) -> Tensor:
    """Smooths along one axis, the edge repeated beyond the border.

    The window is cut at three standard deviations and sums to one.

    Args:
        images: any shape, floating point.
        axis: the axis to smooth along.
        sigma: standard deviation in voxels; 0 returns ``images`` itself.

    Raises:
        ValueError: sigma is negative or not finite.
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be at least 0 voxels; got {sigma}")
    if sigma == 0:
        return images
    half = math.ceil(3 * sigma)
    offsets = torch.arange(-half, half + 1, dtype=images.dtype, device=images.device)
    window = torch.exp(-0.5 * (offsets / sigma).square())
    rows = images.movedim(axis, -1)
    flat = functional.pad(rows.reshape(-1, 1, rows.shape[-1]), (half, half), "replicate")
    smooth = functional.conv1d(flat, (window / window.sum()).reshape(1, 1, -1))
    return smooth.reshape(rows.shape).movedim(-1, axis)
