"""Definition of ``lncc``: the correlation of two images in a window around every voxel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: A window whose variance is no more of its mean square is flat.
FLAT = 1e-10
#: Or no more than this, in whatever unit: float32 holds no inverse of much less.
LEAST = 1e-37


def lncc(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    window: int = 9,
    kernel: str = "box",
    squared: bool = True,
    border: str = "inside",
    stabiliser: str = "flat",
    epsilon: float = 0.0,
    numerator: float = 0.0,
) -> Tensor:
    """The mean of :func:`correlation` over channels and voxels, or over what a mask counts.

    Args:
        x: ``(N, C, *spatial)``.
        y: of the shape of ``x``.
        mask: ``(N, 1, *spatial)``, how much each voxel counts; None: all count alike.
        window: as the others, of :func:`correlation`.
        kernel: likewise.
        squared: likewise.
        border: likewise.
        stabiliser: likewise.
        epsilon: likewise.
        numerator: likewise.

    Returns:
        ``(N,)``, float64 of float64 images, else float32; NaN of images without voxels, 0 where
        nothing counts.
    """
    # Devices without float64 take what they have.
    precision = torch.float32 if x.device.type == "mps" else torch.float64
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    mask = None if mask is None else mask.detach().to(precision)
    options = window, kernel, squared, border, stabiliser, epsilon, numerator
    found = correlation(x.to(precision), y.to(precision), mask, *options)
    if mask is None or x[:1].numel() == 0:
        return found.flatten(1).mean(1).to(dtype)
    total = mask.flatten(1).sum(1) * x.shape[1]
    counted = (mask * found).flatten(1).sum(1)
    return (counted / total.masked_fill(total == 0, 1)).to(dtype)


def correlation(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    window: int = 9,
    kernel: str = "box",
    squared: bool = True,
    border: str = "inside",
    stabiliser: str = "flat",
    epsilon: float = 0.0,
    numerator: float = 0.0,
) -> Tensor:
    """``cross ** 2 / (variance_x * variance_y)`` in the window around every voxel.

    Args:
        x: ``(N, C, *spatial)``.
        y: of the shape of ``x``.
        mask: weights of the voxels in all sums; what has none is not looked at.
        window: the side of the window in voxels, odd.
        kernel: "box", or "gaussian": a standard deviation of ``window / 3``, its peak 1.
        squared: otherwise ``cross / sqrt(variance_x * variance_y)``.
        border: "inside": windows are cut off there; "zeros": zeros outside are counted.
        stabiliser: "flat": 0, with a gradient of 0, where a window is flat in either image;
            "floor": variances, times the window's count, of ``epsilon`` at least, and ``numerator``
            added to the square of cross; "offset": ``epsilon`` added to the product of variances.
        epsilon: see there.
        numerator: see there.
    """
    taps = taps_of(window, kernel)
    weight = torch.ones_like(x[:, :1]) if mask is None else mask
    if mask is not None:
        x, y = (image.masked_fill(mask == 0, 0) for image in (x, y))
    count = window_sum(weight, taps, 1.0 if border == "zeros" else 0.0)
    is_empty = count == 0
    count = count.masked_fill(is_empty, 1)
    mean_x, mean_y = window_sum(weight * x, taps) / count, window_sum(weight * y, taps) / count
    square_x, square_y = (window_sum(weight * image * image, taps) / count for image in (x, y))
    variance_x, variance_y = square_x - mean_x * mean_x, square_y - mean_y * mean_y
    cross = window_sum(weight * x * y, taps) / count - mean_x * mean_y
    if stabiliser != "flat":
        variance_x, variance_y, cross = variance_x * count, variance_y * count, cross * count
        if stabiliser == "floor":
            product = variance_x.clamp(min=epsilon) * variance_y.clamp(min=epsilon)
        else:
            product = variance_x * variance_y + epsilon
        return (cross * cross + numerator) / product if squared else cross / product.sqrt()
    is_flat = (variance_x <= FLAT * square_x) | (variance_y <= FLAT * square_y)
    is_flat = is_flat | (variance_x <= LEAST) | (variance_y <= LEAST)
    is_flat = is_flat & ~(variance_x + variance_y).isnan() | is_empty  # a NaN stays one
    # Replaced before the division too, whose gradient would be NaN.
    variance_x, variance_y = (x.masked_fill(is_flat, 1) for x in (variance_x, variance_y))
    if squared:
        found = (cross / variance_x) * (cross / variance_y)
    else:
        found = cross / (variance_x.sqrt() * variance_y.sqrt())
    return found.masked_fill(is_flat, 0)


def taps_of(window: int, kernel: str) -> list[float]:
    """The weights of a window's voxels along one axis."""
    if kernel == "box":
        return [1.0] * window
    sigma = window / 3
    return [math.exp(-0.5 * ((i - window // 2) / sigma) ** 2) for i in range(window)]


def window_sum(x: Tensor, taps: Sequence[float], outside: float = 0.0) -> Tensor:
    """Weighted sums of ``(N, C, *spatial)`` around every voxel, with one value outside."""
    for axis in range(2, x.dim()):
        shape = [*x.shape[:axis], len(taps) // 2, *x.shape[axis + 1 :]]
        border = x.new_full(shape, outside)
        padded, size = torch.cat([border, x, border], axis), x.shape[axis]
        parts = [weight * padded.narrow(axis, i, size) for i, weight in enumerate(taps)]
        x = torch.stack(parts).sum(0)
        outside *= sum(taps)
    return x
