"""Pixel clusters: the paper's structure map."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.structure.intensity_clusters import BINS, IntensityClusters


class KMeans(IntensityClusters):
    """Intensity clusters by k-means.

    Source: the pixel clustering of "Plasticine" (arXiv 2512.18455); Lloyd's algorithm on
    the image's histogram, begun at its quantiles, so that it has no seed. It ends in a local
    minimum of the variance within clusters; ``MultiOtsu`` finds the global one.

    Args:
        ndim: 2 or 3.
        clusters: how many, 2 to 256.
        iterations: of Lloyd's algorithm.
    """

    def __init__(self, ndim: int, clusters: int = 6, iterations: int = 20) -> None:
        super().__init__(ndim, clusters)
        self.iterations = int(iterations)

    def cluster_levels(self, histogram: Tensor) -> Tensor:
        """The cluster of every grey level: (N, 256), int64."""
        level = torch.arange(BINS, dtype=histogram.dtype, device=histogram.device)
        # Quantiles of the grey levels that occur, each counted once: a large background
        # would otherwise take most of the clusters.
        occurs = (histogram > 0).to(histogram.dtype).cumsum(1)
        cluster = torch.arange(self.clusters, dtype=torch.float32, device=level.device)
        quantile = (cluster + 0.5) / self.clusters
        wanted = quantile * occurs[:, -1:].clamp_min(1)
        centre = torch.searchsorted(occurs, wanted).clamp_max(BINS - 1).to(level.dtype)
        for _ in range(self.iterations):
            assigned = self._nearest(level, centre)
            weight = torch.zeros_like(centre).scatter_add_(1, assigned, histogram)
            total = torch.zeros_like(centre).scatter_add_(1, assigned, histogram * level)
            centre = torch.where(weight > 0, total / weight.clamp_min(1), centre)
        return self._nearest(level, centre.sort(1).values)

    @staticmethod
    def _nearest(level: Tensor, centre: Tensor) -> Tensor:
        return (level[None, :, None] - centre[:, None, :]).abs().argmin(2)
