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
    difference_at,
    difference_coefficient,
    moved_column,
    scale_of,
    scaled,
    tile_of,
    tiling,
)
from .launch import accumulator_type, element_strides, spatial_size

# The rows, columns and planes of a program, and its warps. In float64 and backward a thread takes
# fewer voxels: with more, its registers leave few warps resident, or do not suffice.
_FORWARD_TILE = {"ROWS": 8, "COLUMNS": 64, "PLANES": 8, "num_warps": 4}
_FLOAT64_TILE = {**_FORWARD_TILE, "COLUMNS": 32}
_BACKWARD_TILE = {"ROWS": 4, "COLUMNS": 32, "PLANES": 8, "num_warps": 4}


@triton.jit
def jacobian_forward_kernel(
    displacement,
    out,
    strides,
    scale,
    size,
    NDIM: tl.constexpr,
    SCHEME: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLANES: tl.constexpr,
):
    """One tile of out, contiguous ``(n, 1, *size)``; scale is scale_of the spacing."""
    n, first, y, x = tile_of(tl.program_id(0), size, INDEX, ROWS, COLUMNS, PLANES)
    field = displacement + n * strides[0]
    voxels = tl.cast(size[0], tl.int64) * size[1] * size[2]
    across_y = difference_at(y, size[1], strides[3], SCHEME, ACC)
    across_x = difference_at(x, size[2], strides[4], SCHEME, ACC)
    for plane in range(PLANES):
        z = first + plane
        active = (y < size[1]) & (x < size[2]) & (z < size[0])
        here = field + (z * strides[2] + y * strides[3] + x * strides[4])
        b, e, h = moved_column(here, strides[1], across_y, scale, active, 1, NDIM)
        c, f, i = moved_column(here, strides[1], across_x, scale, active, 2, NDIM)
        if NDIM == 2:
            determinant = e * i - f * h
        else:
            across_z = difference_at(z, size[0], strides[2], SCHEME, ACC)
            a, d, g = moved_column(here, strides[1], across_z, scale, active, 0, NDIM)
            determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        target = out + n * voxels + (z * size[1] + y) * size[2] + x
        tl.store(target, determinant.to(out.dtype.element_ty), mask=active)


@triton.jit
def gather_axis(
    here,
    component_stride,
    stride,
    upstream,
    upstream_stride,
    index,
    size,
    across_first,
    across_second,
    scale,
    active,
    AXIS: tl.constexpr,
    NDIM: tl.constexpr,
    SCHEME: tl.constexpr,
    ACC: tl.constexpr,
):
    """What the voxels gather along an axis, as (z, y, x) components.

    From each neighbour, and themselves, in whose difference their value has a coefficient: that
    times the upstream gradient times the cofactors of that column.

    across_first and across_second are the differences on the other two axes, in cyclic order; a
    neighbour's are those of the voxel, for it differs in no coordinate but AXIS. In 2D
    across_second alone counts.
    """
    FIRST: tl.constexpr = (AXIS + 1) % 3
    SECOND: tl.constexpr = (AXIS + 2) % 3
    sum_z = tl.zeros(active.shape, ACC)
    sum_y = tl.zeros(active.shape, ACC)
    sum_x = tl.zeros(active.shape, ACC)
    for step in tl.static_range(-1, 2):
        coefficient = difference_coefficient(index + step, index, size, SCHEME, ACC)
        taken = active & (coefficient != 0)
        at = here + step * stride
        share = tl.load(upstream + step * upstream_stride, mask=taken, other=0).to(ACC)
        share *= coefficient
        if NDIM == 3:
            a, b, c = moved_column(at, component_stride, across_first, scale, taken, FIRST, NDIM)
            d, e, f = moved_column(at, component_stride, across_second, scale, taken, SECOND, NDIM)
            sum_z += tl.where(taken, share * (b * f - c * e), 0)
            sum_y += tl.where(taken, share * (c * d - a * f), 0)
            sum_x += tl.where(taken, share * (a * e - b * d), 0)
        elif AXIS == 1:
            _, e, f = moved_column(at, component_stride, across_first, scale, taken, FIRST, NDIM)
            sum_y += tl.where(taken, share * f, 0)
            sum_x -= tl.where(taken, share * e, 0)
        else:
            _, e, f = moved_column(at, component_stride, across_second, scale, taken, SECOND, NDIM)
            sum_y -= tl.where(taken, share * f, 0)
            sum_x += tl.where(taken, share * e, 0)
    return sum_z, sum_y, sum_x


