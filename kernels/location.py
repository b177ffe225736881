"""Where an output voxel is sampled: its position, the affine map, the displacement, the cell.

Axes are (z, y, x); in 2D there is no z: its size is 1, its stride 0, its coordinate 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .interpolation import is_inside, sample_axis


@triton.jit
def block_of(program, size, INDEX: tl.constexpr, BLOCK: tl.constexpr):
    """What a program works on: a block of consecutive voxels of one sample.

    Returns:
        The sample, the voxels, the number of all voxels of a sample, and the mask of the voxels
        that are among them.
    """
    voxels = tl.cast(size[0], INDEX) * size[1] * size[2]
    blocks = tl.cdiv(voxels, BLOCK)
    voxel = (program % blocks).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    return (program // blocks).to(tl.int64), voxel, voxels, voxel < voxels


@triton.jit
def voxel_position(voxel, size):
    """The (z, y, x) of a linear index into a grid of the given size."""
    row = voxel // size[2]
    return row // size[1], row % size[1], voxel % size[2]


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
def locate_axis(
    displacement,
    displacement_strides,
    affine,
    affine_strides,
    n,
    position,
    active,
    size,
    AXIS: tl.constexpr,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
):
    """Where the voxels at a position are sampled along one axis of the image: see sample_axis."""
    component: tl.constexpr = AXIS - (3 - NDIM)
    z, y, x = position
    plane = displacement + n * displacement_strides[0]
    plane += component * tl.cast(displacement_strides[1], tl.int64)
    voxel = z * displacement_strides[2] + y * displacement_strides[3] + x * displacement_strides[4]
    coordinate = tl.load(plane + voxel, mask=active, other=0).to(ACC)
    if affine is None:
        coordinate += position[AXIS].to(ACC)
    else:
        row = affine + n * affine_strides[0] + component * affine_strides[1]
        coordinate += affine_row(row, affine_strides[2], position, NDIM, ACC)
    return sample_axis(coordinate, size[AXIS], MODE, PADDING, INDEX)


@triton.jit
def locate(
    displacement,
    displacement_strides,
    affine,
    affine_strides,
    n,
    position,
    active,
    size,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
):
    """locate_axis on all three axes.

    Returns:
        The first voxel read, the weights of the voxels above it, the derivatives of the padded
        coordinates, each as (z, y, x), and the mask of the locations that do not exist.
    """
    arguments = (displacement, displacement_strides, affine, affine_strides, n, position, active)
    y, weight_y, derivative_y, undefined_y = locate_axis(
        *arguments, size, 1, NDIM, MODE, PADDING, INDEX, ACC
    )
    x, weight_x, derivative_x, undefined_x = locate_axis(
        *arguments, size, 2, NDIM, MODE, PADDING, INDEX, ACC
    )
    undefined = undefined_y | undefined_x
    z = tl.zeros_like(x)
    weight_z = tl.zeros_like(weight_x)
    derivative_z = tl.zeros_like(weight_x)
    if NDIM == 3:
        z, weight_z, derivative_z, undefined_z = locate_axis(
            *arguments, size, 0, NDIM, MODE, PADDING, INDEX, ACC
        )
        undefined |= undefined_z
    derivatives = (derivative_z, derivative_y, derivative_x)
    return (z, y, x), (weight_z, weight_y, weight_x), derivatives, undefined & active


@triton.jit
def locate_displaced(
    displacement,
    position,
    active,
    size,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
):
    """As locate, with a displacement (z, y, x) that is in registers."""
    y, weight_y, derivative_y, undefined_y = sample_axis(
        position[1].to(ACC) + displacement[1], size[1], MODE, PADDING, INDEX
    )
    x, weight_x, derivative_x, undefined_x = sample_axis(
        position[2].to(ACC) + displacement[2], size[2], MODE, PADDING, INDEX
    )
    undefined = undefined_y | undefined_x
    z = tl.zeros_like(x)
    weight_z = tl.zeros_like(weight_x)
    derivative_z = tl.zeros_like(weight_x)
    if NDIM == 3:
        z, weight_z, derivative_z, undefined_z = sample_axis(
            position[0].to(ACC) + displacement[0], size[0], MODE, PADDING, INDEX
        )
        undefined |= undefined_z
    derivatives = (derivative_z, derivative_y, derivative_x)
    return (z, y, x), (weight_z, weight_y, weight_x), derivatives, undefined & active


@triton.jit
def corner(voxel, size, DZ: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr):
    """The voxel of one corner of the cell, and the mask of those inside the image."""
    z, y, x = voxel[0] + DZ, voxel[1] + DY, voxel[2] + DX
    inside = is_inside(z, size[0]) & is_inside(y, size[1]) & is_inside(x, size[2])
    return (z, y, x), inside
