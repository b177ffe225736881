"""The Triton kernels of ``mind_distance``: each is a pass over some planes of an image.

In 2D the first axis is z, and y has one voxel and no neighbours. What a pass reads and writes of
all pairs of patches is ordered by pair, z, y and x.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def value_of(planes, size, PAIRS: tl.constexpr, BLOCK: tl.constexpr):
    """The program's values of some planes of all pairs: pair, z, y, x, number, which there are."""
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row = number // size[2]
    plane = row // size[1]
    z = planes[0] + plane % planes[1]
    active = plane < PAIRS * planes[1]
    return plane // planes[1], z, row % size[1], number % size[2], number, active


@triton.jit
def voxel_of(planes, size, PAIRS: tl.constexpr, BLOCK: tl.constexpr):
    """The program's voxels of some planes, ``(BLOCK, 1)``, with all pairs, ``(1, 32)``.

    Returns:
        Pair, z, y, x, number, which there are (voxels alone), and which there are of all.
    """
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    pair = tl.arange(0, 32)[None, :].to(tl.int64)
    row = number // size[2]
    inside = row < planes[1] * size[1]
    z, y, x = planes[0] + row // size[1], row % size[1], number % size[2]
    return pair, z, y, x, number, inside, inside & (pair < PAIRS)


@triton.jit
def pair_of(k, NDIM: tl.constexpr):
    """The steps (z, y, x) of the two points of a pair: the centre, or a step along one axis."""
    centre = k < 2 * NDIM
    other = k - 2 * NDIM  # four for each two axes
    axes = other // 4
    first_axis = tl.where(centre, -1, tl.where((axes == 2) & (NDIM == 3), 1, 0))
    second_axis = tl.where((axes == 0) & (NDIM == 3), 1, 2)
    second_axis = tl.where(centre, k // 2 * (4 - NDIM), second_axis)
    first = other % 4 // 2 * 2 - 1
    second = tl.where(centre, k % 2, other % 2) * 2 - 1
    return (
        tl.where(first_axis == 0, first, 0),
        tl.where(first_axis == 1, first, 0),
        tl.where(first_axis == 2, first, 0),
        tl.where(second_axis == 0, second, 0),
        tl.where(second_axis == 1, second, 0),
        tl.where(second_axis == 2, second, 0),
    )


@triton.jit
def within(place, length):
    """A place on an axis, those beyond its ends replaced by the end."""
    return tl.minimum(tl.maximum(place, 0), length - 1)


@triton.jit
def load_point(image, z, y, x, step_z, step_y, step_x, active, ACC: tl.constexpr):
    """The values of an image a step away, its edge repeated."""
    offset = within(z + step_z, image.size[0]) * image.strides[2]
    offset += within(y + step_y, image.size[1]) * image.strides[3]
    offset += within(x + step_x, image.size[2]) * image.strides[4]
    return tl.load(image.data + offset, mask=active, other=0).to(ACC)


@triton.jit
def difference_of(image, dilation, k, z, y, x, active, NDIM: tl.constexpr, ACC: tl.constexpr):
    """The value of a pair's first point less that of its second."""
    az, ay, ax, bz, by, bx = pair_of(k, NDIM)
    a = load_point(image, z, y, x, dilation * az, dilation * ay, dilation * ax, active, ACC)
    return a - load_point(image, z, y, x, dilation * bz, dilation * by, dilation * bx, active, ACC)


@triton.jit
def share_of(shares, size, z, y, x, active):
    """How much a value counts in the patches of all voxels."""
    share = tl.load(shares + z, mask=active, other=0)
    share *= tl.load(shares + size[0] + y, mask=active, other=0)
    return share * tl.load(shares + size[0] + size[1] + x, mask=active, other=0)


@triton.jit
def variance_kernel(
    image,
    planes,
    dilation,
    shares,
    partial,
    NDIM: tl.constexpr,
    PAIRS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The sum over voxels and pairs of all distances that the differences make, by blocks."""
    k, z, y, x, _, inside, active = voxel_of(planes, image.size, PAIRS, BLOCK)
    difference = difference_of(image, dilation, k, z, y, x, active, NDIM, ACC)
    share = share_of(shares, image.size, z, y, x, inside)
    total = tl.where(active, difference * difference * share, 0).to(tl.float64)
    tl.store(partial + tl.program_id(0), tl.sum(tl.sum(total, 1), 0))


@triton.jit
def across_kernel(
    image,
    planes,
    dilation,
    weights,
    radius,
    out,
    NDIM: tl.constexpr,
    PAIRS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Squared differences of a pair, smoothed along x."""
    k, z, y, x, number, active = value_of(planes, image.size, PAIRS, BLOCK)
    total = tl.zeros((BLOCK,), ACC)
    for step in range(-radius, radius + 1):
        place = within(x + step, image.size[2])
        difference = difference_of(image, dilation, k, z, y, place, active, NDIM, ACC)
        total += tl.load(weights + radius + step) * difference * difference
    tl.store(out + number, total, mask=active)


@triton.jit
def smooth_kernel(
    image,
    planes,
    source_planes,
    weights,
    radius,
    source,
    out,
    NDIM: tl.constexpr,
    PAIRS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Smooths the differences of a pair along z and y."""
    k, z, y, x, number, active = value_of(planes, image.size, PAIRS, BLOCK)
    source += k * source_planes[1] * image.size[1] * image.size[2]
    total = tl.zeros((BLOCK,), ACC)
    for step_z in range(-radius, radius + 1):
        line = tl.zeros((BLOCK,), ACC)
        row = (within(z + step_z, image.size[0]) - source_planes[0]) * image.size[1]
        for step_y in range(-radius, radius + 1):
            place = (row + within(y + step_y, image.size[1])) * image.size[2] + x
            value = tl.load(source + place, mask=active, other=0)
            line += tl.load(weights + radius + step_y) * value
        total += tl.load(weights + radius + step_z) * line
    tl.store(out + number, total, mask=active)


@triton.jit
def weight_in(patches, radius, place, step, active):
    """How much the patch a step away counts the value at a place; those of all axes follow."""
    return tl.load(patches + place * (2 * radius + 1) + radius + step, mask=active, other=0)


@triton.jit
def spread_kernel(
    image,
    planes,
    source_planes,
    patches,
    radius,
    source,
    out,
    NDIM: tl.constexpr,
    PAIRS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The adjoint of smooth_kernel."""
    k, z, y, x, number, active = value_of(planes, image.size, PAIRS, BLOCK)
    source += k * source_planes[1] * image.size[1] * image.size[2]
    total = tl.zeros((BLOCK,), ACC)
    for step_z in range(-radius, radius + 1):
        line = tl.zeros((BLOCK,), ACC)
        plane = z + step_z - source_planes[0]
        for step_y in range(-radius, radius + 1):
            row = y + step_y
            there = active & (plane >= 0) & (plane < source_planes[1])
            there = there & (row >= 0) & (row < image.size[1])
            place = (plane * image.size[1] + row) * image.size[2] + x
            value = tl.load(source + place, mask=there, other=0)
            line += weight_in(patches, radius, image.size[0] + y, step_y, active) * value
        total += weight_in(patches, radius, z, step_z, active) * line
    tl.store(out + number, total, mask=active)


@triton.jit
def pull_kernel(
    image,
    planes,
    dilation,
    patches,
    radius,
    source,
    out,
    NDIM: tl.constexpr,
    PAIRS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The adjoint of across_kernel, but for the last step to the points of the pair."""
    k, z, y, x, number, active = value_of(planes, image.size, PAIRS, BLOCK)
    total = tl.zeros((BLOCK,), ACC)
    for step in range(-radius, radius + 1):
        there = active & (x + step >= 0) & (x + step < image.size[2])
        value = tl.load(source + number + step, mask=there, other=0)
        place = image.size[0] + image.size[1] + x
        total += weight_in(patches, radius, place, step, active) * value
    total *= 2 * difference_of(image, dilation, k, z, y, x, active, NDIM, ACC)
    tl.store(out + number, total, mask=active)


@triton.jit
def compare_kernel(
    image,
    planes,
    own,
    mask,
    first,
    second,
    floors,
    scale,
    partial,
    BACKWARD: tl.constexpr,
    MASKED: tl.constexpr,
    SQUARED: tl.constexpr,
    EPSILON: tl.constexpr,
    NDIM: tl.constexpr,
    PAIRS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What descriptors' differences count, by blocks; or the gradients in the distances' places.

    Then two blocks of sums are those of the floors' gradients, over ``own`` planes. With h the
    gradient to the difference of two descriptors exp(-D / V), the gradient to D of x is
    -h exp(-D / V) / V, and that to V is the sum over the pairs of h exp(-D / V) D / V^2.
    """
    k, z, y, x, number, inside, active = voxel_of(planes, image.size, PAIRS, BLOCK)
    place = k * planes[1] * image.size[1] * image.size[2] + number
    distance_x = tl.load(first + place, mask=active, other=0)
    distance_y = tl.load(second + place, mask=active, other=0)
    floor_x, floor_y = tl.load(floors).to(ACC), tl.load(floors + 1).to(ACC)
    mean_x = (tl.sum(distance_x, 1) / PAIRS)[:, None]
    mean_y = (tl.sum(distance_y, 1) / PAIRS)[:, None]
    varied_x, varied_y = mean_x > floor_x, mean_y > floor_y
    inverse_x = 1 / tl.where(varied_x, mean_x, floor_x)
    inverse_y = 1 / tl.where(varied_y, mean_y, floor_y)
    value_x, value_y = tl.exp(-distance_x * inverse_x), tl.exp(-distance_y * inverse_y)
    difference = value_x - value_y
    weight = tl.where(inside, 1.0, 0.0).to(ACC)
    if MASKED:
        offset = z * mask.strides[2] + y * mask.strides[3] + x * mask.strides[4]
        weight = tl.load(mask.data + offset, mask=inside, other=0)
    if BACKWARD:
        slope = 2 * difference
        if not SQUARED:
            slope = difference / tl.sqrt(difference * difference + EPSILON * EPSILON)
        slope *= weight * tl.load(scale).to(ACC)
        # Where there is no pair, distances and differences are 0.
        of_x = tl.sum(slope * value_x * distance_x, 1)[:, None] * inverse_x * inverse_x
        of_y = -tl.sum(slope * value_y * distance_y, 1)[:, None] * inverse_y * inverse_y
        grad_x = -slope * value_x * inverse_x + tl.where(varied_x, of_x / PAIRS, 0)
        grad_y = slope * value_y * inverse_y + tl.where(varied_y, of_y / PAIRS, 0)
        tl.store(first + place, grad_x, mask=active)
        tl.store(second + place, grad_y, mask=active)
        counted = inside & (z >= own[0]) & (z < own[0] + own[1])
        of_x = tl.where(counted & (mean_x <= floor_x), of_x, 0).to(tl.float64)
        of_y = tl.where(counted & (mean_y <= floor_y), of_y, 0).to(tl.float64)
        tl.store(partial + 2 * tl.program_id(0), tl.sum(tl.sum(of_x, 1), 0))
        tl.store(partial + 2 * tl.program_id(0) + 1, tl.sum(tl.sum(of_y, 1), 0))
    else:
        counted = difference * difference
        if not SQUARED:
            counted = tl.sqrt(counted + EPSILON * EPSILON)
        counted = tl.where(active, counted * weight, 0).to(tl.float64)
        tl.store(partial + tl.program_id(0), tl.sum(tl.sum(counted, 1), 0))


@triton.jit
def term_of(
    image,
    planes,
    dilation,
    k,
    z,
    y,
    x,
    active,
    values,
    FLOOR: tl.constexpr,
    NDIM: tl.constexpr,
    ACC: tl.constexpr,
):
    """The gradient of a pair's difference: a value of ``values``, or what a floor makes of it."""
    if FLOOR:
        share = share_of(values, image.size, z, y, x, active)
        return 2 * share * difference_of(image, dilation, k, z, y, x, active, NDIM, ACC)
    plane = k * planes[1] + z - planes[0]
    place = (plane * image.size[1] + y) * image.size[2] + x
    return tl.load(values + place, mask=active, other=0)


@triton.jit
def end_of(step, length):
    """The last place on an axis in the direction of a step; none where there is no step."""
    return tl.where(step > 0, length - 1, tl.where(step < 0, 0, -1))


@triton.jit
def collect(
    image,
    planes,
    dilation,
    k,
    z,
    y,
    x,
    step_z,
    step_y,
    step_x,
    active,
    values,
    FLOOR: tl.constexpr,
    NDIM: tl.constexpr,
    ACC: tl.constexpr,
):
    """The sum over pairs of their terms at the voxels whose point, a step away, is this one."""
    reach = dilation * tl.abs(step_z + step_y + step_x)
    # Beyond an end, all voxels' points are the last one.
    at_end = (z == end_of(step_z, image.size[0])) | (y == end_of(step_y, image.size[1]))
    at_end = at_end | (x == end_of(step_x, image.size[2]))
    total = tl.zeros_like(reach + z).to(ACC)
    for j in range(0, dilation + 1):
        from_z, from_y, from_x = z - j * step_z, y - j * step_y, x - j * step_x
        there = active & ((reach == j) | (at_end & (reach > j)))
        there = there & (from_z >= 0) & (from_z < image.size[0])
        there = there & (from_y >= 0) & (from_y < image.size[1])
        there = there & (from_x >= 0) & (from_x < image.size[2])
        term = term_of(
            image, planes, dilation, k, from_z, from_y, from_x, there, values, FLOOR, NDIM, ACC
        )
        total += tl.where(there, term, 0)
    return tl.sum(total, 1)[:, None]


@triton.jit
def gather_kernel(
    image,
    own,
    planes,
    dilation,
    values,
    scale,
    gradient,
    ADD: tl.constexpr,
    FLOOR: tl.constexpr,
    NDIM: tl.constexpr,
    PAIRS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of the voxels of ``own`` planes, of the terms of ``planes``."""
    k, z, y, x, number, inside, active = voxel_of(own, image.size, PAIRS, BLOCK)
    az, ay, ax, bz, by, bx = pair_of(k, NDIM)
    total = collect(
        image, planes, dilation, k, z, y, x, az, ay, ax, active, values, FLOOR, NDIM, ACC
    ) - collect(image, planes, dilation, k, z, y, x, bz, by, bx, active, values, FLOOR, NDIM, ACC)
    if FLOOR:
        factor = tl.load(scale).to(ACC)
        total = tl.where(factor == 0, 0, total * factor)
    target = gradient + own[0] * image.size[1] * image.size[2] + number
    if ADD:
        total += tl.load(target, mask=inside, other=0)
    tl.store(target, total, mask=inside)
