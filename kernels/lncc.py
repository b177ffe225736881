"""Triton kernels of ``lncc``, forward and backward: passes over blocks of voxels, axis by axis.

Windows along the last axis are summed first, then windows of those, each time less their means: a
bright region of little contrast is not lost to rounding. Six images hold what a pass leaves for the
next, in the type that the images are computed in. Nothing is added atomically: the same bits every
time. The mathematics is that of csrc/lncc/math/lncc.h.

:func:`lncc_forward` and :func:`lncc_backward` trust their input; the checks are those of the
operator ``plasticine.lncc``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from .launch import field_of
from .lncc_passes import across_kernel, along_kernel, gradient_kernel, voxel_kernel, window_kernel

_BLOCK = 256
# Means, variances and covariance, and the sum of the weights.
_MOMENTS = 6


class _Pass:
    """Launches over the voxels of both images, and two sets of images that take turns."""

    def __init__(
        self, x: Tensor, y: Tensor, mask: Tensor | None, window: int, kernel: str, border: str
    ) -> None:
        self.x = x
        self.images = field_of(x), field_of(y)
        # A mask that is absent is a field that is not read; all channels share one.
        self.mask = field_of(x if mask is None else mask.expand(x.shape))
        self.masked = mask is not None
        self.radius = window // 2
        self.gaussian = kernel == "gaussian"
        self.zeros = border == "zeros"
        self.channels, self.voxels = x.shape[1], x.numel()
        self.of_channel = x.shape[2:].numel()
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.shifts = torch.stack([_shift_of(image, dtype) for image in (x, y)], 2)
        made = x.new_empty((2, _MOMENTS, *x.shape), dtype=dtype)
        self.sets = made[0], made[1]
        weights = x.new_full((len(x),), float(self.of_channel), dtype=torch.float64)
        if mask is not None:
            weights = mask.flatten(1).sum(1, dtype=torch.float64)
        self.weights = weights * self.channels

    def launch(self, kernel: Any, items: int, *arguments: Any, **constants: Any) -> None:
        if items:
            with torch.cuda.device_of(self.x):
                blocks = (triton.cdiv(items, _BLOCK),)
                kernel[blocks](*arguments, BLOCK=_BLOCK, **constants)

    def find_moments(self) -> None:
        """Those of every window, in the first set."""
        words = {"GAUSSIAN": self.gaussian, "ZEROS": self.zeros}
        sizes = self.channels, self.radius, self.voxels
        tensors = *self.images, self.mask, self.shifts
        arguments = *tensors, *sizes, self.sets[0]
        self.launch(along_kernel, self.voxels, *arguments, **words, MASKED=self.masked)
        for level, axis in enumerate(range(self.x.dim() - 2, 1, -1), 1):
            source, target = self.sets
            inner = self.x.shape[axis + 1 :].numel()
            axis_of = self.x.shape[axis], inner, self.of_channel, self.radius
            arguments = source, self.shifts, *axis_of, self.voxels, target
            self.launch(across_kernel, self.voxels, *arguments, **words, LEVEL=level)
            self.sets = target, source

    def find_values(
        self, squared: bool, stabiliser: str, epsilon: float, numerator: float, backward: bool
    ) -> None:
        """The weighted correlations, or the five terms of the gradients, in the first set."""
        source, target = self.sets
        where = self.channels, self.of_channel, self.voxels
        rule = {"STABILISER": stabiliser, "SQUARED": squared, "MASKED": self.masked}
        rule |= {"EPSILON": epsilon, "NUMERATOR": numerator}
        arguments = source, self.mask, self.shifts, *where, target
        self.launch(voxel_kernel, self.voxels, *arguments, **rule, BACKWARD=backward)
        self.sets = target, source

    def sum_terms(self) -> None:
        """The five terms over every window, in the first set."""
        count = 5 * self.voxels
        for axis in range(self.x.dim() - 1, 1, -1):
            source, target = self.sets
            axis_of = self.x.shape[axis], self.x.shape[axis + 1 :].numel(), self.radius
            arguments = source, target, *axis_of, count
            self.launch(window_kernel, count, *arguments, GAUSSIAN=self.gaussian)
            self.sets = target, source


def _shift_of(image: Tensor, dtype: torch.dtype) -> Tensor:
    """What is subtracted from each channel, and rounds nothing: ``(N, C)``.

    Where the values of a channel are within a factor of 4 of each other, their differences from the
    middle are exact, and smaller. A part of the rows is looked at.
    """
    rows = (slice(None), slice(None), *[slice(None, None, 8)] * (image.dim() - 3))
    seen = image[rows].flatten(2).to(dtype)
    if seen.numel() == 0:
        return image.new_zeros(image.shape[:2], dtype=dtype)
    low, high = seen.amin(2), seen.amax(2)
    is_bright = ((low > 0) & (high <= 4 * low)) | ((high < 0) & (low >= 4 * high))
    return torch.where(is_bright, low / 2 + high / 2, 0)


def lncc_forward(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    out: Tensor,
    scratch: Tensor,
    window: int,
    kernel: str,
    squared: bool,
    border: str,
    stabiliser: str,
    epsilon: float,
    numerator: float,
) -> None:
    """The mean over channels and voxels of the correlation in a window.

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16; any strides.
        y: of the shape and dtype of ``x``.
        mask: ``(N, 1, *spatial)`` in the type that the images are computed in, or None.
        out: ``(N,)`` in that type; overwritten.
        scratch: not used.
        window: the side of the window in voxels, odd.
        kernel: "box" or "gaussian".
        squared: whether the correlation is.
        border: "inside" or "zeros".
        stabiliser: "flat", "floor" or "offset", of ``plasticine.reference.lncc``.
        epsilon: see there.
        numerator: see there.
    """
    run = _Pass(x, y, mask, window, kernel, border)
    run.find_moments()
    run.find_values(squared, stabiliser, epsilon, numerator, False)
    values = run.sets[0][0].flatten(1).sum(1, dtype=torch.float64)
    empty = run.weights == 0 if mask is not None and x[:1].numel() else False
    out.copy_((values / run.weights).masked_fill(torch.as_tensor(empty, device=x.device), 0))


def lncc_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    grad_x: Tensor | None,
    grad_y: Tensor | None,
    scratch: Tensor,
    window: int,
    kernel: str,
    squared: bool,
    border: str,
    stabiliser: str,
    epsilon: float,
    numerator: float,
) -> None:
    """The gradients of :func:`lncc_forward`.

    Args:
        grad: ``(N,)``, the gradient of the result.
        x: as for :func:`lncc_forward`.
        y: as for :func:`lncc_forward`.
        mask: as for :func:`lncc_forward`.
        grad_x: overwritten, contiguous; None where it is not wanted.
        grad_y: likewise.
        scratch: as for :func:`lncc_forward`.
        window: as for :func:`lncc_forward`.
        kernel: as for :func:`lncc_forward`.
        squared: as for :func:`lncc_forward`.
        border: as for :func:`lncc_forward`.
        stabiliser: as for :func:`lncc_forward`.
        epsilon: as for :func:`lncc_forward`.
        numerator: as for :func:`lncc_forward`.
    """
    run = _Pass(x, y, mask, window, kernel, border)
    run.find_moments()
    run.find_values(squared, stabiliser, epsilon, numerator, True)
    run.sum_terms()
    scale = (grad / run.weights).masked_fill(run.weights == 0, 0).to(run.shifts.dtype)
    where = run.mask, run.shifts, run.channels, run.of_channel, run.voxels, run.sets[0]
    for which, out in enumerate((grad_x, grad_y)):
        if out is not None:
            images = run.images[which], run.images[1 - which]
            rule = {"WHICH": which, "MASKED": run.masked}
            run.launch(gradient_kernel, run.voxels, scale, *images, *where, out, **rule)
