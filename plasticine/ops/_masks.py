"""Masks, as every loss takes them: how much each voxel counts."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.ops import _checks
from plasticine.ops._differentiable import result_dtype


def mask_of(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """A mask in the type that sums over ``x`` are taken in, without a gradient.

    Args:
        mask: as a user gives it, bool or floating, or None.
        x: the image that it is for.
    """
    if mask is None:
        return None
    _checks.is_tensor(mask, "mask")
    if mask.dtype != torch.bool:
        _checks.floating(mask, "mask", "bool, ")
    return mask.detach().to(result_dtype(x))


def check_mask(mask: Tensor | None, x: Tensor, name: str = "x") -> None:
    """Raises unless a mask, if there is one, is ``(N, 1, *spatial)`` for ``x``, of ``mask_of``."""
    if mask is None:
        return
    _checks.floating(mask, "mask")
    _checks.same_device(mask, "mask", x, name)
    _checks.same_batch(mask, "mask", x, name)
    expected = (x.shape[0], 1, *x.shape[2:])
    if mask.shape != expected:
        raise ValueError(
            f"mask must have shape (N or 1, 1, *spatial), {expected} for {name} of shape "
            f"{tuple(x.shape)}; got shape {tuple(mask.shape)}"
        )
    if mask.dtype != result_dtype(x):
        raise TypeError(f"mask must have dtype {result_dtype(x)}, got {mask.dtype}")
