"""What every registration asks of the two images that it is given."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.nn.finite import check_finite
from plasticine.ops._checks import is_tensor


def check_pair(moving: Tensor, fixed: Tensor) -> None:
    """Refuses two tensors that are no pair of images.

    Args:
        moving: (N, C, *spatial), 2D or 3D, float32 or float64, finite.
        fixed: (N, C, *its own spatial), of the moving image's dtype and device.

    Raises:
        TypeError: one is no tensor, or they are not of one of these types.
        ValueError: shapes or devices do not fit, an image is empty, or holds NaN or infinity.
    """
    for name, image in (("moving", moving), ("fixed", fixed)):
        is_tensor(image, name)
        if image.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64; got {image.dtype}")
    if moving.dtype != fixed.dtype:
        raise TypeError(
            f"moving and fixed must have one dtype; got {moving.dtype} and {fixed.dtype}"
        )
    if (
        moving.ndim not in (4, 5)
        or fixed.ndim != moving.ndim
        or fixed.shape[:2] != moving.shape[:2]
        or 0 in (*moving.shape, *fixed.shape)
    ):
        raise ValueError(
            "moving and fixed must be (N, C, *spatial) of the same N and C, with 2 or 3 axes; "
            f"got {tuple(moving.shape)} and {tuple(fixed.shape)}"
        )
    if moving.device != fixed.device:
        raise ValueError(
            f"moving and fixed must be on one device; got {moving.device} and {fixed.device}"
        )
    check_finite(moving, "moving")
    check_finite(fixed, "fixed")
