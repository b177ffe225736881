"""Triton kernels of ``joint_histogram``, forward and backward: windows as matrices.

A program takes blocks of voxels and a tile of the histogram. The windows of a block, a row for each
voxel and a column for each bin of the tile, are made in registers; the histogram is the product of
those of x and of y. Programs write sums of their own, which are added up in order: the same bits
every time. The mathematics is that of csrc/joint_histogram/math/parzen.h.

:func:`joint_histogram_forward` and :func:`joint_histogram_backward` trust their input; the checks
are those of the operator ``plasticine.joint_histogram``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import accumulator_type, field_of

# Voxels of a block and the side of a tile, and the same in float64, which is multiplied one by one.
_BLOCK, _FLOAT64_BLOCK = 16, 4
_TILE, _FLOAT64_TILE = 32, 16
_BSPLINE, _GAUSSIAN, _NEAREST = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_TIE = tl.constexpr(1.0 / 65536)
# Of the two images.
_WINDOWS = {"bspline": (0, 0), "gaussian": (1, 1), "mattes": (0, 2)}
_MARGIN = {"bspline": 1, "gaussian": 0, "mattes": 2}


@triton.jit
def load_voxels(image, sample, voxel, active, CHANNELS: tl.constexpr):
    """Voxels of a sample, counted through its channels; where CHANNELS is 1, the first for all."""
    x, row = voxel % image.size[2], voxel // image.size[2]
    y, row = row % image.size[1], row // image.size[1]
    z, channel = row % image.size[0], row // image.size[0]
    offset = x * image.strides[4] + y * image.strides[3] + z * image.strides[2]
    if CHANNELS > 1:
        offset += channel * image.strides[1]
    return tl.load(image.data + sample * image.strides[0] + offset, mask=active, other=0)


@triton.jit
def place_of(value, ends, cells, ACC: tl.constexpr):
    """The cells that values lie in, where within them, and the derivative of their places."""
    least, greatest = tl.load(ends), tl.load(ends + 1)
    greatest = tl.where(greatest < least, least, greatest)
    length = greatest - least
    scale = tl.where(length == 0, 0, cells / tl.where(length == 0, 1, length)).to(ACC)
    value = value.to(ACC)
    slope = tl.where((value >= least) & (value <= greatest), scale, 0)
    value = tl.where(value < least, least, value)
    value = tl.where(value > greatest, greatest, value)
    place = (value - least) * scale
    is_nan = place != place
    place = tl.where(is_nan, 0, place)
    cell = tl.minimum(place.to(tl.int32), cells - 1)
    return cell, place - cell, slope, is_nan


@triton.jit
def gaussian_norm(
    cell, within, bins, factor, REACH: tl.constexpr, ACC: tl.constexpr, SLOPES: tl.constexpr
):
    """The sum of a Gaussian over its bins, and, over the sum, that of the derivatives."""
    tap = tl.arange(0, 2 * REACH) - (REACH - 1)
    bin_of_tap = cell[:, None] + tap[None, :]
    distance = within[:, None] - tap[None, :]
    weight = tl.exp(distance * distance * factor)
    weight = tl.where((bin_of_tap >= 0) & (bin_of_tap < bins), weight, 0).to(ACC)
    total = tl.sum(weight, 1)
    mean = total
    if SLOPES:
        mean = tl.sum(weight * distance, 1) / total
    return total, mean


@triton.jit
def window(
    cell,
    within,
    tile,
    bins,
    first,
    factor,
    WINDOW: tl.constexpr,
    REACH: tl.constexpr,
    ACC: tl.constexpr,
    SLOPES: tl.constexpr,
):
    """The weights of a tile of bins, (voxels, bins), and their derivatives by the place."""
    steps = cell[:, None] + first - tile[None, :]
    distance = steps.to(ACC) + within[:, None]
    if WINDOW == _GAUSSIAN:
        total, mean = gaussian_norm(cell, within, bins, factor, REACH, ACC, SLOPES)
        weight = tl.exp(distance * distance * factor) / total[:, None]
        inside = (steps < REACH) & (steps >= -REACH) & (tile[None, :] < bins)
        weight = tl.where(inside, weight, 0).to(ACC)
        slope = weight * (distance - mean[:, None]) * (2 * factor)
    elif WINDOW == _NEAREST:
        away = tl.abs(distance) - 0.5
        weight = tl.where(away < -_TIE, 1.0, tl.where(away <= _TIE, 0.5, 0.0)).to(ACC)
        slope = tl.zeros_like(weight)
    else:
        length = tl.abs(distance)
        far = tl.maximum(2 - length, 0)
        near = length * length * (1 - length * 0.5)
        weight = tl.where(length < 1, 2 / 3 - near, far * far * far / 6).to(ACC)
        slope = tl.where(length < 1, length * (1.5 * length - 2), far * far * -0.5)
        slope = tl.where(distance < 0, -slope, slope)
    return weight, slope.to(ACC)


@triton.jit
def count_voxels(mask, sample, voxel, active, MASKED: tl.constexpr, ACC: tl.constexpr):
    """How much voxels count; NaN of what is not finite."""
    if MASKED:
        count = load_voxels(mask, sample, voxel, active, 1).to(ACC)
    else:
        count = tl.where(active, 1.0, 0.0).to(ACC)
    return tl.where(count - count == 0, count, float("nan"))


@triton.jit
def product(a, b, ACC: tl.constexpr):
    """The product of two matrices; of float64, for which there is no instruction everywhere."""
    if tl.float64 == ACC:
        return tl.sum(a[:, :, None] * b[None, :, :], 1)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def forward_kernel(
    x,
    y,
    mask,
    ends,
    sums,
    voxels,
    parts,
    per_part,
    tiles,
    bins,
    cells,
    first,
    factor,
    CHANNELS: tl.constexpr,
    MASKED: tl.constexpr,
    WINDOW_X: tl.constexpr,
    WINDOW_Y: tl.constexpr,
    REACH: tl.constexpr,
    ACC: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A tile of the histogram of a part of a sample's voxels."""
    part = tl.program_id(0).to(tl.int64)
    sample = part // parts
    tile_x = tl.program_id(1) // tiles * TILE + tl.arange(0, TILE)
    tile_y = tl.program_id(1) % tiles * TILE + tl.arange(0, TILE)
    start = part % parts * per_part
    end = tl.minimum(start + per_part, voxels)
    total = tl.zeros((TILE, TILE), ACC)
    for block in range(start, end, BLOCK):
        voxel = tl.cast(block, tl.int64) + tl.arange(0, BLOCK)
        active = voxel < end
        count = count_voxels(mask, sample, voxel, active, MASKED, ACC)
        value = load_voxels(x, sample, voxel, active, CHANNELS)
        cell_x, within_x, _, nan_x = place_of(value, ends + sample * 4, cells, ACC)
        value = load_voxels(y, sample, voxel, active, CHANNELS)
        cell_y, within_y, _, nan_y = place_of(value, ends + sample * 4 + 2, cells, ACC)
        count = tl.where((count != 0) & active & (nan_x | nan_y), float("nan"), count)
        rows, _ = window(cell_x, within_x, tile_x, bins, first, factor, WINDOW_X, REACH, ACC, False)
        columns, _ = window(
            cell_y, within_y, tile_y, bins, first, factor, WINDOW_Y, REACH, ACC, False
        )
        total += product(tl.trans(rows * count[:, None]), columns, ACC)
    inside = (tile_x < bins)[:, None] & (tile_y < bins)[None, :]
    place = part * bins * bins + tile_x[:, None] * bins + tile_y[None, :]
    tl.store(sums + place, total.to(tl.float64), mask=inside)


