"""Definition of ``warp``: sample an image at ``A p + t + u(p)``, without ``grid_sample``."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from plasticine.reference.spline_coefficients import spline_coefficients
from plasticine.reference.warp_cubic import cubic_coordinate, sample_cubic, voxels_at


def warp(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None = None,
    mode: str = "linear",
    padding: str = "border",
    prefilter: bool = True,
) -> Tensor:
    """Samples ``image`` at ``p + displacement(p)``, or at ``affine(p) + displacement(p)``.

    Interpolation, boundary and their gradients follow ``torch.nn.functional.grid_sample`` with
    ``align_corners=True``; a NaN coordinate gives NaN in every channel of its voxel and leaves the
    image's gradient alone.

    Args:
        image: ``(N, C, *image_spatial)``, floating point.
        displacement: ``(N, d, *spatial)`` in voxels, component ``i`` along spatial axis ``i``.
        affine: ``(N, d, d + 1)`` in voxels, or None for the identity.
        mode: "linear", "nearest" (ties to even), "cubic" (convolution, as ``grid_sample``'s
            "bicubic") or "bspline".
        padding: "zeros", "border" or "reflection".
        prefilter: of "bspline": whether the spline passes through the image; otherwise the image
            holds its coefficients.

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

    pad = _pad_cubic if mode in ("cubic", "bspline") else _pad
    padded = [pad(x, size, padding, mode) for x, size in zip(coordinates, sizes, strict=True)]
    undefined = torch.stack([torch.isnan(x) for x in padded]).any(0)
    located = [torch.where(undefined, 0.0, x) for x in padded]
    values = image.to(precision)
    if mode == "bspline" and prefilter:
        values = spline_coefficients(values, padding)
    values = values.reshape(batch, channels, -1)
    if mode == "nearest":
        nearest = [torch.round(x.detach()) for x in located]
        result = voxels_at(values, sizes, nearest)
        return torch.where(undefined[:, None], torch.nan, result).to(image.dtype)

    if mode == "linear":
        result = _sample_linear(values, sizes, located)
    else:
        result = sample_cubic(values, sizes, located, mode, padding)
    # NaN as a function of the coordinates: their gradient is NaN there too, the image's is not.
    poison = sum(coordinates) * torch.where(undefined, torch.nan, 0.0).to(precision)
    return torch.where(undefined[:, None], poison[:, None], result).to(image.dtype)


def _sample_linear(values: Tensor, sizes: torch.Size, located: list[Tensor]) -> Tensor:
    """The image, ``(N, C, voxels)``, at padded coordinates that are not NaN."""
    lower = [torch.floor(x.detach()) for x in located]
    fractions = [x - low for x, low in zip(located, lower, strict=True)]
    result = values.new_zeros(*values.shape[:2], *located[0].shape[1:])
    for offsets in itertools.product((0, 1), repeat=len(sizes)):
        corner = [low + offset for low, offset in zip(lower, offsets, strict=True)]
        weight = torch.ones_like(fractions[0])
        for fraction, offset in zip(fractions, offsets, strict=True):
            weight = weight * (fraction if offset else 1 - fraction)
        result = result + voxels_at(values, sizes, corner) * weight[:, None]
    return result


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


def _pad(x: Tensor, size: int, padding: str, mode: str = "linear") -> Tensor:
    """Maps a coordinate as the boundary rule says; its gradient is torch's for the same rule."""
    if padding == "zeros":
        # Further out nothing is met either: -2 keeps infinities out of the weights.
        return torch.where((x < -1) | (x >= size), -2.0, x)
    if padding == "reflection":
        x = _reflect(x, size)
    # torch's convention: no gradient at the limits themselves, either.
    return torch.where(x <= 0, 0.0, torch.where(x >= size - 1, float(size - 1), x))


def _pad_cubic(x: Tensor, size: int, padding: str, mode: str) -> Tensor:
    """The same where taps are padded one by one, which leaves less to do to the coordinate."""
    if padding == "reflection" or (padding == "border" and mode == "bspline"):
        return _pad(x, size, padding)
    return cubic_coordinate(x, size, padding)


def _reflect(x: Tensor, size: int) -> Tensor:
    span = size - 1
    if span == 0:
        return x * 0
    distance = torch.where(x < 0, -x, x)
    flips = torch.floor(distance.detach() / span)
    remainder = torch.fmod(distance, span)
    return torch.where(flips % 2 == 0, remainder, span - remainder)


def _empty_result(image: Tensor, displacement: Tensor, affine: Tensor | None) -> Tensor:
    """An output without elements that still depends on every input, for autograd."""
    result = image.new_zeros(image.shape[0], image.shape[1], *displacement.shape[2:])
    result = result + (image.sum() * 0 + displacement.sum() * 0).to(image.dtype)
    return result if affine is None else result + (affine.sum() * 0).to(image.dtype)
