"""Pixel clusters: the paper's structure map."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.structure.structure_map import StructureMap


class KMeans(StructureMap):
    """One-hot channels of the intensity cluster that each voxel belongs to.

    The clusters are those of each image by itself, ordered from dark to bright. Cluster
    indices carry the contrast with them (a bright tissue stays bright), so this map serves
    within one modality; between modalities use MIND.

    Source: the pixel clustering of "Plasticine" (arXiv 2512.18455); Lloyd's algorithm on
    the image's histogram, begun at its quantiles, so that it is exact and has no seed.

    Args:
        ndim: 2 or 3.
        clusters: how many, at least 2.
        iterations: of Lloyd's algorithm.
    """

    _BINS = 256

    def __init__(self, ndim: int, clusters: int = 6, iterations: int = 20) -> None:
        super().__init__(ndim)
        if clusters < 2:
            raise ValueError(f"clusters must be at least 2; got {clusters}")
        self.clusters = int(clusters)
        self.iterations = int(iterations)
        self.channels = self.clusters

    def compute(self, image: Tensor) -> Tensor:
        """The map of an image that ``forward`` has checked."""
        level = ((image + 1) * (0.5 * (self._BINS - 1))).round().clamp(0, self._BINS - 1).long()
        flat = level.flatten(1)
        histogram = torch.zeros(len(flat), self._BINS, dtype=torch.float64, device=image.device)
        histogram.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
        cluster_of_level = self._cluster(histogram)
        cluster = cluster_of_level.gather(1, flat).view_as(level)
        index = torch.arange(self.clusters, device=image.device)
        index = index.view(1, -1, *([1] * self.ndim))
        return (cluster == index).to(image.dtype)

    def _cluster(self, histogram: Tensor) -> Tensor:
        """The cluster of every grey level: (N, bins), int64."""
        level = torch.arange(self._BINS, dtype=histogram.dtype, device=histogram.device)
        # Quantiles of the grey levels that occur, each counted once: a large background
        # would otherwise take most of the clusters.
        occurs = (histogram > 0).to(histogram.dtype).cumsum(1)
        quantile = (torch.arange(self.clusters, device=level.device) + 0.5) / self.clusters
        wanted = quantile * occurs[:, -1:].clamp_min(1)
        centre = torch.searchsorted(occurs, wanted).clamp_max(self._BINS - 1).to(level.dtype)
        for _ in range(self.iterations):
            assigned = self._nearest(level, centre)
            weight = torch.zeros_like(centre).scatter_add_(1, assigned, histogram)
            total = torch.zeros_like(centre).scatter_add_(1, assigned, histogram * level)
            centre = torch.where(weight > 0, total / weight.clamp_min(1), centre)
        return self._nearest(level, centre.sort(1).values)

    @staticmethod
    def _nearest(level: Tensor, centre: Tensor) -> Tensor:
        return (level[None, :, None] - centre[:, None, :]).abs().argmin(2)
