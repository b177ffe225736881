"""``plasticine.lncc``: how alike two images are, window by window, whatever their contrast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops import _checks, _words
from plasticine.ops._differentiable import differentiable, result_dtype
from plasticine.ops._kernels import broadcast_batch
from plasticine.ops._masks import check_mask, mask_of

KERNELS = ("box", "gaussian")
BORDERS = ("inside", "zeros")
STABILISERS = ("flat", "floor", "offset")

# Sums of a sample that blocks of a GPU leave, two each; csrc/lncc/lncc.h has the same.
_BLOCKS = 1024


@_words.checks_inside
def lncc(
    x: Tensor,
    y: Tensor,
    *,
    window: int = 9,
    kernel: str = "box",
    mask: Tensor | None = None,
    squared: bool = True,
    border: str = "inside",
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Tensor:
    """Local normalised cross-correlation: 1 where one image is linear in the other.

    In a window around every voxel, ``cross ** 2 / (variance_x * variance_y)``; of these the mean
    over channels and voxels. A window that is flat in either image, its variance 1e-10 of its mean
    square or less, or 1e-37 or less, counts as 0 and has a gradient of 0. Variances are sums of
    squared differences from means, so that a bright region of little contrast is not lost to
    rounding.

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16.
        y: of the shape and dtype of ``x``.
        window: the side of the window in voxels: odd, 3 or more.
        kernel: "box", whose voxels count alike, or "gaussian": weights of a standard deviation of
            ``window / 3`` voxels, cut off at the window.
        mask: ``(N, 1, *spatial)``, bool or floating, 0 or more: how much each voxel counts, in the
            sums over windows and in the mean of the windows at these voxels, as in ANTs. What
            counts nothing is not looked at: it may be NaN, and its gradient is 0. The mask has no
            gradient. A sample of which nothing counts has the value 0.
        squared: otherwise ``cross / sqrt(variance_x * variance_y)``, from -1 to 1.
        border: "inside": the sums of a window that reaches out are those of its voxels inside of
            the image. "zeros": zeros outside of the image are counted, as in MONAI and VoxelMorph.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Any of the tensors may have a batch of 1 where others have N. Under ``torch.autocast`` half
    images are compared in float32.

    Float32 images are squared in float32: scale values whose contrast is beyond 1e-15 or 1e15, of
    which the squares, or what is made of them, vanish or overflow.

    Returns:
        ``(N,)``, float64 of float64 images and float32 of all others, from 0 to 1; NaN where a
        sample has no voxels, or one that is not finite. The gradient of a voxel that is not finite
        reaches the voxels of its windows only. Differentiable twice with respect to both images,
        and in forward mode, by the same bits every time; the latter two are the definition's, in
        plain PyTorch, whatever the backend.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes, devices, the window or a word do not fit.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.

    Source: B. B. Avants, C. L. Epstein, M. Grossman, J. C. Gee, "Symmetric diffeomorphic image
    registration with cross-correlation", Medical Image Analysis 12 (2008).
    """
    if _unknown:
        _words.refuse(lncc, _unknown)
    return stabilised_lncc(
        *(x, y),
        mask=mask,
        window=window,
        kernel=kernel,
        squared=squared,
        border=border,
        stabiliser="flat",
        epsilon=0.0,
        numerator=0.0,
        backend=backend,
    )


def stabilised_lncc(
    x: Tensor,
    y: Tensor,
    *,
    mask: Tensor | None,
    window: int,
    kernel: str,
    squared: bool,
    border: str,
    stabiliser: str,
    epsilon: float,
    numerator: float,
    backend: str,
) -> Tensor:
    """:func:`lncc`, or what other libraries divide by.

    Args:
        x: of :func:`lncc`, as the others that are not named here.
        y: likewise.
        mask: likewise.
        window: likewise.
        kernel: likewise.
        squared: likewise.
        border: likewise.
        stabiliser: "flat" as there; "floor" (MONAI): variances, as sums over the window, are
            ``epsilon`` at least, and ``numerator`` is added to the square of cross; "offset"
            (VoxelMorph, TransMorph): ``epsilon`` is added to the product of the variances.
        epsilon: see there.
        numerator: see there.
        backend: likewise.
    """
    _checks.is_tensor(x, "x")
    _checks.is_tensor(y, "y")
    if not isinstance(squared, bool):
        raise TypeError(f"squared must be a bool, got {type(squared).__name__}")
    mask = mask_of(mask, x)
    if x.shape[0] != y.shape[0] or mask is not None:
        x, y, mask = broadcast_batch(x, y, mask)
    side = _checks.count_of(window, "window")
    return LNCC(x, y, mask, side, kernel, squared, border, stabiliser, epsilon, numerator, backend)


def check(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    window: int,
    kernel: str,
    squared: bool,
    border: str,
    stabiliser: str,
    epsilon: float,
    numerator: float,
) -> None:
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
    check_mask(mask, x)
    if window < 3 or window % 2 == 0:
        raise ValueError(f"window must be odd and 3 or more, got {window}")
    _checks.one_of(stabiliser, "stabiliser", STABILISERS)
    if not (epsilon >= 0 and numerator >= 0):
        raise ValueError(
            f"epsilon and numerator must be 0 or more, got {epsilon!r} and {numerator!r}"
        )


def _shape(x: Tensor, *_: Any) -> Sequence[int]:
    return (x.shape[0],)


def _scratch(x: Tensor, *others: Any) -> Tensor:
    """Sums of blocks, two shifts a channel and, backward, what the gradients are made of.

    That is three images of each image that wants a gradient, one of them in common.
    """
    count = 2 * x.shape[0] * (_BLOCKS + x.shape[1])
    needs = others[-1]
    if isinstance(needs, list | tuple):  # of the operator of the gradients alone
        terms = (1 + 2 * sum(needs)) * x.numel()
        count += terms if result_dtype(x) == torch.float64 else (terms + 1) // 2
    return x.new_empty(count, dtype=torch.float64)


def _double_backward(
    directions: Sequence[Tensor | None],
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    *options: Any,
) -> Sequence[Tensor | None]:
    *options_, needs = options

    def define(x: Tensor, y: Tensor) -> Tensor:
        return reference.lncc(x, y, mask, *options_)

    return reference.double_backward(define, (x, y), directions, grad, needs)


LNCC, LNCC_BACKWARD, LNCC_DOUBLE_BACKWARD = differentiable(
    "lncc(Tensor x, Tensor y, Tensor? mask, int window, str kernel, bool squared, str border,"
    " str stabiliser, float epsilon, float numerator) -> Tensor",
    function="lncc",
    check=check,
    shape=_shape,
    scratch=_scratch,
    accumulated=True,
    constants=1,
    definition=reference.lncc,
    choices={"kernel": KERNELS, "border": BORDERS},
    double_backward=_double_backward,
)
