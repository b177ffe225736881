"""What a translation must beat: predictions that use the outline or the grey levels alone."""

from __future__ import annotations

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
