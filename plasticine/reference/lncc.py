"""Definition of ``lncc``: the squared correlation of two images in a window around every voxel."""

from __future__ import annotations

import torch
from torch import Tensor

#: A window whose variance is no more of its mean square is flat.
FLAT = 1e-10


def lncc(x: Tensor, y: Tensor, window: int = 9) -> Tensor:
    """The mean over channels and voxels of :func:`squared_correlation`.

    Args:
        x: ``(N, C, *spatial)``.
        y: of the shape of ``x``.
        window: the side of the window in voxels, odd.

    Returns:
        ``(N,)`` in the dtype of ``x``; NaN of images without voxels.
    """
    # Devices without float64 take what they have.
    precision = torch.float32 if x.device.type == "mps" else torch.float64
    correlation = squared_correlation(x.to(precision), y.to(precision), window)
    return correlation.flatten(1).mean(1).to(x.dtype)


def squared_correlation(x: Tensor, y: Tensor, window: int) -> Tensor:
    """``cross ** 2 / (variance_x * variance_y)`` over the voxels of a window inside the image.

    0, with a gradient of 0, where a window is flat in either image.
    """
    count = window_sum(torch.ones_like(x), window)
    mean_x, mean_y = window_sum(x, window) / count, window_sum(y, window) / count
    square_x, square_y = window_sum(x * x, window) / count, window_sum(y * y, window) / count
    variance_x, variance_y = square_x - mean_x * mean_x, square_y - mean_y * mean_y
    cross = window_sum(x * y, window) / count - mean_x * mean_y
    is_flat = (variance_x <= FLAT * square_x) | (variance_y <= FLAT * square_y)
    is_flat = is_flat & ~(variance_x + variance_y).isnan()  # a NaN stays one
    # Replaced before the division too, whose gradient would be NaN.
    variance_x, variance_y = (x.masked_fill(is_flat, 1) for x in (variance_x, variance_y))
    return ((cross / variance_x) * (cross / variance_y)).masked_fill(is_flat, 0)


def window_sum(x: Tensor, window: int) -> Tensor:
    """Sums of ``(N, C, *spatial)`` over a box around every voxel, with zeros outside."""
    for axis in range(2, x.dim()):
        outside = x.new_zeros([*x.shape[:axis], window // 2, *x.shape[axis + 1 :]])
        padded, size = torch.cat([outside, x, outside], axis), x.shape[axis]
        x = torch.stack([padded.narrow(axis, i, size) for i in range(window)]).sum(0)
    return x
