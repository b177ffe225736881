"""The losses of VoxelMorph: ``voxelmorph.torch.losses`` of 0.2, and neurite's that 0.3.4 uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from plasticine import smoothness
from plasticine.compat import _handover
from plasticine.compat.voxelmorph.functional import is_field
from plasticine.ops import _autocast
from plasticine.ops.lncc import stabilised_lncc

_OLD = "voxelmorph.torch.losses"
_NEURITE = "neurite.nn.functional"


def window_of(win: Any, x: Tensor, y: Tensor) -> int | None:
    """The side of a window that :func:`plasticine.lncc` serves, or None."""
    ndim = x.dim() - 2
    sides = {win} if isinstance(win, int) else set(win)
    side = sides.pop()
    served = not sides and side >= 3 and side % 2 == 1 and ndim in (2, 3) and x.shape == y.shape
    return side if served and x.is_floating_point() and x.dtype == y.dtype else None


def lncc_with_zeros(x: Tensor, y: Tensor, window: int, epsilon: float) -> Tensor:
    """``cross² / (variance_x variance_y + epsilon)``, the mean of each sample: ``(N,)``."""
    return stabilised_lncc(
        *(x, y),
        mask=None,
        window=window,
        kernel="box",
        squared=True,
        border="zeros",
        stabiliser="offset",
        epsilon=epsilon,
        numerator=0.0,
        backend="auto",
    )


def mean_difference(y: Tensor, penalty: str) -> Tensor:
    """Forward differences, squared with "l2": the mean along each axis, averaged over the axes."""
    ndim = y.dim() - 2
    if penalty == "l2" and is_field(y, ndim) and 1 not in y.shape[2:]:
        return smoothness(y).mean() / ndim**2
    differences = [y.diff(dim=axis).abs() for axis in range(2, y.dim())]
    if penalty == "l2":
        differences = [difference.square() for difference in differences]
    return sum((each.mean() for each in differences), y.new_zeros(())) / ndim


class NCC(_handover.DropIn):
    """The negative local cross-correlation, on :func:`plasticine.lncc`.

    Variances are sums of squared differences here, differences of sums of squares there, which a
    bright image of little contrast loses to rounding. The original runs on a GPU alone. Windows
    that are even or not cubes are handed over to it.
    """

    def __init__(self, win: Sequence[int] | None = None) -> None:
        """Fixes the window: its sides; None for 9 voxels."""
        self.win = win

    def loss(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of two images ``(N, 1, *spatial)``: a scalar.

        Raises:
            AssertionError: the images do not have 1 to 3 spatial axes.
            NotImplementedError: the original would have to serve this and is not installed.
        """
        return negative_ncc(y_true, y_pred, self.win, f"{_OLD}.NCC", "loss")


def negative_ncc(x: Tensor, y: Tensor, win: Any, name: str, method: str) -> Tensor:
    """The loss of that name of 0.2 or of a copy of it."""
    ndim = x.dim() - 2
    assert ndim in (1, 2, 3), f"images must have 1 to 3 spatial axes, got {ndim}"
    x, y = _autocast.single(x, y)
    window = window_of(9 if win is None else win, x, y)
    if window is None:
        original = _handover.theirs(name, "this window, or dtype")
        found: Tensor = getattr(original(win), method)(x, y)
        return found
    return -lncc_with_zeros(x, y, window, 1e-5).mean()


class Grad(_handover.DropIn):
    """The mean forward difference of a field, or its square on :func:`plasticine.smoothness`."""

    def __init__(self, penalty: str = "l1", loss_mult: float | None = None) -> None:
        """Fixes the options.

        Args:
            penalty: "l1" or "l2".
            loss_mult: a factor, or None.
        """
        self.penalty = penalty
        self.loss_mult = loss_mult

    def loss(self, _: Any, y_pred: Tensor) -> Tensor:
        """The loss of a field ``(N, d, *spatial)``: a scalar."""
        found = mean_difference(y_pred, self.penalty)
        return found if self.loss_mult is None else found * self.loss_mult


def ncc(
    tensor1: Tensor,
    tensor2: Tensor,
    window_size: int | Sequence[int] = 9,
    eps: float = 1e-5,
    reduction: str | None = "mean",
    reduction_dim: int | tuple[int, ...] = (0, 1),
    keepdims: bool = True,
) -> Tensor:
    """``neurite.nn.functional.ncc``, on :func:`plasticine.lncc`.

    Handed over to the original: windows that are even, of one voxel or no cubes, one spatial axis,
    and reductions other than these.

    Args:
        tensor1: ``(B, C, *spatial)``.
        tensor2: likewise.
        window_size: the side, or the sides, of the window in voxels.
        eps: added to the product of the variances.
        reduction: "mean", "sum" or, for ``(B, C)``, None.
        reduction_dim: over which of these two axes.
        keepdims: whether these axes stay, of length 1.

    Raises:
        AssertionError: a voxel is not finite.
        NotImplementedError: the original would have to serve this and is not installed.
    """
    tensor1, tensor2 = _autocast.single(tensor1, tensor2)
    window = window_of(window_size, tensor1, tensor2)
    if window is None or reduction not in ("mean", "sum", None):
        original = _handover.theirs(f"{_NEURITE}.ncc", "this window, dtype or reduction")
        given: Tensor = original(
            *(tensor1, tensor2, window_size, eps, reduction, reduction_dim, keepdims)
        )
        return given
    batch, channels, *size = tensor1.shape
    x, y = (tensor.reshape(batch * channels, 1, *size) for tensor in (tensor1, tensor2))
    score = lncc_with_zeros(x, y, window, eps).view(batch, channels)
    assert score.isfinite().all(), "ncc is not finite: the images hold NaN or an infinity"
    if reduction is None:
        return score
    return getattr(score, reduction)(reduction_dim, keepdims)  # type: ignore[no-any-return]


def spatial_gradient(
    input_tensor: Tensor,
    penalty: str = "l2",
    reduction: str | None = "mean",
    reduction_dim: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> Tensor:
    """``neurite.nn.functional.spatial_gradient``, on :func:`plasticine.smoothness`.

    That is "l2" of a field ``(B, d, *spatial)``, the mean of everything; all else is handed over to
    the original.

    Raises:
        NotImplementedError: the original would have to serve this and is not installed.
    """
    served = penalty == "l2" and reduction == "mean" and reduction_dim is None and not keepdims
    ndim = input_tensor.dim() - 2
    if served and is_field(input_tensor, ndim) and 1 not in input_tensor.shape[2:]:
        return mean_difference(input_tensor, "l2")
    original = _handover.theirs(f"{_NEURITE}.spatial_gradient", "this penalty or reduction")
    given: Tensor = original(input_tensor, penalty, reduction, reduction_dim, keepdims)
    return given
