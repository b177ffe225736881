"""Definition of MIND and of ``mind_distance``: how far apart the descriptors of two images are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.reference.gaussian_smooth import gaussian_smooth
from plasticine.reference.shift import shift

#: A voxel's variance counts as this much of the image's mean, if it is less.
NOISE = 1e-3


def mind_pairs(ndim: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The offsets of the two patches that each channel of a descriptor compares.

    The centre with each of the 2·ndim neighbours one voxel away along an axis, and the neighbours
    that are not opposite with each other (the self-similarity context).
    """
    neighbours = [
        tuple(sign if axis == other else 0 for other in range(ndim))
        for axis in range(ndim)
        for sign in (-1, 1)
    ]
    centre = (0,) * ndim
    return [(centre, neighbour) for neighbour in neighbours] + [
        (a, b)
        for a, b in itertools.combinations(neighbours, 2)
        if any(i + j for i, j in zip(a, b, strict=True))
    ]


def mind_descriptor(image: Tensor, dilation: int, sigma: float) -> Tensor:
    """The MIND of an image, for one distance of the neighbours.

    Args:
        image: ``(N, 1, *spatial)``, not empty.
        dilation: how many voxels away the neighbours are.
        sigma: Gaussian width of the patches, voxels.

    Returns:
        ``(N, pairs, *spatial)`` within [0, 1].
    """

    def moved(offset: tuple[int, ...]) -> Tensor:
        return shift(image, [dilation * step for step in offset])

    pairs = mind_pairs(image.ndim - 2)
    difference = torch.cat([(moved(a) - moved(b)) ** 2 for a, b in pairs], 1)
    distance = gaussian_smooth(difference, sigma)
    variance = distance.mean(1, keepdim=True)
    # A flat region has no variance to divide by: it counts as noise of a thousandth of
    # the image's mean, so that its descriptor is 1 and not a pattern of rounding errors.
    floor = NOISE * variance.mean(tuple(range(1, image.ndim)), keepdim=True)
    floor = floor.clamp_min(torch.finfo(image.dtype).tiny)
    return torch.exp(-distance / torch.maximum(variance, floor))


def mind_distance(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None = None,
    dilations: Sequence[int] = (1, 2),
    sigma: float = 0.8,
    kind: str = "charbonnier",
    epsilon: float = 1e-2,
) -> Tensor:
    """The mean over voxels and channels of what the difference of the descriptors counts.

    Args:
        x: ``(N, C, *spatial)``; every channel is an image of its own.
        y: of the shape of ``x``.
        mask: ``(N, 1, *spatial)``, how much each voxel counts; no gradient flows to it.
        dilations: distances of the neighbours, voxels.
        sigma: Gaussian width of the patches, voxels.
        kind: "charbonnier", ``sqrt(d ** 2 + epsilon ** 2)``, or "squared".
        epsilon: where "charbonnier" turns from squared to absolute.

    Returns:
        ``(N,)`` in float64 for float64 images, else float32; 0 where nothing counts.
    """
    precision = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, y = x.to(precision), y.to(precision)
    if x.numel() == 0:
        return (x + y).flatten(1).sum(1)
    n, channels, *spatial = x.shape
    x, y = (image.reshape(n * channels, 1, *spatial) for image in (x, y))
    total = x.new_zeros(n, *spatial)
    for dilation in dilations:
        difference = mind_descriptor(x, dilation, sigma) - mind_descriptor(y, dilation, sigma)
        counted = difference.square()
        if kind == "charbonnier":
            counted = counted.add(epsilon**2).sqrt()
        total = total + counted.mean(1).view(n, channels, *spatial).mean(1)
    total = total / len(dilations)
    if mask is None:
        return total.flatten(1).mean(1)
    weight = mask.detach().to(precision)[:, 0]
    voxels = weight.flatten(1).sum(1)
    counted = (total * weight).flatten(1).sum(1)
    return torch.where(voxels > 0, counted / torch.where(voxels > 0, voxels, 1), 0)
