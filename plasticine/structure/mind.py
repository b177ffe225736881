"""MIND, the modality-independent neighbourhood descriptor."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.reference.mind_distance import mind_descriptor, mind_pairs
from plasticine.structure.structure_map import StructureMap


class MIND(StructureMap):
    """How alike a voxel's surroundings are to each other, whatever their intensity.

    For each dilation: the Gaussian-weighted squared difference of the patch at p and the
    patch at each axis neighbour, and of the pairs of neighbours that are not opposite (the
    self-similarity context), divided by its local mean and sent through exp(-x). An edge
    shows; which side of it is bright does not. How far the maps of two images are apart, and
    its gradient, is had without them: ``plasticine.mind_distance``.

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
        self.pairs = mind_pairs(ndim)
        self.channels = len(self.pairs) * len(self.dilations)

    def compute(self, image: Tensor) -> Tensor:
        """The map of an image that ``forward`` has checked."""
        return torch.cat(
            [mind_descriptor(image, dilation, self.sigma) for dilation in self.dilations], 1
        )
