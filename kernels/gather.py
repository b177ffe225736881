"""Reading and writing images and vector fields, at voxels and between them, in Triton.

Vectors are (z, y, x) in registers; in 2D the z of a vector means nothing. Cells are what ``locate``
gives of linear and nearest interpolation.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .cubic import gather_cubic, plane_taps
from .location import corner, displaced, locate, offset_of


@triton.jit
def gather(
    plane,
    image,
    first,
    weights,
    undefined,
    active,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
):
    """One channel of an image at the cells that were located; NaN where there is no location.

    plane points at the channel of the sample.
    """
    ACC: tl.constexpr = weights[2].dtype
    UPPER: tl.constexpr = 1 if MODE == "nearest" else 2
    UPPER_Z: tl.constexpr = UPPER if NDIM == 3 else 1
    total = tl.zeros(active.shape, ACC)
    for dz in tl.static_range(UPPER_Z):
        for dy in tl.static_range(UPPER):
            for dx in tl.static_range(UPPER):
                voxel, weight, inside = corner(first, weights, image.size, dz, dy, dx, MODE)
                readable = active & inside & ~undefined
                value = tl.load(plane + offset_of(voxel, image.strides), mask=readable, other=0)
                total += weight[0] * weight[1] * weight[2] * value.to(ACC)
    return tl.where(undefined, float("nan"), total)


@triton.jit
def sample_channels(
    image,
    out,
    location,
    n,
    voxel,
    voxels,
    active,
    channels,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
):
    """Writes one block of out, contiguous ``(n, c, *out_size)``: the image at locations."""
    IS_CUBIC: tl.constexpr = MODE == "cubic" or MODE == "bspline"
    size = image.size
    first, weights, _, undefined = locate(location, active, size, NDIM, MODE, PADDING, voxel.dtype)
    if IS_CUBIC:
        taps = plane_taps(first, size, PADDING)
    plane = image.data + n * image.strides[0]
    target = out + n * channels * voxels
    for _channel in range(channels):
        if IS_CUBIC:
            value = gather_cubic(
                plane, image, first, weights, taps, undefined, active, NDIM, MODE, PADDING
            )
        else:
            value = gather(plane, image, first, weights, undefined, active, NDIM, MODE)
        tl.store(target + voxel, value.to(out.dtype.element_ty), mask=active)
        plane += image.strides[1]
        target += voxels


@triton.jit
def add_location_gradient(
    gradient, value, weight, DZ: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr
):
    """Adds a corner's share of the gradient to the locations, (z, y, x).

    Args:
        gradient: what is added to.
        value: the upstream gradient times the image's value at the corner.
        weight: of the corner along each axis.
        DZ: which corner, 0 or 1 along each axis.
        DY: see there.
        DX: see there.
    """
    z = gradient[0] + value * (weight[1] * weight[2]) * (2 * DZ - 1)
    y = gradient[1] + value * (weight[0] * weight[2]) * (2 * DY - 1)
    x = gradient[2] + value * (weight[0] * weight[1]) * (2 * DX - 1)
    return z, y, x


@triton.jit
def load_vector(field, n, position, active, NDIM: tl.constexpr, ACC: tl.constexpr):
    """The vectors of a field at the voxels of a position."""
    component = tl.cast(field.strides[1], tl.int64)
    source = field.data + n * field.strides[0] + offset_of(position, field.strides)
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
def sample_vector(
    field, n, displacement, position, active, NDIM: tl.constexpr, PADDING: tl.constexpr
):
    """The vectors of a field where a displacement leads from a position, linear interpolation."""
    ACC: tl.constexpr = displacement[2].dtype
    UPPER_Z: tl.constexpr = 2 if NDIM == 3 else 1
    location = displaced(position, displacement)
    first, weights, _, undefined = locate(
        location, active, field.size, NDIM, "linear", PADDING, position[2].dtype
    )
    readable = active & ~undefined
    total = zero_vector(active, ACC)
    for dz in tl.static_range(UPPER_Z):
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                voxel, weight, inside = corner(first, weights, field.size, dz, dy, dx, "linear")
                value = load_vector(field, n, voxel, readable & inside, NDIM, ACC)
                total = added(total, scaled(value, weight[0] * weight[1] * weight[2]))
    return select(undefined, float("nan"), total)


@triton.jit
def sample_with_derivatives(
    field, n, displacement, position, active, NDIM: tl.constexpr, PADDING: tl.constexpr
):
    """As sample_vector, with the derivatives of the vectors along z, y and x: four vectors."""
    ACC: tl.constexpr = displacement[2].dtype
    UPPER_Z: tl.constexpr = 2 if NDIM == 3 else 1
    location = displaced(position, displacement)
    first, weights, derivatives, undefined = locate(
        location, active, field.size, NDIM, "linear", PADDING, position[2].dtype
    )
    total = zero_vector(active, ACC)
    along_z = zero_vector(active, ACC)
    along_y = zero_vector(active, ACC)
    along_x = zero_vector(active, ACC)
    for dz in tl.static_range(UPPER_Z):
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                voxel, weight, inside = corner(first, weights, field.size, dz, dy, dx, "linear")
                readable = active & inside & ~undefined
                value = load_vector(field, n, voxel, readable, NDIM, ACC)
                z, y, x = weight
                total = added(total, scaled(value, z * y * x))
                along_x = added(along_x, scaled(value, z * y * (2 * dx - 1)))
                along_y = added(along_y, scaled(value, z * x * (2 * dy - 1)))
                if NDIM == 3:
                    along_z = added(along_z, scaled(value, y * x * (2 * dz - 1)))
    along_z = scaled(along_z, derivatives[0])
    along_y = scaled(along_y, derivatives[1])
    along_x = scaled(along_x, derivatives[2])
    return select(undefined, float("nan"), total), along_z, along_y, along_x


@triton.jit
def zero_vector(active, ACC: tl.constexpr):
    """The vector 0, for every voxel of a mask."""
    return tl.zeros(active.shape, ACC), tl.zeros(active.shape, ACC), tl.zeros(active.shape, ACC)


@triton.jit
def select(condition, number, vector):
    """A number in every component where a condition holds, else the vector."""
    z = tl.where(condition, number, vector[0])
    y = tl.where(condition, number, vector[1])
    x = tl.where(condition, number, vector[2])
    return z, y, x


@triton.jit
def scaled(vector, factor):
    """A vector times a number, of each voxel or of all."""
    return vector[0] * factor, vector[1] * factor, vector[2] * factor


@triton.jit
def added(first, second):
    """The sum of two vectors."""
    return first[0] + second[0], first[1] + second[1], first[2] + second[2]
