"""``plasticine.lncc``: how alike two images are, window by window, whatever their contrast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops import _checks
from plasticine.ops._differentiable import differentiable
from plasticine.ops._kernels import broadcast_batch


def lncc(x: Tensor, y: Tensor, *, window: int = 9, backend: str = "auto") -> Tensor:
    """Local normalised cross-correlation, squared: 1 where one image is linear in the other.

    In a window around every voxel, ``cross ** 2 / (variance_x * variance_y)``; of these the mean
    over channels and voxels. Windows are cut off at the border: their sums are taken, and counted,
    over the voxels inside the image (MONAI and VoxelMorph count the zeros outside as well). A
    window that is flat in either image, its variance 1e-10 of its mean square or less, counts as 0
    and has a gradient of 0. All sums are float64's, whatever the dtype, so that a bright region of
    little contrast is not lost to rounding.

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16.
        y: of the shape and dtype of ``x``.
        window: the side of the window in voxels: odd, 3 or more.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Either may have a batch of 1 where the other has N. Under ``torch.autocast`` half images are
    compared, and the result is returned, in float32.

    Returns:
        ``(N,)`` in the dtype of the images, from 0 to 1; NaN where a sample has no voxels, or one
        that is not finite. The gradient of a voxel that is not finite reaches the voxels of its
        windows only. Differentiable once with respect to both, by the same bits every time.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes, devices or the window do not fit.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.

    Source: B. B. Avants, C. L. Epstein, M. Grossman, J. C. Gee, "Symmetric diffeomorphic image
    registration with cross-correlation", Medical Image Analysis 12 (2008).
    """
    _checks.is_tensor(x, "x")
    _checks.is_tensor(y, "y")
    if x.shape[0] != y.shape[0]:
        x, y = broadcast_batch(x, y)
    return LNCC(x, y, _checks.count_of(window, "window"), backend)


def check(x: Tensor, y: Tensor, window: int) -> None:
    """Raises unless the arguments fit together."""
    _checks.image_alone(x, "x")
    _checks.image_alone(y, "y")
    if x.dtype != y.dtype:
        raise TypeError(f"x and y must have one dtype, got x {x.dtype} and y {y.dtype}")
    _checks.same_device(x, "x", y, "y")
    _checks.same_batch(x, "x", y, "y")
    if x.shape != y.shape:
        raise ValueError(
            "x must have shape (N, C, *spatial) and y must have shape of x, got x of shape "
            f"{tuple(x.shape)} and y of shape {tuple(y.shape)}"
        )
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window must be odd and 3 or more, got {window}")


def _shape(x: Tensor, *_: Any) -> Sequence[int]:
    return (x.shape[0],)


def _scratch(x: Tensor, *_: Any) -> Tensor:
    # Five sums, and room to take the next axis of them.
    return x.new_empty((2, 5, x.numel()), dtype=torch.float64)


LNCC, LNCC_BACKWARD, _ = differentiable(
    "lncc(Tensor x, Tensor y, int window) -> Tensor",
    function="lncc",
    check=check,
    shape=_shape,
    scratch=_scratch,
    definition=reference.lncc,
    choices={},
)
