"""Triton kernels of ``jacobian_determinant``, forward and backward.

A program takes a tile of rows and columns and goes through it plane by plane, so that the
neighbours that its voxels share are met in the cache. Axes are (z, y, x); in 2D there is no z: its
size is 1, its stride 0.

:func:`jacobian_forward` and :func:`jacobian_backward` trust their input; the checks are those of
the operator ``plasticine.jacobian_determinant``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .differences import (
    determinant_at,
    determinant_of,
    difference_at,
    difference_coefficient,
    flattened,
    launch_over_tiles,
    moved_column,
    scale_of,
    scaled,
    tile_of,
)
from .gather import added
from .launch import field_of
from .location import offset_of, voxel_number

# The rows, columns and planes of a program, and its warps. In float64 and backward a thread takes
# fewer voxels: with more, its registers leave few warps resident, or do not suffice.
_FORWARD_TILE = {"ROWS": 8, "COLUMNS": 64, "PLANES": 8, "num_warps": 4}
_FLOAT64_TILE = {**_FORWARD_TILE, "COLUMNS": 32}
_BACKWARD_TILE = {"ROWS": 4, "COLUMNS": 32, "PLANES": 8, "num_warps": 4}


@triton.jit
def jacobian_forward_kernel(
    displacement,
    out,
    scale,
    NDIM: tl.constexpr,
    SCHEME: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLANES: tl.constexpr,
):
    """One tile of out, contiguous ``(n, 1, *size)``; scale is scale_of the spacing."""
    strides, size = displacement.strides, displacement.size
    n, first, y, x = tile_of(tl.program_id(0), size, INDEX, ROWS, COLUMNS, PLANES)
    field = displacement.data + n * strides[0]
    voxels = tl.cast(size[0], tl.int64) * size[1] * size[2]
    across_y = difference_at(y, size[1], strides[3], SCHEME, ACC)
    across_x = difference_at(x, size[2], strides[4], SCHEME, ACC)
    for plane in range(PLANES):
        z = first + plane
        active = (y < size[1]) & (x < size[2]) & (z < size[0])
        here = field + offset_of((z, y, x), strides)
        across = (difference_at(z, size[0], strides[2], SCHEME, ACC), across_y, across_x)
        determinant = determinant_at(here, strides[1], across, scale, active, NDIM)
        target = out + n * voxels + voxel_number((z, y, x), size)
        tl.store(target, determinant.to(out.dtype.element_ty), mask=active)


@triton.jit
def penalty_slope(jacobian, threshold, slope, KIND: tl.constexpr):
    """The derivative of what a determinant pays: slope below the threshold."""
    ACC: tl.constexpr = jacobian.dtype
    one = tl.full(jacobian.shape, 1.0, ACC)
    at, below = scaled(one, threshold), scaled(one, slope)
    above = jacobian >= at
    if KIND == "hinge":
        return tl.where(above, 0.0, below).to(ACC)
    else:
        clipped = tl.where(above, jacobian, at)
        return tl.where(above, 2 * tl.log(clipped) / clipped, below).to(ACC)


@triton.jit
def gather_axis(
    here,
    strides,
    upstream,
    upstream_strides,
    position,
    size,
    across,
    scale,
    active,
    AXIS: tl.constexpr,
    NDIM: tl.constexpr,
    SCHEME: tl.constexpr,
    KIND: tl.constexpr = "",
):
    """What the voxels gather along an axis, as (z, y, x) components.

    From each neighbour, and themselves, in whose difference their value has a coefficient: that
    times the upstream gradient times the cofactors of that column. With a KIND of penalty the
    upstream gradient is one number for all times the penalty's slope, and upstream_strides holds
    the threshold and the slope below it.

    across holds the differences along z, y and x; a neighbour's on the other two axes are those of
    the voxel, for it differs in no coordinate but AXIS.
    """
    ACC: tl.constexpr = across[AXIS][2].dtype
    FIRST: tl.constexpr = (AXIS + 1) % 3
    SECOND: tl.constexpr = (AXIS + 2) % 3
    sum_z = tl.zeros(active.shape, ACC)
    sum_y = tl.zeros(active.shape, ACC)
    sum_x = tl.zeros(active.shape, ACC)
    index = position[AXIS]
    for step in tl.static_range(-1, 2):
        coefficient = difference_coefficient(index + step, index, size[AXIS], SCHEME, ACC)
        taken = active & (coefficient != 0)
        there = (here + step * strides[2 + AXIS], strides[1])
        if NDIM == 3:
            a, b, c = moved_column(*there, across[FIRST], scale, taken, FIRST, NDIM)
            d, e, f = moved_column(*there, across[SECOND], scale, taken, SECOND, NDIM)
            by_z, by_y, by_x = b * f - c * e, c * d - a * f, a * e - b * d
        elif AXIS == 1:
            by_z, e, f = moved_column(*there, across[2], scale, taken, 2, NDIM)
            by_y, by_x = f, -e
        else:
            by_z, e, f = moved_column(*there, across[1], scale, taken, 1, NDIM)
            by_y, by_x = -f, e
        if KIND == "":
            share = tl.load(upstream + step * upstream_strides[2 + AXIS], mask=taken, other=0)
            share = share.to(ACC)
        else:
            own = difference_at(index + step, size[AXIS], strides[2 + AXIS], SCHEME, ACC)
            p, q, r = moved_column(*there, own, scale, taken, AXIS, NDIM)
            # In the order of determinant_at, which says what becomes of infinite entries.
            if NDIM == 2 and AXIS == 1:
                jacobian = q * f - e * r
            elif NDIM == 2:
                jacobian = e * r - q * f
            elif AXIS == 0:
                jacobian = determinant_of((p, q, r), (a, b, c), (d, e, f))
            elif AXIS == 1:
                jacobian = determinant_of((d, e, f), (p, q, r), (a, b, c))
            else:
                jacobian = determinant_of((a, b, c), (d, e, f), (p, q, r))
            threshold, slope = upstream_strides
            share = upstream * penalty_slope(jacobian, threshold, slope, KIND)
        share *= coefficient
        if NDIM == 3:
            sum_z += tl.where(taken, share * by_z, 0)
        sum_y += tl.where(taken, share * by_y, 0)
        sum_x += tl.where(taken, share * by_x, 0)
    return sum_z, sum_y, sum_x


@triton.jit
def jacobian_backward_kernel(
    grad,
    displacement,
    out,
    scale,
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
    source = grad.data + n * grad.strides[0]
    voxels = tl.cast(size[0], tl.int64) * size[1] * size[2]
    across_y = difference_at(y, size[1], strides[3], SCHEME, ACC)
    across_x = difference_at(x, size[2], strides[4], SCHEME, ACC)
    for plane in range(PLANES):
        z = first + plane
        active = (y < size[1]) & (x < size[2]) & (z < size[0])
        across = (difference_at(z, size[0], strides[2], SCHEME, ACC), across_y, across_x)
        position = (z, y, x)
        here = field + offset_of(position, strides)
        up = source + offset_of(position, grad.strides)
        voxel = (here, strides, up, grad.strides, position, size, across, scale, active)
        total = gather_axis(*voxel, 1, NDIM, SCHEME)
        total = added(total, gather_axis(*voxel, 2, NDIM, SCHEME))
        if NDIM == 3:
            total = added(total, gather_axis(*voxel, 0, NDIM, SCHEME))
        for axis in tl.static_range(3 - NDIM, 3):
            target = out + (n * NDIM + (axis - 3 + NDIM)) * voxels + voxel_number(position, size)
            component = scaled(total[axis], scale[axis])
            tl.store(target, component.to(out.dtype.element_ty), mask=active)


def jacobian_forward(
    displacement: Tensor, out: Tensor, scheme: str, spacing: Sequence[float]
) -> None:
    """The Jacobian determinant of ``p + u(p)``.

    Args:
        displacement: ``(N, d, *spatial)``, d = 2 or 3, float32, float64, float16 or bfloat16; any
            strides. Half types are computed in float32.
        out: overwritten; ``(N, 1, *spatial)``, contiguous, in the displacement's dtype.
        scheme: "central", "forward" or "backward".
        spacing: the voxel size along each axis.
    """
    tile = _FLOAT64_TILE if displacement.dtype == torch.float64 else _FORWARD_TILE
    launch_over_tiles(
        jacobian_forward_kernel,
        displacement,
        field_of(displacement),
        out,
        scale_of(spacing),
        tile=flattened(tile, displacement),
        touched=(displacement,),
        SCHEME=scheme,
    )


def jacobian_backward(
    grad: Tensor,
    displacement: Tensor,
    grad_displacement: Tensor,
    scheme: str,
    spacing: Sequence[float],
) -> None:
    """The gradient of :func:`jacobian_forward`: the same bits every time.

    Args:
        grad: ``(N, 1, *spatial)``, the gradient of the result.
        displacement: as for :func:`jacobian_forward`.
        grad_displacement: overwritten; contiguous, like the displacement.
        scheme: as for :func:`jacobian_forward`.
        spacing: as for :func:`jacobian_forward`.
    """
    launch_over_tiles(
        jacobian_backward_kernel,
        displacement,
        field_of(grad),
        field_of(displacement),
        grad_displacement,
        scale_of(spacing),
        tile=flattened(_BACKWARD_TILE, displacement),
        touched=(displacement, grad),
        SCHEME=scheme,
    )
