"""Mutual information of two images, from a Parzen-window joint histogram."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Voxels (of the whole batch) whose window weights are held at a time. At 32 bins in float32
# that is 2 MiB a matrix: it stays in a core's cache, and a volume never meets its weights
# as one (voxels, bins) tensor.
_CHUNK = 2**14

# How far outside [-1, 1] a value may lie and still be taken as rounding (of an interpolation
# or of a half-precision image) and not as an image in other units.
_ROUNDING = 1e-3


def mutual_information(
    x: Tensor, y: Tensor, *, bins: int = 32, valid: Tensor | None = None
) -> Tensor:
    """Mutual information of ``x`` and ``y``, in nats, averaged over the batch.

    The joint distribution is estimated with cubic B-spline Parzen windows on both images,
    one bin wide, so that the estimate is differentiable in both and symmetric:
    I(x, y) = sum_ab p_ab log(p_ab / (p_a p_b)). The range [-1, 1] spans bins 1 to
    ``bins`` - 2, the outer ones holding the windows' tails. A registration loss is its negative.

    Memory is a few numbers a voxel: only the images are kept for the backward pass, and the
    window weights are made for some thousand voxels at a time, there and here. The backward
    pass is not differentiable again.

    Sources: Viola and Wells, "Alignment by maximization of mutual information", IJCV 24
    (1997) 137; Mattes et al., "PET-CT image registration in the chest using free-form
    deformations", IEEE TMI 22 (2003) 120; Thévenaz and Unser, "Optimization of mutual
    information for multiresolution image registration", IEEE TIP 9 (2000) 2083, whose
    windows, splines on both images, are the ones used.

    Args:
        x: (N, 1, *spatial), floating point, within [-1, 1].
        y: like x, on the same voxels.
        bins: bins on each axis of the joint histogram, at least 5.
        valid: (N, 1, *spatial), bool or floating point: the voxels that count (bool) or how
            much each counts (at least 0). None counts all. No gradient flows to it. A sample
            of which nothing counts has mutual information 0.

    Returns:
        A scalar, float64 for float64 images and float32 otherwise (half-precision images are
        read in float32).

    Raises:
        TypeError: an image is not floating point, or the dtypes differ.
        ValueError: shapes or devices do not fit, fewer than 5 bins, or an image holds values
            outside [-1, 1] or NaN. (A check that reads two numbers back from the device.)
    """
    _check(x, y, bins, valid)
    precision = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        weights = None if valid is None else valid.detach().to(precision).flatten(1)
        position_x, position_y = (_bin_position(image.to(precision), bins) for image in (x, y))
        joint = _JointHistogram.apply(position_x, position_y, weights, bins)
        information = (
            _sum_p_log_p(joint.flatten(1)) - _sum_p_log_p(joint.sum(2)) - _sum_p_log_p(joint.sum(1))
        )
        return information.mean()


def _check(x: Tensor, y: Tensor, bins: int, valid: Tensor | None) -> None:
    if not (x.is_floating_point() and y.is_floating_point()) or x.dtype != y.dtype:
        raise TypeError(
            f"mutual information needs two floating-point images of one dtype; "
            f"got {x.dtype} and {y.dtype}"
        )
    if x.shape != y.shape or x.ndim < 3 or x.shape[1] != 1 or x.numel() == 0:
        raise ValueError(
            "mutual information needs two images of one shape (N, 1, *spatial), not empty; "
            f"got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if valid is not None and valid.shape != x.shape:
        raise ValueError(
            f"valid must have the images' shape {tuple(x.shape)}; got {tuple(valid.shape)}"
        )
    devices = {x.device, y.device} | ({valid.device} if valid is not None else set())
    if len(devices) > 1:
        raise ValueError(f"images and valid must be on one device; got {sorted(map(str, devices))}")
    if bins < 5:
        raise ValueError(f"cubic windows need at least 5 bins; got {bins}")
    for name, image in (("x", x), ("y", y)):
        low, high = (float(value) for value in torch.stack(torch.aminmax(image.detach())))
        if not (low >= -1 - _ROUNDING and high <= 1 + _ROUNDING):
            raise ValueError(
                f"mutual information bins values of [-1, 1]; {name} holds {low:g} to {high:g}"
            )


def _bin_position(image: Tensor, bins: int) -> Tensor:
    """(N, V) coordinate of each voxel's value on the axis of bins, from 1 to bins - 2."""
    return 1 + (image.flatten(1).clamp(-1, 1) + 1) * ((bins - 3) / 2)


