"""Triton kernels of ``lncc``, forward and backward: passes over blocks of voxels, in float64.

The sums over windows are taken axis by axis in the caller's scratch, whose two halves take turns.
Nothing is added atomically: the same bits every time. The mathematics is that of csrc/lncc/lncc.h.

:func:`lncc_forward` and :func:`lncc_backward` trust their input; the checks are those of the
operator ``plasticine.lncc``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import field_of

_BLOCK = 256
# Of x, y and their products over a window; of what the gradients are made of.
_SUMS = 5
# A window whose variance is no more of its mean square is flat.
_FLAT = tl.constexpr(1e-10)


@triton.jit
def block_of_voxels(voxels, BLOCK: tl.constexpr):
    """The program's voxels, which of them there are, and how many there are, with 64 bits."""
    voxel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return voxel, voxel < voxels, tl.cast(voxels, tl.int64)


@triton.jit
def load_voxel(image, channels, voxel, active):
    """Voxels of an image as float64, numbered through all its channels and samples."""
    x, row = voxel % image.size[2], voxel // image.size[2]
    y, row = row % image.size[1], row // image.size[1]
    z, row = row % image.size[0], row // image.size[0]
    offset = x * image.strides[4] + y * image.strides[3] + z * image.strides[2]
    offset += row % channels * image.strides[1] + row // channels * image.strides[0]
    return tl.load(image.data + offset, mask=active, other=0).to(tl.float64)


@triton.jit
def products_kernel(x, y, channels, voxels, sums, BLOCK: tl.constexpr):
    """x, y and their products, one after the other in sums."""
    voxel, active, voxels = block_of_voxels(voxels, BLOCK)
    a = load_voxel(x, channels, voxel, active)
    b = load_voxel(y, channels, voxel, active)
    tl.store(sums + voxel, a, mask=active)
    tl.store(sums + voxels + voxel, b, mask=active)
    tl.store(sums + 2 * voxels + voxel, a * a, mask=active)
    tl.store(sums + 3 * voxels + voxel, b * b, mask=active)
    tl.store(sums + 4 * voxels + voxel, a * b, mask=active)


@triton.jit
def window_kernel(source, target, length, inner, radius, voxels, BLOCK: tl.constexpr):
    """Sums over the window along one axis of this length, whose values are ``inner`` apart."""
    voxel, active, voxels = block_of_voxels(voxels, BLOCK)
    inner = tl.cast(inner, tl.int64)
    place = voxel // inner % length
    total = tl.zeros((BLOCK,), tl.float64)
    for step in range(-radius, radius + 1):
        inside = active & (place + step >= 0) & (place + step < length)
        total += tl.load(source + voxel + step * inner, mask=inside, other=0)
    tl.store(target + voxel, total, mask=active)


@triton.jit
def inside_window(place, length, radius):
    """How many values of a window along an axis are inside of the image."""
    first = tl.maximum(place - radius, 0)
    return tl.minimum(place + radius, length - 1) - first + 1


