"""Triton kernel of ``folding``: the statistics of a displacement in one pass over it.

A program takes a tile of rows and columns, goes through it plane by plane, and leaves one record of
what it has met; the records of a sample are put together in a fixed order. Nothing waits for the
device. Axes are (z, y, x); in 2D there is no z: its size is 1, its stride 0.

:func:`folding` trusts its input; the checks are those of the operator ``plasticine.folding``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .differences import (
    determinant_at,
    difference_at,
    flattened,
    launch_over_tiles,
    scale_of,
    scaled,
    tile_of,
    tiles_of,
)
from .launch import field_of
from .location import offset_of

# The rows, columns and planes of a program, and its warps. In float64 a thread takes one voxel of a
# plane: the registers do not suffice for two.
_TILE = {"ROWS": 8, "COLUMNS": 32, "PLANES": 16, "num_warps": 4}
_FLOAT64_TILE = {**_TILE, "ROWS": 4}
# What a record holds: voxels, folds, NaN, volume turned over, sum of logs; sum of squared distances
# of the logs from their mean, minimum, maximum.
_RECORD = 8
_SUMS = 5


@triton.jit
def vertex(here, strides, scale, active, DZ: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr):
    """Where a corner of every cell goes, (z, y, x) relative to the cell's first corner, in 3D."""
    at = here + DZ * strides[2] + DY * strides[3] + DX * strides[4]
    step = tl.cast(strides[1], tl.int64)
    ACC: tl.constexpr = tl.float64 if here.dtype.element_ty == tl.float64 else tl.float32
    z = scaled(tl.load(at, mask=active, other=0).to(ACC), scale[0]) + DZ
    y = scaled(tl.load(at + step, mask=active, other=0).to(ACC), scale[1]) + DY
    x = scaled(tl.load(at + 2 * step, mask=active, other=0).to(ACC), scale[2]) + DX
    return z, y, x


@triton.jit
def overturned_tetrahedron(a, b, c, d, SIGN: tl.constexpr):
    """Six times the volume of a tetrahedron where it is turned over, else 0; of NaN, NaN.

    SIGN is that of its triple product at rest.
    """
    bz, by, bx = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    cz, cy, cx = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    dz, dy, dx = d[0] - a[0], d[1] - a[1], d[2] - a[2]
    volume = bz * (cy * dx - cx * dy) - by * (cz * dx - cx * dz) + bx * (cz * dy - cy * dz)
    volume *= SIGN
    return tl.where(volume >= 0, 0, -volume)


@triton.jit
def overturned_cube(here, strides, scale, active):
    """The volume turned over in every cell: the mean of the two ways to cut a cube."""
    v0 = vertex(here, strides, scale, active, 0, 0, 0)
    v1 = vertex(here, strides, scale, active, 0, 0, 1)
    v2 = vertex(here, strides, scale, active, 0, 1, 0)
    v3 = vertex(here, strides, scale, active, 0, 1, 1)
    v4 = vertex(here, strides, scale, active, 1, 0, 0)
    v5 = vertex(here, strides, scale, active, 1, 0, 1)
    v6 = vertex(here, strides, scale, active, 1, 1, 0)
    v7 = vertex(here, strides, scale, active, 1, 1, 1)
    # The tetrahedra at the corners of one parity, then of the other, then the two in the middle.
    total = overturned_tetrahedron(v0, v4, v2, v1, 1)
    total += overturned_tetrahedron(v3, v7, v1, v2, 1)
    total += overturned_tetrahedron(v5, v1, v7, v4, 1)
    total += overturned_tetrahedron(v6, v2, v4, v7, 1)
    total += overturned_tetrahedron(v1, v5, v3, v0, -1)
    total += overturned_tetrahedron(v2, v6, v0, v3, -1)
    total += overturned_tetrahedron(v4, v0, v6, v5, -1)
    total += overturned_tetrahedron(v7, v3, v5, v6, -1)
    total += overturned_tetrahedron(v7, v1, v2, v4, 1)
    total += overturned_tetrahedron(v0, v6, v5, v3, -1)
    return total / 12  # a sixth of each; mean of two ways


