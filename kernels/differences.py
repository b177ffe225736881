"""Finite differences of a displacement, for the Triton kernels that go through its voxels.

Axes are (z, y, x); in 2D there is no z: its size is 1, its stride 0, and component 0 is y.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import accumulator_type, index_type, spatial_size


@triton.jit
def tile_of(
    program,
    size,
    INDEX: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLANES: tl.constexpr,
):
    """The voxels of a program: sample, first plane, rows and columns (to be broadcast)."""
    row_tiles = tl.cdiv(size[2], COLUMNS)
    plane_tiles = row_tiles * tl.cdiv(size[1], ROWS)
    pieces = tl.cdiv(size[0], PLANES)
    piece = program // plane_tiles
    tile = program % plane_tiles
    z = (piece % pieces).to(INDEX) * PLANES + tl.zeros([1, 1], INDEX)
    y = (tile // row_tiles).to(INDEX) * ROWS + tl.arange(0, ROWS)[:, None]
    x = (tile % row_tiles).to(INDEX) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    return (piece // pieces).to(tl.int64), z, y, x


def launch_over_tiles(
    kernel: Any,
    displacement: Tensor,
    *arguments: Any,
    tile: dict[str, int],
    touched: tuple[Tensor, ...],
    **constants: Any,
) -> None:
    """Launches a kernel of which each program takes a tile of :func:`tile_of`.

    Args:
        kernel: takes the constants NDIM, INDEX, ACC, those of ``tile`` and of ``constants``.
        displacement: ``(N, d, *spatial)``.
        arguments: the kernel's others, in order.
        tile: as :func:`flattened` gives it.
        touched: what the kernel reads and writes at offsets of type INDEX.
        constants: by name.
    """
    if displacement.numel() == 0:
        return
    _, height, width = spatial_size(displacement)
    beyond = (tile["PLANES"] * (height + tile["ROWS"]) + tile["ROWS"]) * (width + tile["COLUMNS"])
    with torch.cuda.device_of(displacement):
        kernel[(displacement.shape[0] * tiles_of(displacement, tile),)](
            *arguments,
            NDIM=displacement.shape[1],
            INDEX=index_type(beyond, *touched),
            ACC=accumulator_type(displacement),
            **tile,
            **constants,
        )


def flattened(tile: dict[str, int], displacement: Tensor) -> dict[str, int]:
    """A tile, with "ROWS", "COLUMNS" and "PLANES", of which there is one in 2D."""
    return tile if displacement.shape[1] == 3 else {**tile, "PLANES": 1}


def tiles_of(displacement: Tensor, tile: dict[str, int]) -> int:
    """How many tiles a sample of a displacement has."""
    depth, height, width = spatial_size(displacement)
    tiles = triton.cdiv(height, tile["ROWS"]) * triton.cdiv(width, tile["COLUMNS"])
    return triton.cdiv(depth, tile["PLANES"]) * tiles


def scale_of(spacing: Sequence[float]) -> tuple[int, ...]:
    """What components are multiplied by, as (z, y, x): ``1 / spacing``, 1 where there is no z.

    ``det(I + du_i / (h_j dx_j))`` is the same with ``u_i / h_i`` in place of ``u_i / h_j``, the two
    matrices being similar.

    Returns:
        Their bits: see :func:`bits_of`.
    """
    scale = tuple(1.0 / size for size in spacing)
    return bits_of(*(scale if len(scale) == 3 else (1.0, *scale)))


def bits_of(*numbers: float) -> tuple[int, ...]:
    """The bits of float64 numbers, for :func:`scaled`: a kernel receives a float in float32.

    Of 0 they are those of -0: a kernel would receive a 0 in 32 bits.
    """
    signed = [x if x != 0 else -0.0 for x in numbers]
    return struct.unpack(f"{len(signed)}q", struct.pack(f"{len(signed)}d", *signed))


@triton.jit
def scaled(value, bits):
    """A value times one of what bits_of gives."""
    return value * tl.cast(bits, tl.float64, bitcast=True).to(value.dtype)


@triton.jit
def neighbours_of(index, size, SCHEME: tl.constexpr):
    """The voxels between which the derivative at a voxel is taken, both 0 on an axis of one."""
    last = size - 1
    lower = index if SCHEME == "forward" else index - 1
    upper = index if SCHEME == "backward" else index + 1
    # At the ends the other side stands in; the central difference becomes one-sided.
    lower = tl.where(index == last, last - 1, lower)
    upper = tl.where(index == last, last, upper)
    lower = tl.where(index == 0, 0, lower)
    upper = tl.where(index == 0, tl.where(index == last, 0, 1), upper)
    return lower, upper


@triton.jit
def weight_of(lower, upper, ACC: tl.constexpr):
    """What the difference between two voxels is multiplied by: one over their distance, or 0."""
    distance = upper - lower
    return tl.where(distance == 2, 0.5, tl.where(distance == 1, 1.0, 0.0)).to(ACC)


@triton.jit
def difference_at(index, size, stride, SCHEME: tl.constexpr, ACC: tl.constexpr):
    """The derivative along an axis, ``weight * (u[upper] - u[lower])``.

    Returns:
        The offsets of lower and upper from the voxel, in elements, and weight.
    """
    lower, upper = neighbours_of(index, size, SCHEME)
    return (lower - index) * stride, (upper - index) * stride, weight_of(lower, upper, ACC)


@triton.jit
def difference_coefficient(at, index, size, SCHEME: tl.constexpr, ACC: tl.constexpr):
    """The coefficient of ``u[index]`` in the derivative at voxel ``at``; 0 outside of the axis."""
    lower, upper = neighbours_of(at, size, SCHEME)
    weight = weight_of(lower, upper, ACC)
    coefficient = tl.where(upper == index, weight, 0) - tl.where(lower == index, weight, 0)
    return tl.where((at >= 0) & (at < size), coefficient, 0)


@triton.jit
def moved_column(
    here,
    component_stride,
    difference,
    scale,
    active,
    AXIS: tl.constexpr,
    NDIM: tl.constexpr,
):
    """One column of ``I + du / dx``: the derivatives of all components along an axis.

    Args:
        here: the addresses of component 0 at the voxels.
        component_stride: in elements.
        difference: on the axis, as difference_at gives it.
        scale: of the components, as scale_of gives it.
        active: the mask of the voxels.
        AXIS: 0, 1 or 2 for z, y or x.
        NDIM: 2 or 3.

    Returns:
        The entries (z, y, x); in 2D that of z is 0.
    """
    lower, upper, weight = difference
    ACC: tl.constexpr = weight.dtype
    step = tl.cast(component_stride, tl.int64)
    first = tl.zeros(active.shape, ACC)
    if NDIM == 3:
        first = scaled(weight, scale[0]) * difference_between(here, lower, upper, active, ACC)
        here += step
    second = scaled(weight, scale[1]) * difference_between(here, lower, upper, active, ACC)
    here += step
    third = scaled(weight, scale[2]) * difference_between(here, lower, upper, active, ACC)
    return first + (AXIS == 0), second + (AXIS == 1), third + (AXIS == 2)


@triton.jit
def determinant_at(here, component_stride, across, scale, active, NDIM: tl.constexpr):
    """The determinant of ``I + du / dx``; across holds the differences along z, y and x."""
    field = (here, component_stride)
    along_y = moved_column(*field, across[1], scale, active, 1, NDIM)
    along_x = moved_column(*field, across[2], scale, active, 2, NDIM)
    if NDIM == 2:
        determinant = along_y[1] * along_x[2] - along_x[1] * along_y[2]
    else:
        along_z = moved_column(*field, across[0], scale, active, 0, NDIM)
        determinant = determinant_of(along_z, along_y, along_x)
    return determinant


@triton.jit
def determinant_of(along_z, along_y, along_x):
    """The determinant of three columns."""
    a, d, g = along_z
    b, e, h = along_y
    c, f, i = along_x
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


@triton.jit
def difference_between(here, lower, upper, active, ACC: tl.constexpr):
    """``u[upper] - u[lower]``, both relative to an address."""
    above = tl.load(here + upper, mask=active, other=0).to(ACC)
    return above - tl.load(here + lower, mask=active, other=0).to(ACC)
