"""Images moved by whole voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shift(image: Tensor, offset: Sequence[int]) -> Tensor:
    """``image`` sampled at p + offset, its edge repeated outside.

    Args:
        image: (N, C, *spatial).
        offset: voxels along each spatial axis.
    """
    for axis, step in enumerate(offset, start=2):
        if step:
            size = image.shape[axis]
            index = torch.arange(step, size + step, device=image.device).clamp_(0, size - 1)
            image = image.index_select(axis, index)
    return image
