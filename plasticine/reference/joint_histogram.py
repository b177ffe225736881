"""Definition of ``joint_histogram``: two images shared out to bins by Parzen windows."""

from __future__ import annotations

import torch
from torch import Tensor

#: Half of a value goes to either of two bins that are as near but for this, which rounding is not.
TIE = 2.0**-16
# Voxels of a sample whose weights, one for each bin, are held at a time.
_CHUNK = 2**16


def joint_histogram(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    *,
    value_range: Tensor,
    bins: int = 32,
    kernel: str = "bspline",
    sigma: float = 0.5,
) -> Tensor:
    """The sum over voxels of ``mask * window_a(x) * window_b(y)``, for all bins a and b.

    Args:
        x: ``(N, C, *spatial)``.
        y: of the shape of ``x``.
        mask: ``(N, 1, *spatial)``, how much each voxel counts, or None for 1. A voxel that counts 0
            is not looked at.
        value_range: ``(N, 2, 2)``, of x and y the values at the first and the last bin that is the
            middle of a window (:func:`span`); values beyond are clamped.
        bins: of each image.
        kernel: "bspline", "gaussian" or "mattes", a cubic spline of x and the nearest bin of y.
        sigma: of the Gaussian, in bins.

    Returns:
        ``(N, bins, bins)``, rows over x, float64 of float64 images and float32 of others.
    """
    result = torch.float64 if x.dtype == torch.float64 else torch.float32
    # Devices without float64 take what they have.
    precision = torch.float32 if x.device.type == "mps" else torch.float64
    counts = torch.ones_like(x[:, :1]) if mask is None else mask
    counts = counts.to(precision).expand(x.shape).flatten(1)
    images = [image.to(precision).flatten(1) for image in (x, y)]
    ranges = value_range.to(precision).unbind(1)

    def part(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
        rows, columns = (
            window(place(image, counts, ends, bins, kernel), bins, shape, sigma)
            for image, ends, shape in zip((x, y), ranges, windows_of(kernel), strict=True)
        )
        return (rows * counts[..., None]).mT @ columns

    total = torch.zeros(len(x), bins, bins, dtype=precision, device=x.device)
    for chunk in zip(*(image.split(_CHUNK, 1) for image in (*images, counts)), strict=True):
        total = total + part(*chunk)
    return total.to(result)


def span(kernel: str, bins: int) -> tuple[int, int]:
    """The bins where a range of values begins and ends: the windows have room on both sides."""
    margin = {"bspline": 1, "gaussian": 0, "mattes": 2}[kernel]
    return margin, bins - 1 - margin


def windows_of(kernel: str) -> tuple[str, str]:
    """The windows of the two images."""
    return ("bspline", "nearest") if kernel == "mattes" else (kernel, kernel)


def reach(sigma: float) -> int:
    """How many bins on either side of a value a Gaussian is cut off: 8 sigma or more."""
    return 4 if sigma <= 0.5 else 8


def place(values: Tensor, counts: Tensor, ends: Tensor, bins: int, kernel: str) -> Tensor:
    """Where ``(N, V)`` values lie on the axis of bins, whose range has the values ``(N, 2)``.

    A range that is empty has all in its first bin, and so have voxels that do not count.
    """
    first, last = span(kernel, bins)
    least, greatest = ends[:, :1], torch.maximum(ends[:, :1], ends[:, 1:])
    length = greatest - least
    scale = torch.where(length == 0, 0, (last - first) / length)
    found = first + (values.clamp(least, greatest) - least) * scale
    return torch.where(counts == 0, first, found)


def window(place: Tensor, bins: int, shape: str, sigma: float) -> Tensor:
    """What each bin gets of values at these places: ``(N, V)`` to ``(N, V, bins)``, of sum 1."""
    distance = place[..., None] - torch.arange(bins, device=place.device)
    if shape == "gaussian":
        lower = place.detach().floor().clamp(max=bins - 2)[..., None]
        beyond = (torch.arange(bins, device=place.device) - lower - 0.5).abs() > reach(sigma)
        return (distance.square() / (-2 * sigma**2)).masked_fill(beyond, -torch.inf).softmax(-1)
    # The square of |x| would have no curvature at 0, and PyTorch's second derivative of |x| crashes
    # below a dispatch mode.
    square, distance = distance.square(), distance * distance.detach().sign()
    if shape == "nearest":
        nearest = torch.where((distance - 0.5).abs() <= TIE, 0.5, (distance < 0.5) * 1.0)
        return torch.where(distance.isnan(), distance.detach(), nearest)
    near = 2 / 3 - square * (1 - distance / 2)
    return torch.where(distance < 1, near, (2 - distance).clamp(min=0) ** 3 / 6)
