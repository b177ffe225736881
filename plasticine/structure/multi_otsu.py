"""Multi-level Otsu thresholding."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.structure.intensity_clusters import BINS, IntensityClusters


class MultiOtsu(IntensityClusters):
    """Intensity clusters between the thresholds that leave the least variance within them.

    The clusters are ranges of grey levels, and the sum of their squared deviations adds up
    over ranges, so dynamic programming finds the best of all thresholds exactly: the least
    deviation of the levels up to j in c clusters is the minimum over i of that of the levels
    below i in c - 1 clusters plus the deviation of i … j. Of thresholds that serve equally
    well the lowest are taken. An image with fewer grey levels than clusters leaves some
    channels empty.

    Source: Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions
    on Systems, Man and Cybernetics 9 (1979) 62; several thresholds: Liao, Chen and Chung,
    Journal of Information Science and Engineering 17 (2001) 713; the recursion: Fisher, "On
    grouping for maximum homogeneity", JASA 53 (1958) 789.

    Args:
        ndim: 2 or 3.
        clusters: how many, 2 to 256.
    """

    def __init__(self, ndim: int, clusters: int = 6) -> None:
        super().__init__(ndim, clusters)

    def cluster_levels(self, histogram: Tensor) -> Tensor:
        """The cluster of every grey level: (N, 256), int64."""
        cost = _squared_deviations(histogram)
        best = cost[:, 0]  # of the levels 0 … j in one cluster
        starts = []  # of the last of 2, 3, … clusters that hold the levels 0 … j
        for _ in range(1, self.clusters):
            before = torch.nn.functional.pad(best[:, :-1], (1, 0), value=torch.inf)
            total = before[:, :, None] + cost  # by where the last cluster starts, and j
            best = total.amin(1)
            starts.append(_first_true(total == best[:, None]))
        return self._assign(starts)

    def _assign(self, starts: list[Tensor]) -> Tensor:
        """Follow the starts back from the brightest level."""
        level = torch.arange(BINS, device=starts[0].device)
        last = starts[0].new_full((len(starts[0]), 1), BINS - 1)
        cluster = starts[0].new_zeros(len(starts[0]), BINS)
        for start in reversed(starts):
            first = start.gather(1, last)
            cluster += level >= first
            last = first - 1
        return cluster


def _squared_deviations(histogram: Tensor) -> Tensor:
    """Sum of squared deviations from their mean of the levels i … j, infinite for i > j.

    Args:
        histogram: (N, 256) float64.

    Returns:
        (N, 256, 256) float64, i along axis 1.
    """
    # Levels are counted from the middle of the range, which keeps the sums small.
    level = torch.arange(BINS, dtype=histogram.dtype, device=histogram.device) - BINS / 2
    count, first, second = (_range_sums(histogram * level**power) for power in range(3))
    deviation = (second - first**2 / count.clamp_min(1)).clamp_min(0)
    upper = torch.ones(BINS, BINS, dtype=torch.bool, device=level.device).triu()
    return deviation.masked_fill(~upper, torch.inf)


def _range_sums(values: Tensor) -> Tensor:
    """Sums over i … j of whole numbers, exact: (N, 256) to (N, 256, 256)."""
    total = torch.nn.functional.pad(values.cumsum(1), (1, 0))
    return total[:, None, 1:] - total[:, :-1, None]


def _first_true(found: Tensor) -> Tensor:
    """Index of the first true element along axis 1; there is one."""
    index = torch.arange(found.shape[1], device=found.device)[None, :, None]
    return torch.where(found, index, found.shape[1]).amin(1)
