"""Triton kernel of ``gaussian_smooth``: a launch for each axis, a block of voxels a program.

Windows are those of csrc/gaussian_smooth/math/window.h. :func:`gaussian_smooth` trusts its input;
the checks are those of the operator ``plasticine.gaussian_smooth``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .differences import bits_of, scaled
from .launch import accumulator, accumulator_type

# The voxels of a program, and its warps.
_BLOCK = 512
_WARPS = 4


@triton.jit
def gaussian_smooth_kernel(
    source,
    target,
    strides,
    shape,
    stride,
    size,
    inner,
    voxels,
    radius,
    sigma,
    scale,
    end,
    ADJOINT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums over windows along the axis of ``size`` voxels, which are ``inner`` apart in target.

    strides, of source, and shape are those of five axes, (N, C, z, y, x); along the axis itself the
    stride is 0 there. sigma, scale and end are the bits of what GaussianWindow has.
    """
    voxel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    active = voxel < voxels
    place = voxel // inner % size
    left = voxel
    for i in tl.static_range(5):
        source += (left % shape[4 - i]) * strides[4 - i]
        left = left // shape[4 - i]
    last = size - 1
    is_edge = (place == 0) | (place == last)
    one = tl.full((), 1, ACC)
    width, share, outermost = scaled(one, sigma), scaled(one, scale), scaled(one, end)
    tail = tl.zeros((), ACC)
    sums = tl.zeros((BLOCK,), ACC)
    for turn in range(radius + 1):
        step = radius - turn
        distance = step.to(ACC) / width
        weight = tl.where(step == radius, outermost, share * tl.exp(-0.5 * distance * distance))
        below = place - step
        above = place + step
        is_above = active & (above > place)  # the middle counts once
        is_below = active
        weight_below = weight
        if ADJOINT:
            # At an edge the tail of the window counts, as kernels of the other backends have it.
            tail += weight
            inward = tl.where(place == 0, above, below)
            is_above = is_above & (~is_edge) & (above <= last)
            is_below = active & (is_edge | (below >= 0))
            below = tl.where(is_edge, inward, below)
            weight_below = tl.where(is_edge, tail, weight)
        else:
            below = tl.maximum(below, 0)
            above = tl.minimum(above, last)
        value = tl.load(source + below * stride, mask=is_below, other=0)
        sums += weight_below * value.to(ACC)
        value = tl.load(source + above * stride, mask=is_above, other=0)
        sums += weight * value.to(ACC)
    tl.store(target + voxel, sums.to(target.dtype.element_ty), mask=active)


def gaussian_smooth(images: Tensor, out: Tensor, sigma: Sequence[float], adjoint: bool) -> None:
    """Smooths along every spatial axis, the edge repeated.

    The axes are taken one after the other; half types are kept in float32 in between.

    Args:
        images: ``(N, C, *spatial)``, any strides; float32, float64, float16 or bfloat16.
        out: overwritten; contiguous, like the images.
        sigma: standard deviation in voxels, one for each spatial axis.
        adjoint: the transposed map.
    """
    if out.numel() == 0:
        return
    windows = {axis: _Window(width, images.shape[axis]) for axis, width in enumerate(sigma, 2)}
    axes = [axis for axis, window in windows.items() if window.radius]
    axes = axes or [images.dim() - 1]
    source = images
    for axis in axes:
        target = out if axis == axes[-1] else torch.empty_like(out, dtype=accumulator(out))
        _smooth_axis(source, target, axis, windows[axis], adjoint)
        source = target


class _Window:
    """GaussianWindow of csrc/gaussian_smooth/math/window.h."""

    def __init__(self, sigma: float, size: int) -> None:
        self.radius, self.sigma, self.scale, self.end = 0, 1.0, 1.0, 1.0
        if sigma > 0 and size > 1:
            cut = max(1, round(3 * sigma))
            steps = [step / sigma for step in range(cut, 0, -1)]
            weights = [math.exp(-0.5 * step * step) for step in steps]
            self.radius, self.sigma = min(cut, size - 1), sigma
            self.scale = 1 / (2 * sum(weights) + 1)
            self.end = sum(weights[: cut - self.radius + 1]) * self.scale


def _smooth_axis(source: Tensor, target: Tensor, axis: int, window: _Window, adjoint: bool) -> None:
    """One launch."""
    missing = 5 - source.dim()
    strides = [0 if i == axis else step for i, step in enumerate(source.stride())]
    with torch.cuda.device_of(source):
        gaussian_smooth_kernel[(triton.cdiv(target.numel(), _BLOCK),)](
            source,
            target,
            (*strides[:2], *[0] * missing, *strides[2:]),
            (*source.shape[:2], *[1] * missing, *source.shape[2:]),
            source.stride(axis),
            source.shape[axis],
            source.shape[axis + 1 :].numel(),
            target.numel(),
            window.radius,
            *bits_of(window.sigma, window.scale, window.end),
            ADJOINT=adjoint,
            ACC=accumulator_type(source),
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )
