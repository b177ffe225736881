"""Device functions of ``lncc``: voxels, the weights of windows, and the correlation in one.

The mathematics is that of csrc/lncc/math/lncc.h.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A window whose variance is no more of its mean square is flat.
_FLAT = tl.constexpr(1e-10)
_LEAST = tl.constexpr(1e-37)


@triton.jit
def block_of_voxels(voxels, BLOCK: tl.constexpr):
    """The program's voxels, which of them there are, and how many there are, with 64 bits."""
    voxel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return voxel, voxel < voxels, tl.cast(voxels, tl.int64)


@triton.jit
def row_of(image, channels, voxel):
    """The place of voxels along the last axis, and the offset of their rows in an image."""
    x, row = voxel % image.size[2], voxel // image.size[2]
    y, row = row % image.size[1], row // image.size[1]
    z, row = row % image.size[0], row // image.size[0]
    offset = y * image.strides[3] + z * image.strides[2]
    return x, offset + row % channels * image.strides[1] + row // channels * image.strides[0]


@triton.jit
def tap(step, radius, T: tl.constexpr, GAUSSIAN: tl.constexpr):
    """The weight of a window's voxel at this distance from its centre."""
    if GAUSSIAN:
        at = tl.cast(step, T) * 3 / (2 * radius + 1)
        return tl.exp(-0.5 * at * at)
    return tl.cast(1, T)


@triton.jit
def less_shift(value, shift, weight):
    """0, whatever the value, where the weight is 0."""
    return tl.where(weight == 0, 0, value - shift)


@triton.jit
def weight_at(mask, row, place, length, active, ZEROS: tl.constexpr, MASKED: tl.constexpr):
    """How much the voxels at a place of their rows count, and whether they are in the image."""
    inside = active & (place >= 0) & (place < length)
    outside = tl.where(inside, 0, 1) if ZEROS else 0
    if MASKED:
        at = mask.data + row + place * mask.strides[4]
        return tl.load(at, mask=inside, other=0) + outside, inside
    return tl.where(inside, 1, outside), inside


@triton.jit
def inverse_of(count):
    """Of 0, 0."""
    return tl.where(count == 0, 0, 1 / tl.where(count == 0, 1, count))


@triton.jit
def flat_terms(mean_x, mean_y, variance_x, variance_y, cross, count, SQUARED: tl.constexpr):
    """The value, and its derivatives by cross and by the variances; means are not shifted."""
    flat = variance_x <= _FLAT * (variance_x + mean_x * mean_x)
    flat = flat | (variance_y <= _FLAT * (variance_y + mean_y * mean_y))
    flat = flat | (variance_x <= _LEAST) | (variance_y <= _LEAST)
    both = variance_x + variance_y
    flat = (flat & (both == both)) | (count == 0)  # a NaN stays one
    inverse_x = 1 / tl.where(flat, 1, variance_x)
    inverse_y = 1 / tl.where(flat, 1, variance_y)
    inverse_count = 1 / tl.where(flat, 1, count)
    cross = tl.where(flat, 0, cross)
    if SQUARED:
        value = (cross * inverse_x) * (cross * inverse_y)
        by_cross = 2 * (cross * inverse_x) * inverse_y
    else:
        by_cross = tl.where(flat, 0, tl.sqrt(inverse_x) * tl.sqrt(inverse_y))
        value = (cross * tl.sqrt(inverse_x)) * tl.sqrt(inverse_y)
    by_x = -value * inverse_x * inverse_count
    by_y = -value * inverse_y * inverse_count
    return value, by_cross * inverse_count, by_x, by_y


@triton.jit
def floor_terms(sum_x, sum_y, cross, epsilon, numerator, SQUARED: tl.constexpr):
    """The same of sums over the window, which are epsilon at least."""
    low_x, low_y = sum_x < epsilon, sum_y < epsilon
    inverse_x = 1 / tl.where(low_x, epsilon, sum_x)
    inverse_y = 1 / tl.where(low_y, epsilon, sum_y)
    if SQUARED:
        value = (cross * inverse_x) * (cross * inverse_y) + numerator * inverse_x * inverse_y
        by_cross = 2 * (cross * inverse_x) * inverse_y
    else:
        by_cross = tl.sqrt(inverse_x) * tl.sqrt(inverse_y)
        value = cross * by_cross
    by_x = tl.where(low_x, 0, -value * inverse_x)
    by_y = tl.where(low_y, 0, -value * inverse_y)
    return value, by_cross, by_x, by_y


@triton.jit
def offset_terms(sum_x, sum_y, cross, epsilon, numerator, SQUARED: tl.constexpr):
    """The same of sums whose product epsilon is added to."""
    inverse = 1 / (sum_x * sum_y + epsilon)
    if SQUARED:
        value = (cross * cross + numerator) * inverse
        by_cross = 2 * cross * inverse
    else:
        by_cross = tl.sqrt(inverse)
        value = cross * by_cross
    return value, by_cross, -value * sum_y * inverse, -value * sum_x * inverse
