"""One-hot channels of grey-level clusters, whatever way the clusters are found."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.structure.structure_map import StructureMap

BINS = 256
"""Grey levels that the image's range [-1, 1] is told apart by."""


class IntensityClusters(StructureMap):
    """One-hot channels of the intensity cluster that each voxel belongs to, dark to bright.

    The clusters are those of each image by itself, found on its histogram of 256 grey levels.
    Cluster indices carry the contrast with them (a bright tissue stays bright), so such a map
    serves within one modality; between modalities use MIND.

    Args:
        ndim: 2 or 3.
        clusters: how many, 2 to 256.
    """

    def __init__(self, ndim: int, clusters: int) -> None:
        super().__init__(ndim)
        if not 2 <= clusters <= BINS:
            raise ValueError(f"clusters must be within 2 … {BINS}; got {clusters}")
        self.clusters = int(clusters)
        self.channels = self.clusters

    def compute(self, image: Tensor) -> Tensor:
        """The map of an image that ``forward`` has checked."""
        level = ((image + 1) * (0.5 * (BINS - 1))).round().clamp(0, BINS - 1).long()
        flat = level.flatten(1)
        histogram = torch.zeros(len(flat), BINS, dtype=torch.float64, device=image.device)
        histogram.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
        cluster = self.cluster_levels(histogram).gather(1, flat).view_as(level)
        index = torch.arange(self.clusters, device=image.device)
        index = index.view(1, -1, *([1] * self.ndim))
        return (cluster == index).to(image.dtype)

    def cluster_levels(self, histogram: Tensor) -> Tensor:
        """The cluster of every grey level, darkest first.

        Args:
            histogram: (N, 256) float64, voxels of each grey level.

        Returns:
            (N, 256) int64, not decreasing along the levels.
        """
        raise NotImplementedError
