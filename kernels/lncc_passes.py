"""The Triton kernels of ``lncc``: each is a pass over blocks of voxels along one axis."""

from __future__ import annotations

import triton
import triton.language as tl

from .correlation import (
    block_of_voxels,
    flat_terms,
    floor_terms,
    inverse_of,
    less_shift,
    offset_terms,
    row_of,
    tap,
    weight_at,
)


@triton.jit
def along_kernel(
    x,
    y,
    mask,
    shifts,
    channels,
    radius,
    voxels,
    moments,
    GAUSSIAN: tl.constexpr,
    ZEROS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The moments of windows along the last axis."""
    voxel, active, voxels = block_of_voxels(voxels, BLOCK)
    T: tl.constexpr = moments.dtype.element_ty
    place, row_x = row_of(x, channels, voxel)
    row_y = row_of(y, channels, voxel)[1]
    length = x.size[2]
    channel = voxel // (length * x.size[1] * tl.cast(x.size[0], tl.int64))
    shift_x = tl.load(shifts + 2 * channel, mask=active, other=0)
    shift_y = tl.load(shifts + 2 * channel + 1, mask=active, other=0)
    row_mask = row_x
    if MASKED:
        row_mask = row_of(mask, channels, voxel)[1]
    count = tl.zeros((BLOCK,), T)
    mean_x = tl.zeros((BLOCK,), T)
    mean_y = tl.zeros((BLOCK,), T)
    for step in range(-radius, radius + 1):
        at = place + step
        weight, inside = weight_at(mask, row_mask, at, length, active, ZEROS, MASKED)
        a = tl.load(x.data + row_x + at * x.strides[4], mask=inside, other=0).to(T)
        b = tl.load(y.data + row_y + at * y.strides[4], mask=inside, other=0).to(T)
        share = tap(step, radius, T, GAUSSIAN) * weight
        count += share
        mean_x += share * less_shift(a, shift_x, weight)
        mean_y += share * less_shift(b, shift_y, weight)
    inverse = inverse_of(count)
    mean_x *= inverse
    mean_y *= inverse
    variance_x = tl.zeros((BLOCK,), T)
    variance_y = tl.zeros((BLOCK,), T)
    covariance = tl.zeros((BLOCK,), T)
    for step in range(-radius, radius + 1):
        at = place + step
        weight, inside = weight_at(mask, row_mask, at, length, active, ZEROS, MASKED)
        a = tl.load(x.data + row_x + at * x.strides[4], mask=inside, other=0).to(T)
        b = tl.load(y.data + row_y + at * y.strides[4], mask=inside, other=0).to(T)
        share = tap(step, radius, T, GAUSSIAN) * weight
        of_x = less_shift(a, shift_x, weight) - mean_x
        of_y = less_shift(b, shift_y, weight) - mean_y
        variance_x += share * of_x * of_x
        variance_y += share * of_y * of_y
        covariance += share * of_x * of_y
    tl.store(moments + voxel, mean_x, mask=active)
    tl.store(moments + voxels + voxel, mean_y, mask=active)
    tl.store(moments + 2 * voxels + voxel, variance_x * inverse, mask=active)
    tl.store(moments + 3 * voxels + voxel, variance_y * inverse, mask=active)
    tl.store(moments + 4 * voxels + voxel, covariance * inverse, mask=active)
    tl.store(moments + 5 * voxels + voxel, count, mask=active)


@triton.jit
def across_kernel(
    source,
    shifts,
    length,
    inner,
    of_channel,
    radius,
    voxels,
    target,
    LEVEL: tl.constexpr,
    ZEROS: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The moments of windows along another axis, whose values are ``inner`` apart.

    Windows along so many axes, LEVEL, have been taken; with ZEROS, there are such outside.
    """
    voxel, active, voxels = block_of_voxels(voxels, BLOCK)
    T: tl.constexpr = source.dtype.element_ty
    inner = tl.cast(inner, tl.int64)
    place = voxel // inner % length
    channel = voxel // of_channel
    zero_x = -tl.load(shifts + 2 * channel, mask=active, other=0)
    zero_y = -tl.load(shifts + 2 * channel + 1, mask=active, other=0)
    outside_count = tl.zeros((BLOCK,), T)
    if ZEROS:
        for step in range(-radius, radius + 1):
            outside_count += tap(step, radius, T, GAUSSIAN)
        if LEVEL == 2:
            outside_count *= outside_count
    count = tl.zeros((BLOCK,), T)
    mean_x = tl.zeros((BLOCK,), T)
    mean_y = tl.zeros((BLOCK,), T)
    for step in range(-radius, radius + 1):
        inside = active & (place + step >= 0) & (place + step < length)
        at = source + voxel + step * inner
        share = tl.load(at + 5 * voxels, mask=inside, other=0)
        share = tl.where(inside, share, outside_count)
        share *= tap(step, radius, T, GAUSSIAN)
        count += share
        mean_x += share * tl.where(inside, tl.load(at, mask=inside, other=0), zero_x)
        mean_y += share * tl.where(inside, tl.load(at + voxels, mask=inside, other=0), zero_y)
    inverse = inverse_of(count)
    mean_x *= inverse
    mean_y *= inverse
    variance_x = tl.zeros((BLOCK,), T)
    variance_y = tl.zeros((BLOCK,), T)
    covariance = tl.zeros((BLOCK,), T)
    for step in range(-radius, radius + 1):
        inside = active & (place + step >= 0) & (place + step < length)
        at = source + voxel + step * inner
        share = tl.load(at + 5 * voxels, mask=inside, other=0)
        share = tl.where(inside, share, outside_count)
        share *= tap(step, radius, T, GAUSSIAN)
        of_x = tl.where(inside, tl.load(at, mask=inside, other=0), zero_x) - mean_x
        of_y = tl.where(inside, tl.load(at + voxels, mask=inside, other=0), zero_y) - mean_y
        own_x = tl.load(at + 2 * voxels, mask=inside, other=0)
        own_y = tl.load(at + 3 * voxels, mask=inside, other=0)
        own_cross = tl.load(at + 4 * voxels, mask=inside, other=0)
        variance_x += share * (own_x + of_x * of_x)
        variance_y += share * (own_y + of_y * of_y)
        covariance += share * (own_cross + of_x * of_y)
    tl.store(target + voxel, mean_x, mask=active)
    tl.store(target + voxels + voxel, mean_y, mask=active)
    tl.store(target + 2 * voxels + voxel, variance_x * inverse, mask=active)
    tl.store(target + 3 * voxels + voxel, variance_y * inverse, mask=active)
    tl.store(target + 4 * voxels + voxel, covariance * inverse, mask=active)
    tl.store(target + 5 * voxels + voxel, count, mask=active)


@triton.jit
def voxel_kernel(
    moments,
    mask,
    shifts,
    channels,
    of_channel,
    voxels,
    target,
    EPSILON: tl.constexpr,
    NUMERATOR: tl.constexpr,
    STABILISER: tl.constexpr,
    SQUARED: tl.constexpr,
    MASKED: tl.constexpr,
    BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The weighted correlations; or what the gradients are made of: five images."""
    voxel, active, voxels = block_of_voxels(voxels, BLOCK)
    T: tl.constexpr = moments.dtype.element_ty
    channel = voxel // of_channel
    mean_x = tl.load(moments + voxel, mask=active, other=0)
    mean_y = tl.load(moments + voxels + voxel, mask=active, other=0)
    variance_x = tl.load(moments + 2 * voxels + voxel, mask=active, other=0)
    variance_y = tl.load(moments + 3 * voxels + voxel, mask=active, other=0)
    cross = tl.load(moments + 4 * voxels + voxel, mask=active, other=0)
    count = tl.load(moments + 5 * voxels + voxel, mask=active, other=0)
    # Constants: a number that the launch passes is rounded to float32.
    epsilon = tl.full((BLOCK,), EPSILON, T)
    numerator = tl.full((BLOCK,), NUMERATOR, T)
    if STABILISER == "flat":
        raw_x = mean_x + tl.load(shifts + 2 * channel, mask=active, other=0)
        raw_y = mean_y + tl.load(shifts + 2 * channel + 1, mask=active, other=0)
        value, by_cross, by_x, by_y = flat_terms(
            raw_x, raw_y, variance_x, variance_y, cross, count, SQUARED
        )
    elif STABILISER == "floor":
        value, by_cross, by_x, by_y = floor_terms(
            variance_x * count, variance_y * count, cross * count, epsilon, numerator, SQUARED
        )
    else:
        value, by_cross, by_x, by_y = offset_terms(
            variance_x * count, variance_y * count, cross * count, epsilon, numerator, SQUARED
        )
    if SQUARED:
        by_x *= 2
        by_y *= 2
    weight = tl.full((BLOCK,), 1, T)
    if MASKED:
        place, row = row_of(mask, channels, voxel)
        weight = tl.load(mask.data + row + place * mask.strides[4], mask=active, other=0)
    if BACKWARD:
        tl.store(target + voxel, weight * by_cross, mask=active)
        tl.store(target + voxels + voxel, weight * by_x, mask=active)
        tl.store(target + 2 * voxels + voxel, weight * by_y, mask=active)
        rest_x, rest_y = by_cross * mean_y + by_x * mean_x, by_cross * mean_x + by_y * mean_y
        tl.store(target + 3 * voxels + voxel, weight * rest_x, mask=active)
        tl.store(target + 4 * voxels + voxel, weight * rest_y, mask=active)
    else:
        tl.store(target + voxel, weight * value, mask=active)


@triton.jit
def window_kernel(
    source,
    target,
    length,
    inner,
    radius,
    voxels,
    GAUSSIAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums over the window along one axis of this length, whose values are ``inner`` apart."""
    voxel, active, voxels = block_of_voxels(voxels, BLOCK)
    T: tl.constexpr = source.dtype.element_ty
    inner = tl.cast(inner, tl.int64)
    place = voxel // inner % length
    total = tl.zeros((BLOCK,), T)
    for step in range(-radius, radius + 1):
        inside = active & (place + step >= 0) & (place + step < length)
        value = tl.load(source + voxel + step * inner, mask=inside, other=0)
        total += tap(step, radius, T, GAUSSIAN) * value
    tl.store(target + voxel, total, mask=active)


@triton.jit
def gradient_kernel(
    scale,
    own,
    other,
    mask,
    shifts,
    channels,
    of_channel,
    voxels,
    sums,
    out,
    WHICH: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of image number WHICH; its sums of terms are 1 + WHICH and 3 + WHICH."""
    voxel, active, voxels = block_of_voxels(voxels, BLOCK)
    T: tl.constexpr = sums.dtype.element_ty
    channel = voxel // of_channel
    place, row = row_of(own, channels, voxel)
    mine = tl.load(own.data + row + place * own.strides[4], mask=active, other=0).to(T)
    place, row = row_of(other, channels, voxel)
    theirs = tl.load(other.data + row + place * other.strides[4], mask=active, other=0).to(T)
    weight = tl.full((BLOCK,), 1, T)
    if MASKED:
        place, row = row_of(mask, channels, voxel)
        weight = tl.load(mask.data + row + place * mask.strides[4], mask=active, other=0)
    mine = less_shift(mine, tl.load(shifts + 2 * channel + WHICH, mask=active, other=0), weight)
    theirs = less_shift(
        theirs, tl.load(shifts + 2 * channel + (1 - WHICH), mask=active, other=0), weight
    )
    value = tl.load(sums + voxel, mask=active, other=0) * theirs
    value += tl.load(sums + (1 + WHICH) * voxels + voxel, mask=active, other=0) * mine
    value -= tl.load(sums + (3 + WHICH) * voxels + voxel, mask=active, other=0)
    value *= weight * tl.load(scale + channel // channels, mask=active, other=0)
    value = tl.where(weight == 0, 0, value)
    tl.store(out + voxel, value.to(out.dtype.element_ty), mask=active)
