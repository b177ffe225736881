"""Triton kernels of ``smoothness``, forward and backward.

A program takes a tile of rows and columns and goes through it plane by plane, one component after
the other, so that the neighbours that its voxels share are met in the cache. Axes are (z, y, x); in
2D there is no z: its size is 1, its stride 0. csrc/smoothness/math/smoothness.h says where the
differences are taken, and how the gradient is made of them.

:func:`smoothness_forward` and :func:`smoothness_backward` trust their input; the checks are those
of the operator ``plasticine.smoothness``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .differences import bits_of, flattened, launch_over_tiles, scaled, tile_of, tiles_of
from .launch import field_of, spatial_size
from .location import offset_of, voxel_number

# The rows, columns and planes of a program, and its warps.
_FORWARD_TILE = {"ROWS": 8, "COLUMNS": 64, "PLANES": 8, "num_warps": 4}
_BACKWARD_TILE = {"ROWS": 4, "COLUMNS": 64, "PLANES": 8, "num_warps": 4}
_MIXED = ((0, 1), (0, 2), (1, 2))


@triton.jit
def is_inner(index, size):
    """Whether there are neighbours on both sides."""
    return (index > 0) & (index < size - 1)


@triton.jit
def is_counted(index, size, CENTRAL: tl.constexpr):
    """Whether a place counts along an axis on which nothing is derived."""
    if CENTRAL:
        return tl.where(size < 3, index < size, is_inner(index, size))
    else:
        return index < size


@triton.jit
def has_first(index, size, CENTRAL: tl.constexpr):
    """Whether there is a first difference."""
    if CENTRAL:
        return is_inner(index, size)
    else:
        return index < size - 1


@triton.jit
def steps_of(strides, INDEX: tl.constexpr):
    """Strides along (z, y, x) of which twice fits as well."""
    z, y, x = tl.cast(strides[2], INDEX), tl.cast(strides[3], INDEX), tl.cast(strides[4], INDEX)
    return z, y, x


@triton.jit
def mixed_square(here, first, second, exists, CENTRAL: tl.constexpr, ACC: tl.constexpr):
    """The square of the difference along two axes, of these strides."""
    LOW: tl.constexpr = -1 if CENTRAL else 0
    upper = tl.load(here + first + second, mask=exists, other=0).to(ACC)
    upper -= tl.load(here + first + LOW * second, mask=exists, other=0).to(ACC)
    lower = tl.load(here + LOW * first + second, mask=exists, other=0).to(ACC)
    lower -= tl.load(here + LOW * first + LOW * second, mask=exists, other=0).to(ACC)
    difference = (upper - lower) * (0.25 if CENTRAL else 1.0)
    return difference * difference


@triton.jit
def smoothness_forward_kernel(
    field,
    partial,
    weights,
    ORDER: tl.constexpr,
    CENTRAL: tl.constexpr,
    NDIM: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLANES: tl.constexpr,
):
    """The energy of one tile to partial, a float64 a program; weights as weights_of gives them."""
    strides, size = field.strides, field.size
    n, first, y, x = tile_of(tl.program_id(0), size, INDEX, ROWS, COLUMNS, PLANES)
    sample = field.data + n * strides[0]
    steps = steps_of(strides, INDEX)
    total = tl.zeros([ROWS, COLUMNS], ACC)
    LOW: tl.constexpr = -1 if CENTRAL else 0
    for component in range(NDIM):
        source = sample + component * tl.cast(strides[1], tl.int64)
        for plane in range(PLANES):
            position = (first + plane, y, x)
            here = source + offset_of(position, strides)
            counted_z = is_counted(position[0], size[0], CENTRAL) & (position[0] < size[0])
            counted_y = is_counted(y, size[1], CENTRAL) & (y < size[1])
            counted_x = is_counted(x, size[2], CENTRAL) & (x < size[2])
            counted = (counted_z, counted_y, counted_x)
            for axis in tl.static_range(3 - NDIM, 3):
                others = counted[(axis + 1) % 3] & counted[(axis + 2) % 3]
                step = steps[axis]
                if ORDER == 1:
                    exists = others & has_first(position[axis], size[axis], CENTRAL)
                    difference = tl.load(here + step, mask=exists, other=0).to(ACC)
                    difference -= tl.load(here + LOW * step, mask=exists, other=0).to(ACC)
                    difference *= 0.5 if CENTRAL else 1.0
                else:
                    exists = others & is_inner(position[axis], size[axis])
                    value = tl.load(here, mask=exists, other=0).to(ACC)
                    difference = tl.load(here + step, mask=exists, other=0).to(ACC) - value
                    difference -= value - tl.load(here - step, mask=exists, other=0).to(ACC)
                total += scaled(difference * difference, weights[axis])
            if ORDER == 2:
                has_y = has_first(y, size[1], CENTRAL)
                has_x = has_first(x, size[2], CENTRAL)
                exists = counted_z & has_y & has_x
                square = mixed_square(here, steps[1], steps[2], exists, CENTRAL, ACC)
                total += scaled(square, weights[5])
                if NDIM == 3:
                    has_z = has_first(position[0], size[0], CENTRAL)
                    exists = has_z & has_y & counted_x
                    square = mixed_square(here, steps[0], steps[1], exists, CENTRAL, ACC)
                    total += scaled(square, weights[3])
                    exists = has_z & counted_y & has_x
                    square = mixed_square(here, steps[0], steps[2], exists, CENTRAL, ACC)
                    total += scaled(square, weights[4])
    tl.store(partial + tl.program_id(0), tl.sum(tl.sum(total.to(tl.float64), 1), 0))


@triton.jit
def steps_along(here, stride, index, size, value, active, ACC: tl.constexpr):
    """The differences to the voxels 2 and 1 before and 1 and 2 after; 0 where there are none."""
    has_2_before, has_1_before = active & (index > 1), active & (index > 0)
    has_1_after, has_2_after = active & (index < size - 1), active & (index < size - 2)
    two_before = tl.load(here - 2 * stride, mask=has_2_before, other=0).to(ACC) - value
    one_before = tl.load(here - stride, mask=has_1_before, other=0).to(ACC) - value
    one_after = tl.load(here + stride, mask=has_1_after, other=0).to(ACC) - value
    two_after = tl.load(here + 2 * stride, mask=has_2_after, other=0).to(ACC) - value
    return (
        tl.where(has_2_before, two_before, 0),
        tl.where(has_1_before, one_before, 0),
        tl.where(has_1_after, one_after, 0),
        tl.where(has_2_after, two_after, 0),
    )


@triton.jit
def second_twice(along, index, size, ACC: tl.constexpr):
    """What ``[1, -2, 1]`` and then its adjoint make of the differences along an axis."""
    here = is_inner(index, size).to(ACC)
    before = here + is_inner(index - 1, size).to(ACC)
    after = here + is_inner(index + 1, size).to(ACC)
    # Multiplied where there is something alone: a difference may not be finite.
    sides = tl.where(before > 0, 2 * before * along[1], 0)
    sides += tl.where(after > 0, 2 * after * along[2], 0)
    return along[0] + along[3] - sides


@triton.jit
def corner(here, offset, exists, value, beside, beyond, ACC: tl.constexpr):
    """The difference along two axes to one corner."""
    there = tl.load(here + offset, mask=exists, other=0).to(ACC) - value
    return tl.where(exists, there - beside - beyond, 0)


@triton.jit
def four_corners(
    here,
    steps,
    position,
    size,
    value,
    first_steps,
    second_steps,
    active,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    CENTRAL: tl.constexpr,
    ACC: tl.constexpr,
):
    """The adjoint of the difference along two axes of itself, without its weight."""
    REACH: tl.constexpr = 2 if CENTRAL else 1
    first, second = REACH * steps[FIRST], REACH * steps[SECOND]
    first_before = active & (position[FIRST] >= REACH)
    first_after = active & (position[FIRST] < size[FIRST] - REACH)
    second_before = position[SECOND] >= REACH
    second_after = position[SECOND] < size[SECOND] - REACH
    a, b = first_steps[2 - REACH], first_steps[1 + REACH]
    c, d = second_steps[2 - REACH], second_steps[1 + REACH]
    total = corner(here, -first - second, first_before & second_before, value, a, c, ACC)
    total += corner(here, second - first, first_before & second_after, value, a, d, ACC)
    total += corner(here, first - second, first_after & second_before, value, b, c, ACC)
    total += corner(here, first + second, first_after & second_after, value, b, d, ACC)
    return total


@triton.jit
def smoothness_backward_kernel(
    grad,
    grad_stride,
    field,
    out,
    weights,
    ORDER: tl.constexpr,
    CENTRAL: tl.constexpr,
    NDIM: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLANES: tl.constexpr,
):
    """One tile of out, contiguous ``(n, d, *size)``: each voxel gathers, in a fixed order."""
    strides, size = field.strides, field.size
    n, first, y, x = tile_of(tl.program_id(0), size, INDEX, ROWS, COLUMNS, PLANES)
    upstream = tl.load(grad + n * grad_stride)
    voxels = tl.cast(size[0], tl.int64) * size[1] * size[2]
    REACH: tl.constexpr = 2 if CENTRAL else 1
    steps = steps_of(strides, INDEX)
    in_tile = (y < size[1]) & (x < size[2])
    for component in range(NDIM):
        source = field.data + n * strides[0] + component * tl.cast(strides[1], tl.int64)
        for plane in range(PLANES):
            z = first + plane
            position = (z, y, x)
            active = in_tile & (z < size[0])
            here = source + offset_of(position, strides)
            value = tl.load(here, mask=active, other=0).to(ACC)
            along_z = steps_along(here, steps[0], z, size[0], value, active, ACC)
            along_y = steps_along(here, steps[1], y, size[1], value, active, ACC)
            along_x = steps_along(here, steps[2], x, size[2], value, active, ACC)
            along = (along_z, along_y, along_x)
            counted = (
                is_counted(z, size[0], CENTRAL),
                is_counted(y, size[1], CENTRAL),
                is_counted(x, size[2], CENTRAL),
            )
            total = tl.zeros([ROWS, COLUMNS], ACC)
            for axis in tl.static_range(3 - NDIM, 3):
                if ORDER == 1:
                    adjoint = -(along[axis][2 - REACH] + along[axis][1 + REACH])
                else:
                    adjoint = second_twice(along[axis], position[axis], size[axis], ACC)
                others = counted[(axis + 1) % 3] & counted[(axis + 2) % 3]
                total += tl.where(others, scaled(adjoint, weights[axis]), 0)
            if ORDER == 2:
                place = (here, steps, position, size, value)
                adjoint = four_corners(*place, along_y, along_x, active, 1, 2, CENTRAL, ACC)
                total += tl.where(counted[0], scaled(adjoint, weights[5]), 0)
                if NDIM == 3:
                    adjoint = four_corners(*place, along_z, along_y, active, 0, 1, CENTRAL, ACC)
                    total += tl.where(counted[2], scaled(adjoint, weights[3]), 0)
                    adjoint = four_corners(*place, along_z, along_x, active, 0, 2, CENTRAL, ACC)
                    total += tl.where(counted[1], scaled(adjoint, weights[4]), 0)
            total *= upstream.to(ACC)
            target = out + (n * NDIM + component) * voxels + voxel_number(position, size)
            tl.store(target, total.to(out.dtype.element_ty), mask=active)


def smoothness_forward(
    v: Tensor, out: Tensor, order: int, scheme: str, spacing: Sequence[float]
) -> None:
    """The diffusion or bending energy: the same bits every time.

    Args:
        v: ``(N, d, *spatial)``, d = 2 or 3, float32, float64, float16 or bfloat16; any strides.
            Half types are computed in float32.
        out: overwritten; ``(N,)``, float64 of a float64 field, else float32.
        order: 1 or 2.
        scheme: "forward" or "central".
        spacing: the voxel size along each axis.
    """
    tile = flattened(_FORWARD_TILE, v)
    tiles = max(tiles_of(v, tile), 1)
    allocate = v.new_empty if v.numel() else v.new_zeros
    partial = allocate((len(v), tiles), dtype=torch.float64)
    launch_over_tiles(
        smoothness_forward_kernel,
        v,
        field_of(v),
        partial,
        weights_of(v, order, scheme, spacing, False),
        tile=tile,
        touched=(v,),
        ORDER=order,
        CENTRAL=scheme == "central",
    )
    out.copy_(partial.sum(1))


def smoothness_backward(
    grad: Tensor,
    v: Tensor,
    grad_v: Tensor,
    order: int,
    scheme: str,
    spacing: Sequence[float],
) -> None:
    """The gradient of :func:`smoothness_forward`: the same bits every time.

    Args:
        grad: ``(N,)``, the gradient of the result.
        v: as for :func:`smoothness_forward`.
        grad_v: overwritten; contiguous, like the field.
        order: as for :func:`smoothness_forward`.
        scheme: as for :func:`smoothness_forward`.
        spacing: as for :func:`smoothness_forward`.
    """
    launch_over_tiles(
        smoothness_backward_kernel,
        v,
        grad,
        grad.stride(0),
        field_of(v),
        grad_v,
        weights_of(v, order, scheme, spacing, True),
        tile=flattened(_BACKWARD_TILE, v),
        touched=(v,),
        ORDER=order,
        CENTRAL=scheme == "central",
    )


def weights_of(
    v: Tensor, order: int, scheme: str, spacing: Sequence[float], backward: bool
) -> tuple[int, ...]:
    """What the squares of each term, or what their gradient is made of, are multiplied by.

    Terms are along z, y, x and, of second order, along zy, zx and yx, which count twice.

    Returns:
        Their bits: see ``bits_of``.
    """
    size = spatial_size(v)
    unit = tuple(spacing) if len(spacing) == 3 else (1.0, *spacing)
    central = scheme == "central"
    weights = []
    for term in (*[(axis,) * order for axis in range(3)], *_MIXED):
        places = 1
        for axis, n in enumerate(size):
            lost = 2 if central and (axis in term or n > 2) else term.count(axis)
            places *= max(n - lost, 0)
        is_mixed = len(set(term)) == 2
        # Without places there are no differences either, and anything would do.
        weight = 1 / (math.prod(unit[axis] for axis in term) ** 2 * max(places, 1))
        weight *= 2 if is_mixed else 1
        if backward:
            weight *= 2
            if central and (order == 1 or is_mixed):
                weight /= 16 if is_mixed else 4
        weights.append(weight)
    return bits_of(*weights)