@triton.jit
def jacobian_backward_kernel(
    grad,
    displacement,
    out,
    grad_strides,
    strides,
    scale,
    size,
    NDIM: tl.constexpr,
    SCHEME: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLANES: tl.constexpr,
):
    """One tile of out, contiguous ``(n, d, *size)``: each voxel gathers, in a fixed order."""
    n, first, y, x = tile_of(tl.program_id(0), size, INDEX, ROWS, COLUMNS, PLANES)
    field = displacement + n * strides[0]
    source = grad + n * grad_strides[0]
    voxels = tl.cast(size[0], tl.int64) * size[1] * size[2]
    across_y = difference_at(y, size[1], strides[3], SCHEME, ACC)
    across_x = difference_at(x, size[2], strides[4], SCHEME, ACC)
    for plane in range(PLANES):
        z = first + plane
        active = (y < size[1]) & (x < size[2]) & (z < size[0])
        here = field + (z * strides[2] + y * strides[3] + x * strides[4])
        up = source + (z * grad_strides[2] + y * grad_strides[3] + x * grad_strides[4])
        across_z = difference_at(z, size[0], strides[2], SCHEME, ACC)
        sum_z, sum_y, sum_x = gather_axis(
            here,
            strides[1],
            strides[3],
            up,
            grad_strides[3],
            y,
            size[1],
            across_x,
            across_z,
            scale,
            active,
            1,
            NDIM,
            SCHEME,
            ACC,
        )
        more_z, more_y, more_x = gather_axis(
            here,
            strides[1],
            strides[4],
            up,
            grad_strides[4],
            x,
            size[2],
            across_z,
            across_y,
            scale,
            active,
            2,
            NDIM,
            SCHEME,
            ACC,
        )
        sum_z, sum_y, sum_x = sum_z + more_z, sum_y + more_y, sum_x + more_x
        voxel = (z * size[1] + y) * size[2] + x
        target = out + n * NDIM * voxels + voxel
        if NDIM == 3:
            more_z, more_y, more_x = gather_axis(
                here,
                strides[1],
                strides[2],
                up,
                grad_strides[2],
                z,
                size[0],
                across_y,
                across_x,
                scale,
                active,
                0,
                NDIM,
                SCHEME,
                ACC,
            )
            sum_z, sum_y, sum_x = sum_z + more_z, sum_y + more_y, sum_x + more_x
            tl.store(target, scaled(sum_z, scale[0]).to(out.dtype.element_ty), mask=active)
            target += voxels
        tl.store(target, scaled(sum_y, scale[1]).to(out.dtype.element_ty), mask=active)
        tl.store(target + voxels, scaled(sum_x, scale[2]).to(out.dtype.element_ty), mask=active)


def jacobian_forward(displacement: Tensor, scheme: str, spacing: Sequence[float]) -> Tensor:
    """The Jacobian determinant of ``p + u(p)``.

    Args:
        displacement: ``(N, d, *spatial)``, d = 2 or 3, float32, float64, float16 or bfloat16; any
            strides. Half types are computed in float32.
        scheme: "central", "forward" or "backward".
        spacing: the voxel size along each axis.

    Returns:
        ``(N, 1, *spatial)``, contiguous, in the displacement's dtype.
    """
    shape = (displacement.shape[0], 1, *displacement.shape[2:])
    out = torch.empty(shape, dtype=displacement.dtype, device=displacement.device)
    if out.numel():
        tile = _FLOAT64_TILE if displacement.dtype == torch.float64 else _FORWARD_TILE
        programs, options = _launch_options(displacement, displacement, scheme, tile)
        with torch.cuda.device_of(displacement):
            jacobian_forward_kernel[(programs,)](
                displacement,
                out,
                element_strides(displacement),
                scale_of(spacing),
                spatial_size(displacement),
                **options,
            )
    return out


def jacobian_backward(
    grad: Tensor, displacement: Tensor, scheme: str, spacing: Sequence[float]
) -> Tensor:
    """The gradient of :func:`jacobian_forward`: the same bits every time.

    Args:
        grad: ``(N, 1, *spatial)``, the gradient of the result.
        displacement: as for :func:`jacobian_forward`.
        scheme: as for :func:`jacobian_forward`.
        spacing: as for :func:`jacobian_forward`.

    Returns:
        ``(N, d, *spatial)``, contiguous, in the displacement's dtype.
    """
    out = torch.empty(displacement.shape, dtype=displacement.dtype, device=displacement.device)
    if out.numel():
        programs, options = _launch_options(displacement, grad, scheme, _BACKWARD_TILE)
        with torch.cuda.device_of(displacement):
            jacobian_backward_kernel[(programs,)](
                grad,
                displacement,
                out,
                element_strides(grad),
                element_strides(displacement),
                scale_of(spacing),
                spatial_size(displacement),
                **options,
            )
    return out


def _launch_options(
    displacement: Tensor, grad: Tensor, scheme: str, tile: dict[str, int]
) -> tuple[int, dict[str, object]]:
    """The number of programs, and the options common to both kernels."""
    if displacement.shape[1] == 2:
        tile = {**tile, "PLANES": 1}
    programs, index = tiling(displacement, tile, grad)
    return programs, {
        "NDIM": displacement.shape[1],
        "SCHEME": scheme,
        "INDEX": index,
        "ACC": accumulator_type(displacement),
        **tile,
    }
