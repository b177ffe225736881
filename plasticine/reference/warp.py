"""Definition of ``warp``: sample an image at ``A p + t + u(p)``, without ``grid_sample``."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def warp(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None = None,
    mode: str = "linear",
    padding: str = "border",
) -> Tensor:
    """Samples ``image`` at ``p + displacement(p)``, or at ``affine(p) + displacement(p)``.

    Interpolation, boundary and their gradients follow ``torch.nn.functional.grid_sample`` with
    ``align_corners=True``; a NaN coordinate gives NaN in every channel of its voxel and leaves the
    image's gradient alone.

    Args:
        image: ``(N, C, *image_spatial)``, floating point.
        displacement: ``(N, d, *spatial)`` in voxels, component ``i`` along spatial axis ``i``.
        affine: ``(N, d, d + 1)`` in voxels, or None for the identity.
        mode: "linear" or "nearest" (ties to even).
        padding: "zeros", "border" or "reflection".

    Returns:
        ``(N, C, *spatial)`` in the dtype of the image.
    """
    precision = torch.float64 if image.dtype == torch.float64 else torch.float32
    coordinates = sample_coordinates(displacement.to(precision), affine)
    sizes = image.shape[2:]
    batch, channels = image.shape[:2]
    spatial = displacement.shape[2:]
    if batch * channels * spatial.numel() == 0:
        return _empty_result(image, displacement, affine)

    padded = [_pad(x, size, padding) for x, size in zip(coordinates, sizes, strict=True)]
    undefined = torch.stack([torch.isnan(x) for x in padded]).any(0)
    located = [torch.where(undefined, 0.0, x) for x in padded]
    values = image.to(precision).reshape(batch, channels, -1)
    if mode == "nearest":
        nearest = [torch.round(x.detach()) for x in located]
        result = _corner(values, sizes, nearest)
        return torch.where(undefined[:, None], torch.nan, result).to(image.dtype)

    lower = [torch.floor(x.detach()) for x in located]
    fractions = [x - low for x, low in zip(located, lower, strict=True)]
    result = values.new_zeros(batch, channels, *spatial)
    for offsets in itertools.product((0, 1), repeat=len(sizes)):
        corner = [low + offset for low, offset in zip(lower, offsets, strict=True)]
        weight = torch.ones_like(fractions[0])
        for fraction, offset in zip(fractions, offsets, strict=True):
            weight = weight * (fraction if offset else 1 - fraction)
        result = result + _corner(values, sizes, corner) * weight[:, None]
    # NaN as a function of the coordinates: their gradient is NaN there too, the image's is not.
    poison = sum(coordinates) * torch.where(undefined, torch.nan, 0.0).to(precision)
    return torch.where(undefined[:, None], poison[:, None], result).to(image.dtype)


def sample_coordinates(displacement: Tensor, affine: Tensor | None) -> list[Tensor]:
    """One ``(N, *spatial)`` tensor of voxel coordinates per axis: ``A p + t + u(p)``."""
    spatial = displacement.shape[2:]
    ndim = len(spatial)
    positions = []
    for axis, size in enumerate(spatial):
        position = torch.arange(size, dtype=displacement.dtype, device=displacement.device)
        positions.append(position.view([-1 if i == axis else 1 for i in range(ndim)]))
    if affine is None:
        return [positions[i] + displacement[:, i] for i in range(ndim)]
    affine = affine.to(displacement.dtype).view(*affine.shape, *[1] * ndim)
    coordinates = []
    for i in range(ndim):
        mapped = affine[:, i, ndim]
        for j in range(ndim):
            mapped = mapped + affine[:, i, j] * positions[j]
        coordinates.append(mapped + displacement[:, i])
    return coordinates


def _pad(x: Tensor, size: int, padding: str) -> Tensor:
    """Maps a coordinate as the boundary rule says; its gradient is torch's for the same rule."""
    if padding == "zeros":
        # Further out nothing is met either: -2 keeps infinities out of the weights.
        return torch.where((x < -1) | (x >= size), -2.0, x)
    if padding == "reflection":
        x = _reflect(x, size)
    # torch's convention: no gradient at the limits themselves, either.
    return torch.where(x <= 0, 0.0, torch.where(x >= size - 1, float(size - 1), x))


def _reflect(x: Tensor, size: int) -> Tensor:
    span = size - 1
    if span == 0:
        return x * 0
    distance = torch.where(x < 0, -x, x)
    flips = torch.floor(distance.detach() / span)
    remainder = torch.fmod(distance, span)
    return torch.where(flips % 2 == 0, remainder, span - remainder)


def _corner(values: Tensor, sizes: torch.Size, corner: list[Tensor]) -> Tensor:
    """The image at integer coordinates, exactly 0 outside of it: ``(N, C, *spatial)``."""
    inside = torch.ones_like(corner[0], dtype=torch.bool)
    index = torch.zeros_like(corner[0], dtype=torch.int64)
    for coordinate, size in zip(corner, sizes, strict=True):
        within = (coordinate >= 0) & (coordinate <= size - 1)
        inside = inside & within
        index = index * size + torch.where(within, coordinate, 0.0).long()
    batch, channels = values.shape[:2]
    flat = index.reshape(batch, 1, -1).expand(-1, channels, -1)
    sampled = values.gather(2, flat).reshape(batch, channels, *index.shape[1:])
    return torch.where(inside[:, None], sampled, 0.0)


def _empty_result(image: Tensor, displacement: Tensor, affine: Tensor | None) -> Tensor:
    """An output without elements that still depends on every input, for autograd."""
    result = image.new_zeros(image.shape[0], image.shape[1], *displacement.shape[2:])
    result = result + (image.sum() * 0 + displacement.sum() * 0).to(image.dtype)
    return result if affine is None else result + (affine.sum() * 0).to(image.dtype)