@triton.jit
def overturned_triangle(here, strides, scale, active, DY: tl.constexpr, DX: tl.constexpr):
    """Twice the area of the triangle at a corner of every cell where it is turned over, else 0."""
    step = strides[3] * (1 - 2 * DY)
    at = here + DY * strides[3] + DX * strides[4]
    component = tl.cast(strides[1], tl.int64)
    ACC: tl.constexpr = tl.float64 if here.dtype.element_ty == tl.float64 else tl.float32
    y = tl.load(at, mask=active, other=0).to(ACC)
    x = tl.load(at + component, mask=active, other=0).to(ACC)
    along_yy = tl.load(at + step, mask=active, other=0).to(ACC) - y
    along_yx = tl.load(at + step + component, mask=active, other=0).to(ACC) - x
    step = strides[4] * (1 - 2 * DX)
    along_xy = tl.load(at + step, mask=active, other=0).to(ACC) - y
    along_xx = tl.load(at + step + component, mask=active, other=0).to(ACC) - x
    yy = scaled(along_yy, scale[1]) + (1 - 2 * DY)
    xx = scaled(along_xx, scale[2]) + (1 - 2 * DX)
    area = yy * xx - scaled(along_yx, scale[2]) * scaled(along_xy, scale[1])
    area *= (1 - 2 * DY) * (1 - 2 * DX)
    return tl.where(area >= 0, 0, -area)


@triton.jit
def overturned_square(here, strides, scale, active):
    """The area turned over in every cell: the mean of the two ways to cut a square."""
    total = overturned_triangle(here, strides, scale, active, 0, 0)
    total += overturned_triangle(here, strides, scale, active, 0, 1)
    total += overturned_triangle(here, strides, scale, active, 1, 0)
    total += overturned_triangle(here, strides, scale, active, 1, 1)
    return total / 4


@triton.jit
def in_region(index, size, INTERIOR: tl.constexpr):
    """Whether a voxel counts, as far as one axis says: an axis of up to 2 has no interior."""
    if INTERIOR:
        inside = (index > 0) & (index < size - 1)
        return (inside | (size <= 2)) & (index < size)
    else:
        return index < size


@triton.jit
def folding_kernel(
    displacement,
    partial,
    scale,
    NDIM: tl.constexpr,
    SCHEME: tl.constexpr,
    INTERIOR: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PLANES: tl.constexpr,
):
    """One tile: the record of the program goes to partial, ``(programs, 8)`` float64."""
    strides, size = displacement.strides, displacement.size
    n, first, y, x = tile_of(tl.program_id(0), size, INDEX, ROWS, COLUMNS, PLANES)
    field = displacement.data + n * strides[0]
    across_y = difference_at(y, size[1], strides[3], SCHEME, ACC)
    across_x = difference_at(x, size[2], strides[4], SCHEME, ACC)
    in_tile = (y < size[1]) & (x < size[2])
    counted_in_plane = in_region(y, size[1], INTERIOR) & in_region(x, size[2], INTERIOR)
    cell_in_plane = (y < size[1] - 1) & (x < size[2] - 1)

    voxels = tl.zeros([ROWS, COLUMNS], ACC)
    folds = tl.zeros([ROWS, COLUMNS], ACC)
    undefined = tl.zeros([ROWS, COLUMNS], ACC)
    volume = tl.zeros([ROWS, COLUMNS], ACC)
    minimum = tl.full([ROWS, COLUMNS], float("inf"), ACC)
    maximum = tl.full([ROWS, COLUMNS], -float("inf"), ACC)
    # Logs are summed less the first of their column, so that their variance does not drown.
    shift = tl.zeros([ROWS, COLUMNS], ACC)
    logs = tl.zeros([ROWS, COLUMNS], ACC)
    squares = tl.zeros([ROWS, COLUMNS], ACC)
    for plane in range(PLANES):
        z = first + plane
        active = in_tile & (z < size[0])
        here = field + offset_of((z, y, x), strides)
        across = (difference_at(z, size[0], strides[2], SCHEME, ACC), across_y, across_x)
        determinant = determinant_at(here, strides[1], across, scale, active, NDIM)
        if NDIM == 2:
            volume += overturned_square(here, strides, scale, cell_in_plane & active)
            counted = counted_in_plane & active
        else:
            cell = cell_in_plane & (z < size[0] - 1)
            volume += tl.where(cell, overturned_cube(here, strides, scale, cell), 0)
            counted = counted_in_plane & in_region(z, size[0], INTERIOR) & active
        clipped = tl.where(determinant > 1e-9, determinant, 1e-9)
        logarithm = tl.where(determinant == determinant, tl.log(clipped), determinant)
        finite = tl.abs(logarithm) < float("inf")
        shift = tl.where(counted & finite & (voxels == 0), logarithm, shift)
        distance = tl.where(counted, logarithm - shift, 0)
        voxels += counted.to(ACC)
        # NaN is no sign of a map without folds.
        folds += tl.where(determinant > 0, 0, counted.to(ACC))
        undefined += (counted & (determinant != determinant)).to(ACC)
        minimum = tl.where(counted & (determinant < minimum), determinant, minimum)
        maximum = tl.where(counted & (determinant > maximum), determinant, maximum)
        logs += distance
        squares += distance * distance

    count = voxels.to(tl.float64)
    mean = tl.where(count > 0, logs / tl.where(voxels > 0, voxels, 1), 0).to(tl.float64)
    squares = squares.to(tl.float64) - mean * logs
    mean += shift
    total = tl.sum(tl.sum(count, 1), 0)
    log_sum = tl.sum(tl.sum(count * mean, 1), 0)
    apart = mean - log_sum / tl.maximum(total, 1)
    squares += tl.where(count > 0, count * apart * apart, 0)
    record = partial + tl.program_id(0).to(tl.int64) * 8
    tl.store(record, total)
    tl.store(record + 1, tl.sum(tl.sum(folds.to(tl.float64), 1), 0))
    tl.store(record + 2, tl.sum(tl.sum(undefined.to(tl.float64), 1), 0))
    tl.store(record + 3, tl.sum(tl.sum(volume.to(tl.float64), 1), 0))
    tl.store(record + 4, log_sum)
    tl.store(record + 5, tl.sum(tl.sum(squares, 1), 0))
    tl.store(record + 6, tl.min(tl.min(minimum, 1), 0).to(tl.float64))
    tl.store(record + 7, tl.max(tl.max(maximum, 1), 0).to(tl.float64))


