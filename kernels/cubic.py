"""Cubic interpolation in Triton: four taps per axis, forward and backward.

In 2D there is one tap along z, of weight 1. Loops over x and y are unrolled, that over z is not: 64
taps at once would need more registers than a thread has.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .interpolation import cubic_derivatives, cubic_weights, is_inside, tap_index
from .scatter import scatter


@triton.jit
def find_taps(lower, size, PADDING: tl.constexpr):
    """The voxels that the four taps around a location read, and which of them are inside."""
    voxels = (
        tap_index(lower - 1, size, PADDING),
        tap_index(lower, size, PADDING),
        tap_index(lower + 1, size, PADDING),
        tap_index(lower + 2, size, PADDING),
    )
    inside = (
        is_inside(voxels[0], size),
        is_inside(voxels[1], size),
        is_inside(voxels[2], size),
        is_inside(voxels[3], size),
    )
    return voxels, inside


@triton.jit
def plane_taps(lower, size, PADDING: tl.constexpr):
    """The taps along y and x of the cells that ``locate`` gave, which all channels share."""
    y, inside_y = find_taps(lower[1], size[1], PADDING)
    x, inside_x = find_taps(lower[2], size[2], PADDING)
    return y, inside_y, x, inside_x


@triton.jit
def pick(values, k):
    """The element k, a number that only the run knows, of four."""
    lower = tl.where(k == 0, values[0], values[1])
    return tl.where(k < 2, lower, tl.where(k == 2, values[2], values[3]))


@triton.jit
def tap_along_z(lower, t, size, k, NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr):
    """Tap k, in 2D the plane: its voxel, whether it is inside, its weight and its derivative."""
    if NDIM == 3:
        voxel = tap_index(lower + (k - 1), size, PADDING)
        inside = is_inside(voxel, size)
        weight = pick(cubic_weights(t, MODE), k)
        derivative = pick(cubic_derivatives(t, MODE), k)
    else:
        voxel = lower
        inside = lower == lower
        weight = tl.full(t.shape, 1, t.dtype)
        derivative = tl.zeros_like(t)
    return voxel, inside, weight, derivative


@triton.jit
def gather_cubic(
    plane,
    image,
    lower,
    t,
    taps,
    undefined,
    active,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
):
    """As gather in ``gather.py``, at the taps of plane_taps."""
    ACC: tl.constexpr = t[2].dtype
    TAPS_Z: tl.constexpr = 4 if NDIM == 3 else 1
    y, inside_y, x, inside_x = taps
    weights_y, weights_x = cubic_weights(t[1], MODE), cubic_weights(t[2], MODE)
    total = tl.zeros(active.shape, ACC)
    for dz in range(TAPS_Z):
        z, inside_z, weight_z, _derivative = tap_along_z(
            lower[0], t[0], image.size[0], dz, NDIM, MODE, PADDING
        )
        readable = active & inside_z & ~undefined
        sum_y = tl.zeros(active.shape, ACC)
        for dy in tl.static_range(4):
            row = plane + (z * image.strides[2] + y[dy] * image.strides[3])
            sum_x = tl.zeros(active.shape, ACC)
            for dx in tl.static_range(4):
                mask = readable & inside_y[dy] & inside_x[dx]
                value = tl.load(row + x[dx] * image.strides[4], mask=mask, other=0).to(ACC)
                sum_x += weights_x[dx] * value
            sum_y += weights_y[dy] * sum_x
        total += weight_z * sum_y
    return tl.where(undefined, float("nan"), total)


@triton.jit
def cubic_adjoint(
    upstream,
    grad_image,
    grad_image_fixed,
    scale,
    target_plane,
    plane,
    image,
    lower,
    t,
    taps,
    reached,
    gradient,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    NEEDS_LOCATION: tl.constexpr,
):
    """As linear_adjoint in ``warp.py``, at the taps of plane_taps."""
    ACC: tl.constexpr = t[2].dtype
    TAPS_Z: tl.constexpr = 4 if NDIM == 3 else 1
    y, inside_y, x, inside_x = taps
    weights_y, weights_x = cubic_weights(t[1], MODE), cubic_weights(t[2], MODE)
    derivatives_y, derivatives_x = cubic_derivatives(t[1], MODE), cubic_derivatives(t[2], MODE)
    gradient_z, gradient_y, gradient_x = gradient
    for dz in range(TAPS_Z):
        z, inside_z, weight_z, derivative_z = tap_along_z(
            lower[0], t[0], image.size[0], dz, NDIM, MODE, PADDING
        )
        readable = reached & inside_z
        # Of this plane: the sum over its taps, and its derivatives along y and x.
        total = tl.zeros(reached.shape, ACC)
        along_y = tl.zeros(reached.shape, ACC)
        along_x = tl.zeros(reached.shape, ACC)
        for dy in tl.static_range(4):
            row = plane + (z * image.strides[2] + y[dy] * image.strides[3])
            target_row = (z * image.size[1] + y[dy]) * image.size[2]
            share_row = upstream * (weight_z * weights_y[dy])
            sum_x = tl.zeros(reached.shape, ACC)
            sum_along_x = tl.zeros(reached.shape, ACC)
            for dx in tl.static_range(4):
                mask = readable & inside_y[dy] & inside_x[dx]
                if grad_image is not None:
                    share = share_row * weights_x[dx]
                    offset = target_row + x[dx]
                    scatter(grad_image, grad_image_fixed, target_plane, offset, share, mask, scale)
                if NEEDS_LOCATION:
                    value = tl.load(row + x[dx] * image.strides[4], mask=mask, other=0).to(ACC)
                    sum_x += weights_x[dx] * value
                    sum_along_x += derivatives_x[dx] * value
            total += weights_y[dy] * sum_x
            along_y += derivatives_y[dy] * sum_x
            along_x += weights_y[dy] * sum_along_x
        gradient_z += upstream * (derivative_z * total)
        gradient_y += upstream * (weight_z * along_y)
        gradient_x += upstream * (weight_z * along_x)
    return gradient_z, gradient_y, gradient_x
