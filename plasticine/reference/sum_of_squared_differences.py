"""Definition of ``sum_of_squared_differences``."""

from __future__ import annotations

import torch
from torch import Tensor


def sum_of_squared_differences(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """``sum mask (x - y)²`` over channels and voxels.

    Args:
        x: ``(N, C, *spatial)``.
        y: of the shape of ``x``.
        mask: ``(N, 1, *spatial)`` or None.

    Returns:
        ``(N,)``, float64 of float64 images, else float32.
    """
    precision = torch.promote_types(x.dtype, torch.float32)
    difference = x.to(precision) - y.to(precision)
    if mask is None:
        return difference.square().flatten(1).sum(1)
    # Where nothing counts, nor does what is not finite, here and in the gradients.
    difference = torch.where(mask > 0, difference, 0.0)
    return (mask * difference.square()).flatten(1).sum(1)