@triton.jit
def store_gradient(gradient, out, place, count, slope, active):
    """A voxel's gradient: 0 where it does not count, or its value is clamped."""
    value = tl.where((count == 0) | (slope == 0), 0, gradient * (count * slope))
    tl.store(out + place, value.to(out.dtype.element_ty), mask=active)


@triton.jit
def backward_kernel(
    grad,
    x,
    y,
    mask,
    ends,
    grad_x,
    grad_y,
    voxels,
    blocks,
    tiles,
    bins,
    cells,
    first,
    factor,
    CHANNELS: tl.constexpr,
    MASKED: tl.constexpr,
    WINDOW_X: tl.constexpr,
    WINDOW_Y: tl.constexpr,
    REACH: tl.constexpr,
    NEEDS_X: tl.constexpr,
    NEEDS_Y: tl.constexpr,
    ACC: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradients of a block of voxels."""
    program = tl.program_id(0).to(tl.int64)
    sample = program // blocks
    voxel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    active = voxel < voxels
    count = count_voxels(mask, sample, voxel, active, MASKED, ACC)
    value = load_voxels(x, sample, voxel, active, CHANNELS)
    cell_x, within_x, slope_x, _ = place_of(value, ends + sample * 4, cells, ACC)
    value = load_voxels(y, sample, voxel, active, CHANNELS)
    cell_y, within_y, slope_y, _ = place_of(value, ends + sample * 4 + 2, cells, ACC)
    by_x, by_y = tl.zeros((BLOCK,), ACC), tl.zeros((BLOCK,), ACC)
    for j in range(tiles):
        tile_y = j * TILE + tl.arange(0, TILE)
        columns, column_slopes = window(
            cell_y, within_y, tile_y, bins, first, factor, WINDOW_Y, REACH, ACC, NEEDS_Y
        )
        for i in range(tiles):
            tile_x = i * TILE + tl.arange(0, TILE)
            rows, row_slopes = window(
                cell_x, within_x, tile_x, bins, first, factor, WINDOW_X, REACH, ACC, NEEDS_X
            )
            inside = (tile_x < bins)[:, None] & (tile_y < bins)[None, :]
            place = sample * bins * bins + tile_x[:, None] * bins + tile_y[None, :]
            values = tl.load(grad + place, mask=inside, other=0)
            if NEEDS_X:
                by_x += tl.sum(product(row_slopes, values, ACC) * columns, 1)
            if NEEDS_Y:
                by_y += tl.sum(product(rows, values, ACC) * column_slopes, 1)
    place = sample * voxels + voxel
    if NEEDS_X:
        store_gradient(by_x, grad_x, place, count, slope_x, active)
    if NEEDS_Y:
        if WINDOW_Y == _NEAREST:
            tl.store(grad_y + place, tl.zeros_like(by_y).to(grad_y.dtype.element_ty), mask=active)
        else:
            store_gradient(by_y, grad_y, place, count, slope_y, active)


def joint_histogram_forward(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    value_range: Tensor,
    out: Tensor,
    scratch: Tensor,
    bins: int,
    kernel: str,
    sigma: float,
) -> None:
    """The joint histogram of two images.

    Args:
        x: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16; any strides.
        y: of the shape and dtype of ``x``.
        mask: ``(N, 1, *spatial)`` in the dtype of ``out``, or None.
        value_range: ``(N, 2, 2)`` in the dtype of ``out``.
        out: ``(N, bins, bins)``; overwritten.
        scratch: ``(N, parts, bins, bins)`` float64, contiguous.
        bins: of each image.
        kernel: "bspline", "gaussian" or "mattes".
        sigma: of the Gaussian, in bins.
    """
    voxels, parts = x.shape[1:].numel(), scratch.shape[1]
    tile, block = _tile(x, bins)
    if len(x):
        arguments, constants = _shared(x, y, mask, value_range, bins, kernel, sigma)
        tiles = triton.cdiv(bins, tile)
        sizes = voxels, parts, triton.cdiv(voxels, parts), tiles, *arguments[4:]
        with torch.cuda.device_of(x):
            forward_kernel[(len(x) * parts, tiles**2)](
                *arguments[:4], scratch, *sizes, TILE=tile, BLOCK=block, **constants
            )
    out.copy_(scratch.sum(1))


def joint_histogram_backward(
    grad: Tensor,
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    value_range: Tensor,
    grad_x: Tensor | None,
    grad_y: Tensor | None,
    scratch: Tensor,
    bins: int,
    kernel: str,
    sigma: float,
) -> None:
    """The gradients of :func:`joint_histogram_forward`.

    Args:
        grad: ``(N, bins, bins)``, the gradient of the result.
        x: as for :func:`joint_histogram_forward`.
        y: as for :func:`joint_histogram_forward`.
        mask: as for :func:`joint_histogram_forward`.
        value_range: as for :func:`joint_histogram_forward`.
        grad_x: overwritten, contiguous; None where it is not wanted.
        grad_y: likewise.
        scratch: not used.
        bins: as for :func:`joint_histogram_forward`.
        kernel: as for :func:`joint_histogram_forward`.
        sigma: as for :func:`joint_histogram_forward`.
    """
    voxels = x.shape[1:].numel()
    if x.numel() == 0 or (grad_x is None and grad_y is None):
        return
    tile, block = _tile(x, bins)
    arguments, constants = _shared(x, y, mask, value_range, bins, kernel, sigma)
    blocks = triton.cdiv(voxels, block)
    targets = [value_range if target is None else target for target in (grad_x, grad_y)]
    sizes = voxels, blocks, triton.cdiv(bins, tile), *arguments[4:]
    with torch.cuda.device_of(x):
        backward_kernel[(len(x) * blocks,)](
            grad.contiguous(),
            *arguments[:4],
            *targets,
            *sizes,
            NEEDS_X=grad_x is not None,
            NEEDS_Y=grad_y is not None,
            TILE=tile,
            BLOCK=block,
            **constants,
        )


def _tile(x: Tensor, bins: int) -> tuple[int, int]:
    """The side of a tile, and the voxels of a block."""
    largest, block = _TILE, _BLOCK
    if x.dtype == torch.float64:
        largest, block = _FLOAT64_TILE, _FLOAT64_BLOCK
    return min(max(triton.next_power_of_2(bins), 16), largest), block


def _shared(
    x: Tensor,
    y: Tensor,
    mask: Tensor | None,
    value_range: Tensor,
    bins: int,
    kernel: str,
    sigma: float,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What both kernels take: images, mask and ranges first, then numbers; and constants."""
    window_x, window_y = _WINDOWS[kernel]
    first = _MARGIN[kernel]
    arguments = (
        field_of(x),
        field_of(y),
        field_of(x if mask is None else mask),
        value_range.contiguous(),
        bins,
        bins - 1 - 2 * first,
        first,
        -0.5 / sigma**2,
    )
    return arguments, {
        "CHANNELS": min(x.shape[1], 2),
        "MASKED": mask is not None,
        "WINDOW_X": window_x,
        "WINDOW_Y": window_y,
        "REACH": 4 if sigma <= 0.5 else 8,
        "ACC": accumulator_type(x),
    }
