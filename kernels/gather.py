"""Reading and writing images and vector fields, at voxels and between them, in Triton.

Vectors are (z, y, x) in registers; in 2D the z of a vector means nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .interpolation import corner_weight
from .location import corner, locate_displaced


@triton.jit
def gather(
    plane,
    strides,
    first,
    weights,
    undefined,
    active,
    size,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    ACC: tl.constexpr,
):
    """One channel at the cells that were located; NaN where there is no location."""
    UPPER: tl.constexpr = 1 if MODE == "nearest" else 2
    UPPER_Z: tl.constexpr = UPPER if NDIM == 3 else 1
    total = tl.zeros(active.shape, ACC)
    for dz in tl.static_range(UPPER_Z):
        for dy in tl.static_range(UPPER):
            for dx in tl.static_range(UPPER):
                voxel_there, inside = corner(first, size, dz, dy, dx)
                z, y, x = voxel_there
                weight = corner_weight(weights[0], dz, MODE)
                weight *= corner_weight(weights[1], dy, MODE)
                weight *= corner_weight(weights[2], dx, MODE)
                source = z * strides[2] + y * strides[3] + x * strides[4]
                readable = active & inside & ~undefined
                total += weight * tl.load(plane + source, mask=readable, other=0).to(ACC)
    return tl.where(undefined, float("nan"), total)


@triton.jit
def load_vector(field, strides, n, position, active, NDIM: tl.constexpr, ACC: tl.constexpr):
    """The vectors of a field at the voxels of a position."""
    component = tl.cast(strides[1], tl.int64)
    source = field + n * strides[0]
    source += position[0] * strides[2] + position[1] * strides[3] + position[2] * strides[4]
    z = tl.zeros(active.shape, ACC)
    if NDIM == 3:
        z = tl.load(source, mask=active, other=0).to(ACC)
        source += component
    y = tl.load(source, mask=active, other=0).to(ACC)
    x = tl.load(source + component, mask=active, other=0).to(ACC)
    return z, y, x


@triton.jit
def store_vector(field, n, vector, voxel, voxels, active, NDIM: tl.constexpr):
    """Writes the vectors of consecutive voxels of a contiguous field."""
    for axis in tl.static_range(3 - NDIM, 3):
        target = field + (n * NDIM + (axis - 3 + NDIM)) * voxels + voxel
        tl.store(target, vector[axis].to(field.dtype.element_ty), mask=active)


@triton.jit
def store_location_gradient(
    to_displacement,
    to_affine,
    slopes,
    undefined,
    n,
    program,
    position,
    voxel,
    voxels,
    active,
    NDIM: tl.constexpr,
    ACC: tl.constexpr,
):
    """Writes a block's gradient to its locations, for those results that are not None.

    NaN where there is no location. to_displacement is contiguous; to_affine holds one sum, over the
    block, per program.
    """
    z = tl.where(undefined, float("nan"), slopes[0])
    y = tl.where(undefined, float("nan"), slopes[1])
    x = tl.where(undefined, float("nan"), slopes[2])
    defined = (z, y, x)
    if to_displacement is not None:
        store_vector(to_displacement, n, defined, voxel, voxels, active, NDIM)
    if to_affine is not None:
        for axis in tl.static_range(3 - NDIM, 3):
            row = to_affine + (program.to(tl.int64) * NDIM + (axis - 3 + NDIM)) * (NDIM + 1)
            tl.store(row + NDIM, tl.sum(defined[axis]))
            for other in tl.static_range(3 - NDIM, 3):
                moment = tl.sum(defined[axis] * position[other].to(ACC))
                tl.store(row + (other - 3 + NDIM), moment)


@triton.jit
def sample_vector(
    field,
    strides,
    n,
    displacement,
    position,
    active,
    size,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
):
    """The vectors of a field where a displacement leads from a position, linear interpolation."""
    first, weights, _, undefined = locate_displaced(
        displacement, position, active, size, NDIM, "linear", PADDING, INDEX, ACC
    )
    UPPER_Z: tl.constexpr = 2 if NDIM == 3 else 1
    readable = active & ~undefined
    total = (tl.zeros(active.shape, ACC), tl.zeros(active.shape, ACC), tl.zeros(active.shape, ACC))
    for dz in tl.static_range(UPPER_Z):
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                voxel, inside = corner(first, size, dz, dy, dx)
                weight = corner_weight(weights[0], dz, "linear")
                weight *= corner_weight(weights[1], dy, "linear")
                weight *= corner_weight(weights[2], dx, "linear")
                value = load_vector(field, strides, n, voxel, readable & inside, NDIM, ACC)
                total = added(total, scaled(value, weight))
    z = tl.where(undefined, float("nan"), total[0])
    y = tl.where(undefined, float("nan"), total[1])
    x = tl.where(undefined, float("nan"), total[2])
    return z, y, x


@triton.jit
def scaled(vector, factor):
    """A vector times a number, of each voxel or of all."""
    return vector[0] * factor, vector[1] * factor, vector[2] * factor


@triton.jit
def added(first, second):
    """The sum of two vectors."""
    return first[0] + second[0], first[1] + second[1], first[2] + second[2]
