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
def pad_cubic_coordinate(coordinate, size, MODE: tl.constexpr, PADDING: tl.constexpr):
    """The same for the cubic modes, whose taps are padded one by one (see tap_index).

    What that leaves to do to the coordinate is to bound it where all taps are zero, or one voxel.
    """
    if PADDING == "reflection" or (PADDING == "border" and MODE == "bspline"):
        # The weights are even: reflecting the location or every tap is the same.
        padded, derivative, undefined = pad_coordinate(coordinate, size, PADDING)
    else:
        last = tl.cast(size - 1, coordinate.dtype)
        undefined = coordinate != coordinate
        is_constant = (coordinate < -2) | (coordinate > last + 2)
        derivative = tl.where(is_constant, 0, 1).to(coordinate.dtype)
        padded = tl.where(undefined, 0, tl.minimum(tl.maximum(coordinate, -3), last + 3))
    return padded, derivative, undefined


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
        The index of the lower neighbour, or of the nearest voxel, the weight of the one above it
        (how far above the lower neighbour the location is), the derivative of the padded
        coordinate, and the mask of the locations that do not exist.
    """
    if MODE == "cubic" or MODE == "bspline":
        padded, derivative, undefined = pad_cubic_coordinate(coordinate, size, MODE, PADDING)
    else:
        padded, derivative, undefined = pad_coordinate(coordinate, size, PADDING)
    lower = round_half_to_even(padded) if MODE == "nearest" else tl.floor(padded)
    index = lower.to(INDEX)
    if PADDING != "zeros" and not (PADDING == "border" and MODE == "cubic"):
        # No location is outside, but on an axis of 2^24 voxels and more the coordinate of the last
        # one may round up, in float32, to beyond it.
        index = tl.minimum(index, size - 1)
    return index, padded - lower, derivative, undefined


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


@triton.jit
def cubic_weights(t, MODE: tl.constexpr):
    """The weights of the taps, the voxels at -1, 0, 1 and 2, for a location ``t`` above voxel 0."""
    s = 1 - t
    if MODE == "bspline":
        weights = (
            s * s * s / 6,
            2 / 3 - t * t * (1 - t / 2),
            2 / 3 - s * s * (1 - s / 2),
            t * t * t / 6,
        )
    else:  # Keys' convolution with a = -3/4
        weights = (
            -0.75 * (t * s * s),
            1 - t * t * (2.25 - 1.25 * t),
            1 - s * s * (2.25 - 1.25 * s),
            -0.75 * (s * t * t),
        )
    return weights


@triton.jit
def cubic_derivatives(t, MODE: tl.constexpr):
    """The derivatives of cubic_weights with respect to ``t``."""
    s = 1 - t
    if MODE == "bspline":
        derivatives = (s * s * -0.5, -t * (2 - 1.5 * t), s * (2 - 1.5 * s), t * t * 0.5)
    else:
        derivatives = (
            -0.75 * (s * (1 - 3 * t)),
            -t * (4.5 - 3.75 * t),
            s * (4.5 - 3.75 * s),
            0.75 * (t * (1 - 3 * s)),
        )
    return derivatives


@triton.jit
def tap_index(index, size, PADDING: tl.constexpr):
    """The voxel that a tap reads; with zero padding it may lie outside, and is then not read."""
    last = size - 1
    if PADDING == "border":
        index = tl.minimum(tl.maximum(index, 0), last)
    if PADDING == "reflection":
        # The location is inside: a tap is at most two voxels beyond the edge. Of two voxels the
        # mirror image may lie beyond the other edge.
        index = tl.abs(index)
        index = tl.where(index > last, 2 * last - index, index)
        index = tl.where(last > 0, tl.abs(index), 0)
    return index
