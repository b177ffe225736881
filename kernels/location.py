"""Where an output voxel is sampled: its position, the affine map, the displacement, the cell.

Axes are (z, y, x); in 2D there is no z: its size is 1, its stride 0, its coordinate 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .interpolation import corner_weight, is_inside, sample_axis


@triton.jit
def block_of(program, size, INDEX: tl.constexpr, BLOCK: tl.constexpr):
    """What a program works on: a block of consecutive voxels of one sample.

    Returns:
        The sample; the voxels, by number and by (z, y, x); the number of all voxels of a sample;
        and the mask of the voxels that are among them.
    """
    voxels = tl.cast(size[0], INDEX) * size[1] * size[2]
    blocks = tl.cdiv(voxels, BLOCK)
    voxel = (program % blocks).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    row = voxel // size[2]
    position = (row // size[1], row % size[1], voxel % size[2])
    return (program // blocks).to(tl.int64), voxel, position, voxels, voxel < voxels


@triton.jit
def voxel_number(position, size):
    """The number of a voxel (z, y, x) among those of a sample."""
    return (position[0] * size[1] + position[1]) * size[2] + position[2]


@triton.jit
def offset_of(position, strides):
    """How far from the first voxel of a channel a voxel (z, y, x) lies, in elements."""
    return position[0] * strides[2] + position[1] * strides[3] + position[2] * strides[4]


@triton.jit
def displaced(position, displacement):
    """Where a displacement leads from a voxel, both (z, y, x)."""
    z, y, x = displacement
    return position[0].to(z.dtype) + z, position[1].to(y.dtype) + y, position[2].to(x.dtype) + x


@triton.jit
def affine_row(row, column_stride, position, NDIM: tl.constexpr, ACC: tl.constexpr):
    """``A p + t`` on one axis; row points at the d + 1 entries of that axis."""
    z, y, x = position
    location = tl.load(row + NDIM * column_stride).to(ACC)
    location += tl.load(row + (NDIM - 2) * column_stride).to(ACC) * y.to(ACC)
    location += tl.load(row + (NDIM - 1) * column_stride).to(ACC) * x.to(ACC)
    if NDIM == 3:
        location += tl.load(row).to(ACC) * z.to(ACC)
    return location


@triton.jit
def affine_displaced(affine, strides, n, position, displacement, NDIM: tl.constexpr):
    """Where a displacement leads from what an affine map makes of a voxel, as (z, y, x)."""
    ACC: tl.constexpr = displacement[2].dtype
    row = affine + n * strides[0]
    z = displacement[0]
    if NDIM == 3:
        z += affine_row(row, strides[2], position, NDIM, ACC)
        row += strides[1]
    y = displacement[1] + affine_row(row, strides[2], position, NDIM, ACC)
    x = displacement[2] + affine_row(row + strides[1], strides[2], position, NDIM, ACC)
    return z, y, x


@triton.jit
def locate(
    location,
    active,
    size,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
):
    """The cells of locations (z, y, x); see sample_axis.

    Returns:
        The first voxel read, the weights of the voxels above it, the derivatives of the padded
        coordinates, each as (z, y, x), and the mask of the locations that do not exist.
    """
    y, weight_y, derivative_y, undefined = sample_axis(location[1], size[1], MODE, PADDING, INDEX)
    x, weight_x, derivative_x, nowhere = sample_axis(location[2], size[2], MODE, PADDING, INDEX)
    undefined |= nowhere
    z = tl.zeros_like(x)
    weight_z = tl.zeros_like(weight_x)
    derivative_z = tl.zeros_like(weight_x)
    if NDIM == 3:
        z, weight_z, derivative_z, nowhere = sample_axis(location[0], size[0], MODE, PADDING, INDEX)
        undefined |= nowhere
    derivatives = (derivative_z, derivative_y, derivative_x)
    return (z, y, x), (weight_z, weight_y, weight_x), derivatives, undefined & active


@triton.jit
def corner(
    first,
    weights,
    size,
    DZ: tl.constexpr,
    DY: tl.constexpr,
    DX: tl.constexpr,
    MODE: tl.constexpr,
):
    """One corner of the cells: its voxel, its weights along each axis, and whether it is inside."""
    z, y, x = first[0] + DZ, first[1] + DY, first[2] + DX
    inside = is_inside(z, size[0]) & is_inside(y, size[1]) & is_inside(x, size[2])
    weight_z = corner_weight(weights[0], DZ, MODE)
    weight_y = corner_weight(weights[1], DY, MODE)
    weight_x = corner_weight(weights[2], DX, MODE)
    return (z, y, x), (weight_z, weight_y, weight_x), inside


@triton.jit
def reaching(first, size, active, NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr):
    """The mask of the cells that a voxel of the image enters; others pass nothing on, not even NaN.

    Nothing is 0 * inf as well.
    """
    reached = active
    if MODE == "cubic" or MODE == "bspline":
        if PADDING == "zeros":
            for axis in tl.static_range(3 - NDIM, 3):
                reached &= (first[axis] > -3) & (first[axis] <= size[axis])
    else:
        UPPER: tl.constexpr = 1 if MODE == "nearest" else 2
        for axis in tl.static_range(3 - NDIM, 3):
            reached &= (first[axis] > -UPPER) & (first[axis] < size[axis])
    return reached
