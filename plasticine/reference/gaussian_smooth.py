"""Definition of ``gaussian_smooth``: a cut-off Gaussian along each axis, the edge repeated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def gaussian_smooth(
    images: Tensor, sigma: float | Sequence[float], adjoint: bool = False
) -> Tensor:
    """Smooths along every spatial axis.

    Args:
        images: ``(N, C, *spatial)``, floating point.
        sigma: standard deviation in voxels, or one for each spatial axis.
        adjoint: apply the transposed map, which the repeated edge tells from the map itself.

    Returns:
        ``(N, C, *spatial)`` in the dtype of the images; half types are computed in float32.
    """
    ndim = images.dim() - 2
    sigmas = [float(sigma)] * ndim if isinstance(sigma, int | float) else sigma
    smooth = images.to(torch.promote_types(images.dtype, torch.float32), copy=True)
    for axis, width in enumerate(sigmas, 2):
        if width > 0 and images.numel() > 0:
            smooth = _along(smooth, axis, gaussian_window(width), adjoint)
    return smooth.to(images.dtype)


def gaussian_window(sigma: float) -> list[float]:
    """An odd number of weights that sum to 1, cut off at three standard deviations.

    These are rounded to whole voxels, and one at least.
    """
    radius = max(1, round(3 * sigma))
    steps = [abs(step) / sigma for step in range(-radius, radius + 1)]
    weights = [math.exp(-0.5 * step * step) for step in steps]
    total = sum(weights)
    return [weight / total for weight in weights]


def _along(images: Tensor, axis: int, window: Sequence[float], adjoint: bool) -> Tensor:
    radius, size = len(window) // 2, images.shape[axis]
    # Which voxel each place stands for, from a window's reach before the first to one after it.
    index = torch.arange(-radius, size + radius, device=images.device).clamp_(0, size - 1)
    if not adjoint:
        padded = images.index_select(axis, index)
        # Sums of shifted views: thirty times a convolution with so small a kernel on a CPU.
        return sum(
            (padded.narrow(axis, start, size) * weight for start, weight in enumerate(window)),
            torch.zeros_like(images),
        )
    spread = images.new_zeros([*images.shape[:axis], len(index), *images.shape[axis + 1 :]])
    for start, weight in enumerate(window):
        spread.narrow(axis, start, size).add_(images * weight)
    return torch.zeros_like(images).index_add(axis, index, spread)
