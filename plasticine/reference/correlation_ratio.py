"""Definition of ``correlation_ratio``: how far one image is a function of the other."""

from __future__ import annotations

import torch
from torch import Tensor

#: An image whose variance is no more of its mean square is flat.
FLAT = 1e-10


def correlation_ratio(x: Tensor, y: Tensor, bins: int = 32, mask: Tensor | None = None) -> Tensor:
    """The share of the variance of ``y`` that its means over bins of ``x`` explain.

    A voxel belongs to the four bins around its intensity in ``x`` by the cubic B-spline, whose
    weights add up to 1, so that the variances between and within the bins add up to the whole.

    Args:
        x: ``(N, C, *spatial)``, what the bins are of.
        y: of the shape of ``x``, what is explained.
        bins: between the least and the greatest intensity of ``x`` that counts.
        mask: ``(N, 1, *spatial)`` or None.

    Returns:
        ``(N,)``, the mean over channels, float64 of float64 images, else float32; 0 where ``y`` is
        flat, and where nothing counts.
    """
    result = torch.promote_types(x.dtype, torch.float32)
    # A bin that a background fills is a long sum. Devices without float64 take what they have.
    precision = result if x.device.type == "mps" else torch.float64
    samples, channels = x.shape[:2]
    x, y = (image.to(precision).flatten(0, 1).flatten(1) for image in (x, y))
    if x.numel() == 0:
        return (x + y).sum().expand(samples).to(result) * 0.0
    if mask is None:
        weight = torch.ones_like(x)
    else:
        weight = mask.expand(samples, channels, *mask.shape[2:]).flatten(0, 1).flatten(1)
        weight = weight.to(precision)
        counted = weight > 0
        x, y = (torch.where(counted, image, 0.0) for image in (x, y))
    total = weight.sum(1).clamp_min(torch.finfo(precision).tiny)
    # Less the mean, so that a bright image's variance is not lost to rounding.
    y = y - ((weight * y).sum(1) / total).detach()[:, None]
    index, spline = bins_of(x, weight, bins)
    share = weight[:, None] * spline
    index, empty = index.flatten(1), x.new_zeros(len(x), bins + 2)
    counts = empty.scatter_add(1, index, share.flatten(1))
    sums = empty.scatter_add(1, index, (share * y[:, None]).flatten(1))
    mean = (weight * y).sum(1) / total
    variance = (weight * y.square()).sum(1) / total - mean.square()
    filled = counts > 0
    squares = torch.where(filled, sums.square() / torch.where(filled, counts, 1.0), 0.0)
    between = squares.sum(1) / total - mean.square()
    is_flat = variance <= FLAT * (weight * y.square()).sum(1) / total
    ratio = torch.where(is_flat, 0.0, between / torch.where(is_flat, 1.0, variance))
    return ratio.unflatten(0, (samples, channels)).mean(1).to(result)


def bins_of(x: Tensor, weight: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The four bins of every voxel of ``(n, voxels)`` and how much it belongs to each.

    The least intensity lies on bin 1, the greatest on bin ``bins``; their range has no gradient.

    Returns:
        ``(n, 4, voxels)`` each.
    """
    counted = weight > 0
    inner = x.detach()
    low = torch.where(counted, inner, torch.inf).amin(1, keepdim=True)
    high = torch.where(counted, inner, -torch.inf).amax(1, keepdim=True)
    has_range = (high > low) & (high - low).isfinite()
    low = torch.where(has_range, low, 0.0)
    scale = torch.where(has_range, (bins - 1) / torch.where(has_range, high - low, 1.0), 0.0)
    position = torch.where(counted, (x - low) * scale, 0.0).clamp(0, bins - 1) + 1
    first = position.detach().floor().clamp(1, max(bins - 1, 1))
    t = position - first
    weights = [
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    ]
    index = first.nan_to_num(1.0).long()[:, None] - 1 + torch.arange(4, device=x.device)[:, None]
    return index, torch.stack(weights, 1)
