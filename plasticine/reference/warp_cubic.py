"""The cubic modes of the reference ``warp``: four taps per axis."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

# The parameter of the cubic convolution, as in torch.nn.functional.grid_sample.
SHARPNESS = -0.75


def cubic_coordinate(x: Tensor, size: int, padding: str) -> Tensor:
    """A coordinate so far bounded that the taps around it can be told; no value changes by it.

    For "zeros" and "border"; where it is the coordinate that is padded, that is done already.
    """
    low, high = -3.0, size + 2.0
    bounded = torch.where(x < low, low, torch.where(x > high, high, x))
    if padding == "zeros":
        # The last taps fade out at -2 and size + 1.
        return torch.where((x <= -2) | (x >= size + 1), low, bounded)
    return bounded


def cubic_weights(t: Tensor, mode: str) -> tuple[Tensor, ...]:
    """The weights of the voxels at -1, 0, 1 and 2 for a location ``t`` in [0, 1)."""
    s = 1 - t
    if mode == "bspline":
        return (
            s * s * s / 6,
            2 / 3 - t * t * (1 - t / 2),
            2 / 3 - s * s * (1 - s / 2),
            t * t * t / 6,
        )
    a = SHARPNESS
    return (
        a * t * s * s,
        1 - t * t * ((a + 3) - (a + 2) * t),
        1 - s * s * ((a + 3) - (a + 2) * s),
        a * s * t * t,
    )


def tap_index(index: Tensor, size: int, padding: str) -> Tensor:
    """The voxel that a tap reads; with "zeros" one outside of the image stays outside."""
    last = size - 1
    if padding == "border":
        return index.clamp(0, last)
    if padding == "reflection":
        if last == 0:
            return torch.zeros_like(index)
        phase = torch.remainder(index, 2 * last)
        return torch.minimum(phase, 2 * last - phase)
    return index


def sample_cubic(
    values: Tensor, sizes: torch.Size, coordinates: list[Tensor], mode: str, padding: str
) -> Tensor:
    """The image at padded coordinates.

    Args:
        values: the image, ``(N, C, voxels)``.
        sizes: its spatial shape.
        coordinates: per axis ``(N, *spatial)``, finite.
        mode: "cubic" or "bspline" (of coefficients).
        padding: "zeros", "border" or "reflection".

    Returns:
        ``(N, C, *spatial)``.
    """
    lower = [torch.floor(x.detach()) for x in coordinates]
    weights = [cubic_weights(x - low, mode) for x, low in zip(coordinates, lower, strict=True)]
    taps = [
        [tap_index(low + step, size, padding) for step in (-1, 0, 1, 2)]
        for low, size in zip(lower, sizes, strict=True)
    ]
    result = values.new_zeros(*values.shape[:2], *coordinates[0].shape[1:])
    for steps in itertools.product(range(4), repeat=len(sizes)):
        weight = torch.ones_like(coordinates[0])
        for axis, step in enumerate(steps):
            weight = weight * weights[axis][step]
        at = [taps[axis][step] for axis, step in enumerate(steps)]
        result = result + voxels_at(values, sizes, at) * weight[:, None]
    return result


def voxels_at(values: Tensor, sizes: torch.Size, index: list[Tensor]) -> Tensor:
    """The image at integer coordinates, exactly 0 outside of it: ``(N, C, *spatial)``."""
    inside = torch.ones_like(index[0], dtype=torch.bool)
    offset = torch.zeros_like(index[0], dtype=torch.int64)
    for coordinate, size in zip(index, sizes, strict=True):
        within = (coordinate >= 0) & (coordinate <= size - 1)
        inside = inside & within
        # From 2**24 voxels on the last one's coordinate may round up in float32.
        voxel = torch.where(within, coordinate, 0.0).long().clamp(max=size - 1)
        offset = offset * size + voxel
    batch, channels = values.shape[:2]
    flat = offset.reshape(batch, 1, -1).expand(-1, channels, -1)
    sampled = values.gather(2, flat).reshape(batch, channels, *offset.shape[1:])
    return torch.where(inside[:, None], sampled, 0.0)