def folding(
    displacement: Tensor,
    statistics: Tensor,
    scheme: str,
    interior: bool,
    spacing: Sequence[float],
) -> None:
    """Folding statistics of each sample: the same bits every time.

    Args:
        displacement: ``(N, d, *spatial)``, d = 2 or 3, float32, float64, float16 or bfloat16; any
            strides. Half types are computed in float32.
        statistics: overwritten; ``(N, 6)`` float64: voxels whose ``J`` is not positive, voxels
            looked at, minimum and maximum of ``J``, standard deviation of ``log(max(J, 1e-9))``,
            non-diffeomorphic volume in voxels.
        scheme: finite differences of the determinant: "central", "forward" or "backward".
        interior: leave out the outermost layer of voxels of every axis longer than 2.
        spacing: the voxel size along each axis.
    """
    tile = _FLOAT64_TILE if displacement.dtype == torch.float64 else _TILE
    tile = flattened(tile, displacement)
    tiles = max(tiles_of(displacement, tile), 1)  # of no voxels, one record of zeros
    allocate = statistics.new_empty if displacement.numel() else statistics.new_zeros
    records = allocate((len(statistics), tiles, _RECORD))
    launch_over_tiles(
        folding_kernel,
        displacement,
        field_of(displacement),
        records,
        scale_of(spacing),
        tile=tile,
        touched=(displacement,),
        SCHEME=scheme,
        INTERIOR=interior,
    )
    statistics.copy_(_statistics_of(records))


def _statistics_of(records: Tensor) -> Tensor:
    """Puts the records of each sample together, ``(N, programs, 8)``."""
    voxels, folds, undefined, volume, logs = records[:, :, :_SUMS].sum(1).unbind(1)
    count = records[:, :, 0]
    apart = records[:, :, 4] / count - (logs / voxels)[:, None]
    between = torch.where(count > 0, count * apart.square(), 0)
    deviation = ((records[:, :, 5] + between).sum(1).clamp(min=0) / voxels).sqrt()
    ranged = torch.stack([records[:, :, 6].amin(1), records[:, :, 7].amax(1), deviation], 1)
    defined = ((voxels > 0) & (undefined == 0))[:, None]
    minimum, maximum, deviation = torch.where(defined, ranged, torch.nan).unbind(1)
    return torch.stack([folds, voxels, minimum, maximum, deviation, volume], 1)
