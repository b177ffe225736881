"""Smoothing by a Gaussian, along one axis or all."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_smooth(images: Tensor, axis: int, sigma: float) -> Tensor:
    """Smooths along one axis, the edge repeated beyond the border.

    The window is cut at three standard deviations, rounded to whole voxels, and sums to one.

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
    radius = max(1, round(3 * sigma))
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-radius, radius + 1)]
    total = sum(weights)
    size = images.shape[axis]
    index = torch.arange(-radius, size + radius, device=images.device).clamp_(0, size - 1)
    padded = images.index_select(axis, index)
    # Sums of shifted views: thirty times a convolution with so small a kernel on a CPU.
    smooth = torch.zeros_like(images)
    for start, weight in enumerate(weights):
        smooth.add_(padded.narrow(axis, start, size), alpha=weight / total)
    return smooth


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Smooths along every spatial axis, as ``gaussian_smooth`` does along one.

    Args:
        images: (N, C, *spatial), floating point.
        sigma: standard deviation in voxels; 0 returns ``images`` itself.

    Raises:
        ValueError: sigma is negative or not finite.
    """
    for axis in range(2, images.ndim):
        images = gaussian_smooth(images, axis, sigma)
    return images
