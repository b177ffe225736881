"""Where a sample location falls on an axis, for every Triton kernel that interpolates.

The semantics are those of ``torch.nn.functional.grid_sample`` with ``align_corners=True``, its
gradient conventions included, in voxels: coordinate 0 is the centre of the first voxel.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pad_coordinate(coordinate, size, PADDING: tl.constexpr):
    """Applies the padding rule on one axis.

    Returns:
        The coordinate after the rule, always finite and near the image; its derivative with respect
        to the coordinate given; and a mask of the locations that do not exist (NaN, or the
        reflection of an infinity).
    """
    last = tl.cast(size - 1, coordinate.dtype)
    derivative = tl.full(coordinate.shape, 1, coordinate.dtype)
    if PADDING == "reflection":
        # Mirrors lie on the first and the last voxel centre.
        span = tl.maximum(last, 1)
        distance = tl.abs(coordinate)
        derivative = tl.where(coordinate < 0, -derivative, derivative)
        period = tl.floor(distance / (2 * span))
        phase = distance - 2 * span * period
        derivative = tl.where(phase >= span, -derivative, derivative)
        coordinate = tl.where(phase >= span, 2 * span - phase, phase)
    undefined = coordinate != coordinate
    if PADDING == "zeros":
        # Further out nothing is met either; bounded, the conversion to an index is defined.
        padded = tl.minimum(tl.maximum(coordinate, -2), last + 2)
    else:
        # torch sets the gradient to zero at the limits as well as beyond them.
        derivative = tl.where((coordinate <= 0) | (coordinate >= last), 0, derivative)
        padded = tl.minimum(tl.maximum(coordinate, 0), last)
    return tl.where(undefined, 0, padded), derivative, undefined


@triton.jit
def round_half_to_even(x):
    """The nearest integer, as a floating-point number; of two equally near, the even one."""
    lower = tl.floor(x)
    fraction = x - lower
    odd = lower - 2 * tl.floor(lower / 2) != 0
    return lower + ((fraction > 0.5) | ((fraction == 0.5) & odd)).to(x.dtype)


@triton.jit
def sample_axis(coordinate, size, MODE: tl.constexpr, PADDING: tl.constexpr, INDEX: tl.constexpr):
    """Splits a coordinate into a voxel and a fraction.

    Returns:
        The index of the first voxel that is read (the lower neighbour, or the nearest voxel), the
        weight of the one above it, the derivative of the padded coordinate, and the mask of the
        locations that do not exist.
    """
    padded, derivative, undefined = pad_coordinate(coordinate, size, PADDING)
    lower = round_half_to_even(padded) if MODE == "nearest" else tl.floor(padded)
    return lower.to(INDEX), padded - lower, derivative, undefined


@triton.jit
def corner_weight(fraction, UPPER: tl.constexpr, MODE: tl.constexpr):
    """The weight of the lower (UPPER = 0) or the upper (1) neighbour along one axis."""
    if MODE == "nearest":
        weight = tl.full(fraction.shape, 1, fraction.dtype)
    elif UPPER == 1:
        weight = fraction
    else:
        weight = 1 - fraction
    return weight


@triton.jit
def is_inside(index, size):
    """The mask of the indices of an axis."""
    return (index >= 0) & (index < size)
