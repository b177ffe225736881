"""What recolouring alone explains of an image, and what it leaves."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 64


def recolouring(translated: Tensor, warped: Tensor, bins: int = BINS) -> Tensor:
    """The intensity map f that explains an image best: the mean of it wherever x∘φ has a level.

    Args:
        translated: of any shape.
        warped: of that shape, within [0, 1], x∘φ.
        bins: how many levels are told apart.

    Returns:
        (bins,) float64, f of the levels 0, 1 / (bins - 1) to 1; 0 where no voxel has the level.
    """
    level = _levels(warped, bins).flatten()
    total = torch.zeros(bins, dtype=torch.float64, device=translated.device)
    total.index_add_(0, level, translated.flatten().double())
    return total / torch.bincount(level, minlength=bins).clamp_min(1)


def intensity_residual(translated: Tensor, warped: Tensor, bins: int = BINS) -> Tensor:
    """ŷ − f(x∘φ), with f as ``recolouring`` has it.

    Args:
        translated: (N, 1, *spatial) within [0, 1].
        warped: like translated.
        bins: intensities that f tells apart.

    Returns:
        (N, 1, *spatial), of the dtype of ``translated``.
    """
    explained = recolouring(translated, warped, bins)[_levels(warped, bins)]
    return translated - explained.to(translated.dtype)


def _levels(warped: Tensor, bins: int) -> Tensor:
    return (warped * (bins - 1)).round().long()
