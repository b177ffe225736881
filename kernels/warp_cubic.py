"""Triton kernels of the cubic modes of ``warp``: four taps per axis, forward and backward.

A program takes one block of consecutive output voxels of one sample and finds their taps and
weights once, for every channel. In 2D there is one tap along z, of weight 1. Loops over x and y are
unrolled, that over z is not: 64 taps at once would need more registers than a thread has.

They are launched as those of the other modes are, in ``warp.py``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .gather import store_location_gradient
from .interpolation import cubic_slopes, cubic_weights, is_inside, tap_index
from .location import block_of, locate, voxel_position
from .scatter import scatter
from .tuning import configuration, tuned

# The voxels of a program, and its warps: one voxel per thread.
_FORWARD = (configuration(4, BLOCK=128), configuration(2, BLOCK=64), configuration(8, BLOCK=256))


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
def pick(values, k):
    """The element k, a number that only the run knows, of four."""
    lower = tl.where(k == 0, values[0], values[1])
    return tl.where(k < 2, lower, tl.where(k == 2, values[2], values[3]))


@triton.jit
def taps_along_z(lower, t, size, k, NDIM: tl.constexpr, MODE: tl.constexpr, PADDING: tl.constexpr):
    """The voxel, whether it is inside, the weight and the slope of tap k; in 2D of the plane."""
    if NDIM == 3:
        voxel = tap_index(lower + (k - 1), size, PADDING)
        inside = is_inside(voxel, size)
        weight = pick(cubic_weights(t, MODE), k)
        slope = pick(cubic_slopes(t, MODE), k)
    else:
        voxel = lower
        inside = lower == lower
        weight = tl.full(t.shape, 1, t.dtype)
        slope = tl.zeros_like(t)
    return voxel, inside, weight, slope


@tuned(*_FORWARD)
@triton.jit(do_not_specialize=["size_class"])
def warp_cubic_forward_kernel(
    image,
    displacement,
    affine,
    out,
    image_strides,
    displacement_strides,
    affine_strides,
    size,
    out_size,
    channels,
    size_class,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of out, contiguous ``(n, c, *out_size)``; affine may be None."""
    TAPS_Z: tl.constexpr = 4 if NDIM == 3 else 1
    program = tl.program_id(0)
    n, voxel, voxels, active = block_of(program, out_size, INDEX, BLOCK)
    lower, t, _derivatives, undefined = locate(
        displacement,
        displacement_strides,
        affine,
        affine_strides,
        n,
        voxel_position(voxel, out_size),
        active,
        size,
        NDIM,
        MODE,
        PADDING,
        INDEX,
        ACC,
    )
    weights_y, weights_x = cubic_weights(t[1], MODE), cubic_weights(t[2], MODE)
    y, inside_y = find_taps(lower[1], size[1], PADDING)
    x, inside_x = find_taps(lower[2], size[2], PADDING)

    plane = image + n * image_strides[0]
    target = out + n * channels * voxels
    for _channel in range(channels):
        total = tl.zeros([BLOCK], ACC)
        for dz in range(TAPS_Z):
            z, inside_z, weight_z, _slope = taps_along_z(
                lower[0], t[0], size[0], dz, NDIM, MODE, PADDING
            )
            readable = active & inside_z & ~undefined
            sum_y = tl.zeros([BLOCK], ACC)
            for dy in tl.static_range(4):
                row = plane + (z * image_strides[2] + y[dy] * image_strides[3])
                sum_x = tl.zeros([BLOCK], ACC)
                for dx in tl.static_range(4):
                    mask = readable & inside_y[dy] & inside_x[dx]
                    value = tl.load(row + x[dx] * image_strides[4], mask=mask, other=0).to(ACC)
                    sum_x += weights_x[dx] * value
                sum_y += weights_y[dy] * sum_x
            total += weight_z * sum_y
        total = tl.where(undefined, float("nan"), total)
        tl.store(target + voxel, total.to(out.dtype.element_ty), mask=active)
        plane += image_strides[1]
        target += voxels


