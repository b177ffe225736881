"""What a translation must beat: predictions from the outline or the grey levels alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def mask_alone(mask: Tensor, target: Tensor) -> Tensor:
    """The target domain's mean intensity wherever there is brain, nothing elsewhere.

    Args:
        mask: (N, 1, *spatial) bool, where the source has brain.
        target: images of the target domain within [0, 1], unpaired.
    """
    return mask * target[target > 0].mean()


def histogram_match(source: Tensor, mask: Tensor, target: Tensor, *, inverted: bool) -> Tensor:
    """The source's grey levels, given the target domain's histogram inside the brain.

    Args:
        source: (N, 1, *spatial) within [0, 1].
        mask: the same shape, bool.
        target: images of the target domain within [0, 1], unpaired.
        inverted: turn the source's contrast over first, as T1 and T2 nearly are.
    """
    levels = source[mask]
    rank = torch.argsort(torch.argsort(-levels if inverted else levels, stable=True))
    quantile = (rank.double() + 0.5) / len(levels)
    reference = target[target > 0].double().sort().values
    index = (quantile * len(reference)).long().clamp_max(len(reference) - 1)
    matched = torch.zeros_like(source)
    matched[mask] = reference[index].to(source.dtype)
    return matched


def look_up_table(source: Tensor, pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Each grey level replaced by the mean of the target at that level, in true pairs.

    Of all maps that take a pixel by its own grey level alone this has the least squared error on
    the pairs: an upper bound of what recolouring pixel by pixel can do, and no fair competitor,
    since it has seen pairs.

    Args:
        source: (N, 1, *spatial) within [0, 1], of 256 grey levels.
        pairs: source and target images of the same heads, voxel by voxel, within [0, 1].
    """
    level = (255 * pairs[0]).round().long().flatten()
    count = torch.bincount(level, minlength=256)
    total = torch.zeros(256, dtype=torch.float64).index_add_(0, level, pairs[1].double().flatten())
    met = count > 0
    # A level that no pair holds lies between its neighbours.
    table = np.interp(np.arange(256), np.flatnonzero(met), (total[met] / count[met]).numpy())
    return torch.from_numpy(table).to(source.dtype)[(255 * source).round().long()]
