"""Triton kernels of ``jacobian_penalty``, forward and backward.

As those of ``jacobian_determinant``, whose differences and cofactors they take; no determinant is
written anywhere. Axes are (z, y, x); in 2D there is no z: its size is 1, its stride 0.

:func:`jacobian_penalty_forward` and :func:`jacobian_penalty_backward` trust their input; the checks
are those of the operator ``plasticine.jacobian_penalty``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .differences import (
    bits_of,
    determinant_at,
    difference_at,
    flattened,
    launch_over_tiles,
    scale_of,
    scaled,
    tile_of,
    tiles_of,
)
from .gather import added
from .jacobian import gather_axis
from .launch import field_of
from .location import offset_of, voxel_number

# The rows, columns and planes of a program, and its warps: as jacobian's.
_FORWARD_TILE = {"ROWS": 8, "COLUMNS": 64, "PLANES": 8, "num_warps": 4}
_FLOAT64_TILE = {**_FORWARD_TILE, "COLUMNS": 32}
_BACKWARD_TILE = {"ROWS": 4, "COLUMNS": 32, "PLANES": 8, "num_warps": 4}


@triton.jit
def jacobian_penalty_forward_kernel(
    displacement,
    partial,
    scale,
    line,
    KIND: tl.constexpr,
    NDIM: tl.constexpr,
    SCHEME: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLANES: tl.constexpr,
):
    """What one tile pays to partial, a float64 a program; line is the threshold, slope, level."""
    strides, size = displacement.strides, displacement.size
    n, first, y, x = tile_of(tl.program_id(0), size, INDEX, ROWS, COLUMNS, PLANES)
    field = displacement.data + n * strides[0]
    across_y = difference_at(y, size[1], strides[3], SCHEME, ACC)
    across_x = difference_at(x, size[2], strides[4], SCHEME, ACC)
    one = tl.full([ROWS, COLUMNS], 1.0, ACC)
    threshold, slope, level = scaled(one, line[0]), scaled(one, line[1]), scaled(one, line[2])
    total = tl.zeros([ROWS, COLUMNS], ACC)
    for plane in range(PLANES):
        z = first + plane
        active = (y < size[1]) & (x < size[2]) & (z < size[0])
        here = field + offset_of((z, y, x), strides)
        across = (difference_at(z, size[0], strides[2], SCHEME, ACC), across_y, across_x)
        jacobian = determinant_at(here, strides[1], across, scale, active, NDIM)
        above = jacobian >= threshold
        below = level + slope * (jacobian - threshold)
        if KIND == "hinge":
            paid = tl.where(above, 0.0, below)
        else:
            logarithm = tl.log(tl.where(above, jacobian, threshold))
            paid = tl.where(above, logarithm * logarithm, below)
        total += tl.where(active, paid, 0)
    tl.store(partial + tl.program_id(0), tl.sum(tl.sum(total.to(tl.float64), 1), 0))


@triton.jit
def jacobian_penalty_backward_kernel(
    grad,
    grad_stride,
    displacement,
    out,
    scale,
    line,
    KIND: tl.constexpr,
    NDIM: tl.constexpr,
    SCHEME: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLANES: tl.constexpr,
):
    """One tile of out, contiguous ``(n, d, *size)``: each voxel gathers, in a fixed order."""
    strides, size = displacement.strides, displacement.size
    n, first, y, x = tile_of(tl.program_id(0), size, INDEX, ROWS, COLUMNS, PLANES)
    field = displacement.data + n * strides[0]
    voxels = tl.cast(size[0], tl.int64) * size[1] * size[2]
    upstream = (tl.load(grad + n * grad_stride).to(tl.float64) / voxels).to(ACC)
    across_y = difference_at(y, size[1], strides[3], SCHEME, ACC)
    across_x = difference_at(x, size[2], strides[4], SCHEME, ACC)
    slopes = (line[0], line[1])
    for plane in range(PLANES):
        z = first + plane
        active = (y < size[1]) & (x < size[2]) & (z < size[0])
        across = (difference_at(z, size[0], strides[2], SCHEME, ACC), across_y, across_x)
        position = (z, y, x)
        here = field + offset_of(position, strides)
        voxel = (here, strides, upstream, slopes, position, size, across, scale, active)
        total = gather_axis(*voxel, 1, NDIM, SCHEME, KIND)
        total = added(total, gather_axis(*voxel, 2, NDIM, SCHEME, KIND))
        if NDIM == 3:
            total = added(total, gather_axis(*voxel, 0, NDIM, SCHEME, KIND))
        for axis in tl.static_range(3 - NDIM, 3):
            target = out + (n * NDIM + (axis - 3 + NDIM)) * voxels + voxel_number(position, size)
            component = scaled(total[axis], scale[axis])
            tl.store(target, component.to(out.dtype.element_ty), mask=active)


def jacobian_penalty_forward(
    u: Tensor,
    out: Tensor,
    threshold: float,
    kind: str,
    scheme: str,
    spacing: Sequence[float],
) -> None:
    """The mean of what the Jacobian determinants of ``p + u(p)`` pay: the same bits every time.

    Args:
        u: ``(N, d, *spatial)``, d = 2 or 3, float32, float64, float16 or bfloat16; any strides.
            Half types are computed in float32.
        out: overwritten; ``(N,)``, float64 of a float64 displacement, else float32.
        threshold: below it the penalty is a line.
        kind: "hinge" or "log".
        scheme: "central", "forward" or "backward".
        spacing: the voxel size along each axis.
    """
    tile = flattened(_FLOAT64_TILE if u.dtype == torch.float64 else _FORWARD_TILE, u)
    allocate = u.new_empty if u.numel() else u.new_zeros
    partial = allocate((len(u), max(tiles_of(u, tile), 1)), dtype=torch.float64)
    launch_over_tiles(
        jacobian_penalty_forward_kernel,
        u,
        field_of(u),
        partial,
        scale_of(spacing),
        line_of(threshold, kind),
        tile=tile,
        touched=(u,),
        SCHEME=scheme,
        KIND=kind,
    )
    out.copy_(partial.sum(1) / max(u.shape[2:].numel(), 1))


def jacobian_penalty_backward(
    grad: Tensor,
    u: Tensor,
    grad_u: Tensor,
    threshold: float,
    kind: str,
    scheme: str,
    spacing: Sequence[float],
) -> None:
    """The gradient of :func:`jacobian_penalty_forward`: the same bits every time.

    Args:
        grad: ``(N,)``, the gradient of the result.
        u: as for :func:`jacobian_penalty_forward`.
        grad_u: overwritten; contiguous, like the displacement.
        threshold: as for :func:`jacobian_penalty_forward`.
        kind: as for :func:`jacobian_penalty_forward`.
        scheme: as for :func:`jacobian_penalty_forward`.
        spacing: as for :func:`jacobian_penalty_forward`.
    """
    launch_over_tiles(
        jacobian_penalty_backward_kernel,
        u,
        grad,
        grad.stride(0),
        field_of(u),
        grad_u,
        scale_of(spacing),
        line_of(threshold, kind),
        tile=flattened(_BACKWARD_TILE, u),
        touched=(u,),
        SCHEME=scheme,
        KIND=kind,
    )


def line_of(threshold: float, kind: str) -> tuple[int, ...]:
    """Threshold, slope and level of what is paid below it, as ``bits_of`` gives them."""
    if kind == "hinge":
        return bits_of(threshold, -1.0, 0.0)
    logarithm = math.log(threshold)
    return bits_of(threshold, 2 * logarithm / threshold, logarithm**2)