def _sum_p_log_p(p: Tensor) -> Tensor:
    """(N, ...) to (N,): sum of p log p, with 0 log 0 = 0 and a finite derivative there."""
    return (p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).flatten(1).sum(1)


def _spline(position: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The four cubic B-spline weights of each value.

    Args:
        position: (N, c) within [1, bins - 2].
        bins: bins of the histogram.

    Returns:
        The first of the four bins, (N, c, 1) int64, and their weights, (N, c, 4).
    """
    first = position.floor().clamp(1, bins - 3)
    t = position - first
    s = 1 - t
    weights = torch.stack(
        [s**3 / 6, 2 / 3 - t * t * (1 - t / 2), 2 / 3 - s * s * (1 - s / 2), t**3 / 6], dim=-1
    )
    return first.long().unsqueeze(-1) - 1, weights


def _spline_derivative(position: Tensor, bins: int) -> Tensor:
    """Derivative of the four weights of ``_spline`` with respect to the position, (N, c, 4)."""
    t = position - position.floor().clamp(1, bins - 3)
    s = 1 - t
    return torch.stack([-s * s / 2, t * (1.5 * t - 2), s * (2 - 1.5 * s), t * t / 2], dim=-1)


def _windows(position: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Window weights as a matrix (N, c, bins), and the four bins of each value (N, c, 4)."""
    first, weights = _spline(position, bins)
    index = first + torch.arange(4, device=position.device)
    return weights.new_zeros(*position.shape, bins).scatter_(2, index, weights), index


def _chunks(position: Tensor) -> Iterator[slice]:
    size = max(1, _CHUNK // len(position))
    return (slice(at, at + size) for at in range(0, position.shape[1], size))


class _JointHistogram(torch.autograd.Function):
    """(N, bins, bins) joint distribution, rows over x, that sums to 1 (0 if nothing counts)."""

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor, weights: Tensor | None, bins: int) -> Tensor:  # type: ignore[no-untyped-def]
        joint = x.new_zeros(len(x), bins, bins)
        for part in _chunks(x):
            rows, _ = _windows(x[:, part], bins)
            if weights is not None:
                rows *= weights[:, part, None]
            joint.baddbmm_(rows.transpose(1, 2), _windows(y[:, part], bins)[0])
        if weights is None:
            scale = x.new_full((len(x),), 1 / x.shape[1])
        else:
            total = weights.sum(1)
            scale = torch.where(total > 0, 1 / total, 0.0)
        ctx.save_for_backward(x, y, weights, scale)
        ctx.bins = bins
        return joint.mul_(scale[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[no-untyped-def]
        x, y, weights, scale = ctx.saved_tensors
        grad = grad * scale[:, None, None]
        with torch.autocast(x.device.type, enabled=False):
            grad_x = grad_y = None
            if ctx.needs_input_grad[0]:
                grad_x = _pull(x, y, grad.transpose(1, 2), weights, ctx.bins)
            if ctx.needs_input_grad[1]:
                grad_y = _pull(y, x, grad, weights, ctx.bins)
        return grad_x, grad_y, None, None


def _pull(moved: Tensor, other: Tensor, grad: Tensor, weights: Tensor | None, bins: int) -> Tensor:
    """Gradient of the histogram with respect to ``moved``; grad is (N, other, moved)."""
    out = torch.empty_like(moved)
    for part in _chunks(moved):
        position = moved[:, part]
        first, _ = _spline(position, bins)
        by_bin = torch.bmm(_windows(other[:, part], bins)[0], grad)
        nearby = by_bin.gather(2, first + torch.arange(4, device=moved.device))
        gradient = (nearby * _spline_derivative(position, bins)).sum(2)
        out[:, part] = gradient if weights is None else gradient * weights[:, part]
    return out