@triton.jit
def warp_cubic_backward_kernel(
    grad,
    image,
    displacement,
    affine,
    grad_image,
    grad_image_fixed,
    fixed_scale,
    grad_displacement,
    grad_affine,
    grad_strides,
    image_strides,
    displacement_strides,
    affine_strides,
    size,
    out_size,
    channels,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of the output's gradient, for those results that are not None.

    The results are those of warp_backward_kernel.
    """
    TAPS_Z: tl.constexpr = 4 if NDIM == 3 else 1
    NEEDS_LOCATION: tl.constexpr = grad_displacement is not None or grad_affine is not None
    program = tl.program_id(0)
    n, voxel, voxels, active = block_of(program, out_size, INDEX, BLOCK)
    position = voxel_position(voxel, out_size)
    lower, t, derivatives, undefined = locate(
        displacement,
        displacement_strides,
        affine,
        affine_strides,
        n,
        position,
        active,
        size,
        NDIM,
        MODE,
        PADDING,
        INDEX,
        ACC,
    )
    weights_y, weights_x = cubic_weights(t[1], MODE), cubic_weights(t[2], MODE)
    slopes_y, slopes_x = cubic_slopes(t[1], MODE), cubic_slopes(t[2], MODE)
    y, inside_y = find_taps(lower[1], size[1], PADDING)
    x, inside_x = find_taps(lower[2], size[2], PADDING)
    # An output that no voxel of the image entered passes nothing on, not even 0 * inf.
    reached = active & ~undefined
    for axis in tl.static_range(3 - NDIM, 3):
        reached &= (lower[axis] > -3) & (lower[axis] <= size[axis])
    if PADDING != "zeros":
        reached = active & ~undefined

    scale = 0.0
    if fixed_scale is not None:
        scale = tl.load(fixed_scale)
    slope_z = tl.zeros([BLOCK], ACC)
    slope_y = tl.zeros([BLOCK], ACC)
    slope_x = tl.zeros([BLOCK], ACC)
    image_voxels = tl.cast(size[0], tl.int64) * size[1] * size[2]
    target_plane = n * channels * image_voxels
    plane = image + n * image_strides[0]
    source = grad + n * grad_strides[0]
    source_offset = (
        position[0] * grad_strides[2]
        + position[1] * grad_strides[3]
        + position[2] * grad_strides[4]
    )
    for _channel in range(channels):
        upstream = tl.load(source + source_offset, mask=reached, other=0).to(ACC)
        for dz in range(TAPS_Z):
            z, inside_z, weight_z, tap_slope_z = taps_along_z(
                lower[0], t[0], size[0], dz, NDIM, MODE, PADDING
            )
            readable = reached & inside_z
            # Of this plane: the sum over its taps, and its derivatives along y and x.
            total = tl.zeros([BLOCK], ACC)
            along_y = tl.zeros([BLOCK], ACC)
            along_x = tl.zeros([BLOCK], ACC)
            for dy in tl.static_range(4):
                row = plane + (z * image_strides[2] + y[dy] * image_strides[3])
                target_row = (z * size[1] + y[dy]) * size[2]
                share_row = upstream * (weight_z * weights_y[dy])
                sum_x = tl.zeros([BLOCK], ACC)
                sum_slopes_x = tl.zeros([BLOCK], ACC)
                for dx in tl.static_range(4):
                    mask = readable & inside_y[dy] & inside_x[dx]
                    if grad_image is not None:
                        scatter(
                            grad_image,
                            grad_image_fixed,
                            target_plane,
                            target_row + x[dx],
                            share_row * weights_x[dx],
                            mask,
                            scale,
                        )
                    if NEEDS_LOCATION:
                        value = tl.load(row + x[dx] * image_strides[4], mask=mask, other=0).to(ACC)
                        sum_x += weights_x[dx] * value
                        sum_slopes_x += slopes_x[dx] * value
                total += weights_y[dy] * sum_x
                along_y += slopes_y[dy] * sum_x
                along_x += weights_y[dy] * sum_slopes_x
            slope_z += upstream * (tap_slope_z * total)
            slope_y += upstream * (weight_z * along_y)
            slope_x += upstream * (weight_z * along_x)
        plane += image_strides[1]
        source += grad_strides[1]
        target_plane += image_voxels

    if NEEDS_LOCATION:
        slopes = (
            slope_z * derivatives[0],
            slope_y * derivatives[1],
            slope_x * derivatives[2],
        )
        store_location_gradient(
            grad_displacement,
            grad_affine,
            slopes,
            undefined,
            n,
            program,
            position,
            voxel,
            voxels,
            active,
            NDIM,
            ACC,
        )