@triton.jit
def voxel_kernel(sums, size, radius, voxels, BACKWARD: tl.constexpr, BLOCK: tl.constexpr):
    """The squared correlations in place of the first sums; or the gradients' terms of all."""
    voxel, active, voxels = block_of_voxels(voxels, BLOCK)
    row = voxel // size[2]
    count = inside_window(voxel % size[2], size[2], radius)
    count *= inside_window(row % size[1], size[1], radius)
    count *= inside_window(row // size[1] % size[0], size[0], radius)
    sum_x = tl.load(sums + voxel, mask=active, other=0)
    sum_y = tl.load(sums + voxels + voxel, mask=active, other=0)
    square_x = tl.load(sums + 2 * voxels + voxel, mask=active, other=0)
    square_y = tl.load(sums + 3 * voxels + voxel, mask=active, other=0)
    product = tl.load(sums + 4 * voxels + voxel, mask=active, other=0)
    mean_x, mean_y = sum_x / count, sum_y / count
    variance_x, variance_y = square_x - sum_x * mean_x, square_y - sum_y * mean_y
    cross = product - sum_x * mean_y
    flat = (variance_x <= _FLAT * square_x) | (variance_y <= _FLAT * square_y)
    both = variance_x + variance_y
    flat = flat & (both == both)  # a NaN stays one
    slope_x = tl.where(flat, 0, cross / tl.where(flat, 1, variance_x))
    slope_y = tl.where(flat, 0, cross / tl.where(flat, 1, variance_y))
    value = slope_x * slope_y
    if BACKWARD:
        by_cross = 2 * slope_x / tl.where(flat, 1, variance_y)
        by_x = -2 * value / tl.where(flat, 1, variance_x)
        by_y = -2 * value / tl.where(flat, 1, variance_y)
        tl.store(sums + voxel, by_cross, mask=active)
        tl.store(sums + voxels + voxel, by_x, mask=active)
        tl.store(sums + 2 * voxels + voxel, by_y, mask=active)
        tl.store(sums + 3 * voxels + voxel, by_cross * mean_y + by_x * mean_x, mask=active)
        tl.store(sums + 4 * voxels + voxel, by_cross * mean_x + by_y * mean_y, mask=active)
    else:
        tl.store(sums + voxel, value, mask=active)


@triton.jit
def gradient_kernel(
    grad,
    step,
    own,
    other,
    channels,
    of_sample,
    voxels,
    sums,
    WHICH: tl.constexpr,
    out,
    BLOCK: tl.constexpr,
):
    """The gradient of one image; its sums of terms are numbers WHICH and WHICH + 2."""
    voxel, active, voxels = block_of_voxels(voxels, BLOCK)
    upstream = tl.load(grad + voxel // of_sample * step, mask=active, other=0)
    mine = load_voxel(own, channels, voxel, active)
    theirs = load_voxel(other, channels, voxel, active)
    value = tl.load(sums + voxel, mask=active, other=0) * theirs
    value += tl.load(sums + WHICH * voxels + voxel, mask=active, other=0) * mine
    value -= tl.load(sums + (WHICH + 2) * voxels + voxel, mask=active, other=0)
    value *= upstream.to(tl.float64) / of_sample
    if out.dtype.element_ty != tl.float64:  # from which halves have no conversion of their own
        value = value.to(tl.float32)
    tl.store(out + voxel, value.to(out.dtype.element_ty), mask=active)


def lncc_forward(x: Tensor, y: Tensor, out: Tensor, scratch: Tensor, window: int) -> None:
    """The mean over channels and voxels of the squared correlation in a window.

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16; any strides.
        y: of the shape and dtype of ``x``.
        out: ``(N,)`` in the dtype of ``x``; overwritten.
        scratch: ``(2, 5, voxels of x)`` float64, contiguous.
        window: the side of the window in voxels, odd.
    """
    sums = _sum_images(x, y, scratch.view(2, _SUMS, *x.shape), window)
    size, voxels = field_of(x).size, x.numel()
    _launch(voxel_kernel, voxels, x, sums, size, window // 2, voxels, BACKWARD=False)
    out.copy_(sums[0].flatten(1).mean(1))


def lncc_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    grad_x: Tensor | None,
    grad_y: Tensor | None,
    scratch: Tensor,
    window: int,
) -> None:
    """The gradients of :func:`lncc_forward`.

    Args:
        grad: ``(N,)``, the gradient of the result.
        x: as for :func:`lncc_forward`.
        y: as for :func:`lncc_forward`.
        grad_x: overwritten, contiguous; None where it is not wanted.
        grad_y: likewise.
        scratch: as for :func:`lncc_forward`.
        window: as for :func:`lncc_forward`.
    """
    scratch, voxels = scratch.view(2, _SUMS, *x.shape), x.numel()
    sums = _sum_images(x, y, scratch, window)
    _launch(voxel_kernel, voxels, x, sums, field_of(x).size, window // 2, voxels, BACKWARD=True)
    other = scratch[1 if sums.data_ptr() == scratch.data_ptr() else 0]
    sums = _sum_windows(sums, other, window)
    sizes = x.shape[1], x.shape[1:].numel(), voxels
    for which, own, other, out in ((1, x, y, grad_x), (2, y, x, grad_y)):
        if out is not None:
            images = field_of(own), field_of(other)
            upstream = grad, grad.stride(0)
            _launch(gradient_kernel, voxels, x, *upstream, *images, *sizes, sums, which, out)


def _sum_images(x: Tensor, y: Tensor, scratch: Tensor, window: int) -> Tensor:
    """The sums of x, y and their products over every window: one half of the scratch."""
    images, sizes = (field_of(x), field_of(y)), (x.shape[1], x.numel())
    _launch(products_kernel, x.numel(), x, *images, *sizes, scratch[0])
    return _sum_windows(scratch[0], scratch[1], window)


def _sum_windows(sums: Tensor, other: Tensor, window: int) -> Tensor:
    """The sums over every window of ``(5, N, C, *spatial)``: one of the two."""
    for axis in range(3, sums.dim()):
        shape = sums.shape[axis], sums.stride(axis)
        _launch(window_kernel, sums.numel(), sums, sums, other, *shape, window // 2, sums.numel())
        sums, other = other, sums
    return sums


def _launch(kernel: Any, items: int, device_of: Tensor, *arguments: Any, **constants: Any) -> None:
    if items:
        with torch.cuda.device_of(device_of):
            kernel[(triton.cdiv(items, _BLOCK),)](*arguments, BLOCK=_BLOCK, **constants)
