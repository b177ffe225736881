"""MIND, the modality-independent neighbourhood descriptor."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from plasticine.nn.gaussian import gaussian_blur
from plasticine.structure.structure_map import StructureMap, shift


def _axis_neighbours(ndim: int) -> list[tuple[int, ...]]:
    """The 2·ndim neighbours one voxel away along an axis."""
    return [
        tuple(sign if axis == other else 0 for other in range(ndim))
        for axis in range(ndim)
        for sign in (-1, 1)
    ]


class MIND(StructureMap):
    """How alike a voxel's surroundings are to each other, whatever their intensity.

    For each dilation: the Gaussian-weighted squared difference of the patch at p and the
    patch at each axis neighbour, and of the pairs of neighbours that are not opposite (the
    self-similarity context), divided by its local mean and sent through exp(-x). An edge
    shows; which side of it is bright does not.

    Source: Heinrich et al., "MIND", Medical Image Analysis 16 (2012) 1423, and "Towards
    realtime multimodal fusion ... using self-similarity context", MICCAI 2013.

    Args:
        ndim: 2 or 3.
        dilations: distance of the neighbours in voxels, one set of channels each.
        sigma: Gaussian width of the patches, voxels.
    """

    def __init__(self, ndim: int, dilations: tuple[int, ...] = (1, 2), sigma: float = 0.8) -> None:
        super().__init__(ndim)
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations must be positive whole numbers; got {dilations}")
        self.dilations = tuple(int(dilation) for dilation in dilations)
        self.sigma = float(sigma)
        neighbours = _axis_neighbours(ndim)
        centre = (0,) * ndim
        self.pairs = [(centre, neighbour) for neighbour in neighbours] + [
            (a, b)
            for a, b in itertools.combinations(neighbours, 2)
            if any(i + j for i, j in zip(a, b, strict=True))
        ]
        self.channels = len(self.pairs) * len(self.dilations)

    def compute(self, image: Tensor) -> Tensor:
        """The map of an image that ``forward`` has checked."""
        return torch.cat([self._descriptor(image, dilation) for dilation in self.dilations], 1)

    def _descriptor(self, image: Tensor, dilation: int) -> Tensor:
        def moved(offset: tuple[int, ...]) -> Tensor:
            return shift(image, tuple(dilation * step for step in offset))

        difference = torch.cat([(moved(a) - moved(b)) ** 2 for a, b in self.pairs], 1)
        distance = gaussian_blur(difference, self.sigma)
        variance = distance.mean(1, keepdim=True)
        # A flat region has no variance to divide by: it counts as noise of a thousandth of
        # the image's mean, so that its descriptor is 1 and not a pattern of rounding errors.
        floor = 1e-3 * variance.mean(tuple(range(1, image.ndim)), keepdim=True)
        floor = floor.clamp_min(torch.finfo(image.dtype).tiny)
        return torch.exp(-distance / torch.maximum(variance, floor))
