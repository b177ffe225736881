"""Triton kernel of ``warp_double_backward``: the derivative of the linear warp's backward.

With a direction for image, displacement and affine, the gradients of the warp times the direction
are a number, ``<grad, derivative of the warp along the direction>``. Computed are its gradients:
that to ``grad`` is the directional derivative itself, those to the others are the Hessian of
``<grad, warp>`` times the direction. A program takes one block of output voxels, as in ``warp``.

:func:`warp_double_backward` trusts its input; the checks are those of the operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fixed_point import from_fixed_point
from .gather import store_location_gradient
from .interpolation import corner_weight
from .launch import accumulator, accumulator_type, element_strides, index_type, spatial_size
from .location import affine_row, block_of, corner, locate, voxel_position
from .scatter import scatter

# One voxel per thread: a cell has a value, three first and three mixed derivatives.
_BLOCK = 128
_WARPS = 4


@triton.jit
def times_derivative(derivative, x):
    """Exactly zero where an axis is clamped, whatever the image holds."""
    return tl.where(derivative == 0, 0, derivative * x)


@triton.jit
def direction_axis(
    direction,
    direction_strides,
    affine,
    affine_strides,
    n,
    position,
    active,
    AXIS: tl.constexpr,
    NDIM: tl.constexpr,
    ACC: tl.constexpr,
):
    """How far the direction leads along one axis at the voxels of a position."""
    component: tl.constexpr = AXIS - (3 - NDIM)
    z, y, x = position
    plane = direction + n * direction_strides[0]
    plane += component * tl.cast(direction_strides[1], tl.int64)
    voxel = z * direction_strides[2] + y * direction_strides[3] + x * direction_strides[4]
    step = tl.load(plane + voxel, mask=active, other=0).to(ACC)
    if affine is not None:
        row = affine + n * affine_strides[0] + component * affine_strides[1]
        step += affine_row(row, affine_strides[2], position, NDIM, ACC)
    return step


@triton.jit
def warp_double_backward_kernel(
    image_direction,
    field_direction,
    affine_direction,
    grad,
    image,
    displacement,
    affine,
    to_grad,
    to_image,
    to_image_fixed,
    fixed_scale,
    to_displacement,
    to_affine,
    image_direction_strides,
    field_direction_strides,
    affine_direction_strides,
    grad_strides,
    image_strides,
    displacement_strides,
    affine_strides,
    size,
    out_size,
    channels,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    ADD: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of the output, for those results that are not None.

    to_image is contiguous in ACC and starts at zero, with to_image_fixed and fixed_scale as its
    int64 counterpart; to_grad and to_displacement are contiguous; to_affine holds one sum per
    program. Directions may be None, that of the field only with that of the affine.
    """
    UPPER_Z: tl.constexpr = 2 if NDIM == 3 else 1
    IS_DIRECTED: tl.constexpr = field_direction is not None
    NEEDS_LOCATION: tl.constexpr = to_displacement is not None or to_affine is not None
    program = tl.program_id(0)
    n, voxel, voxels, active = block_of(program, out_size, INDEX, BLOCK)
    position = voxel_position(voxel, out_size)
    first, weights, derivatives, undefined = locate(
        displacement,
        displacement_strides,
        affine,
        affine_strides,
        n,
        position,
        active,
        size,
        NDIM,
        "linear",
        PADDING,
        INDEX,
        ACC,
    )
    # An output that no voxel of the image entered passes nothing on, not even 0 * inf.
    reached = active & ~undefined
    for axis in tl.static_range(3 - NDIM, 3):
        reached &= (first[axis] > -2) & (first[axis] < size[axis])

    # The direction, in padded coordinates.
    step_z = tl.zeros([BLOCK], ACC)
    step_y = tl.zeros([BLOCK], ACC)
    step_x = tl.zeros([BLOCK], ACC)
    if IS_DIRECTED:
        arguments = (
            field_direction,
            field_direction_strides,
            affine_direction,
            affine_direction_strides,
            n,
            position,
            active,
        )
        if NDIM == 3:
            step_z = times_derivative(derivatives[0], direction_axis(*arguments, 0, NDIM, ACC))
        step_y = times_derivative(derivatives[1], direction_axis(*arguments, 1, NDIM, ACC))
        step_x = times_derivative(derivatives[2], direction_axis(*arguments, 2, NDIM, ACC))

    scale = 0.0
    if fixed_scale is not None:
        scale = tl.load(fixed_scale)
    slope_z = tl.zeros([BLOCK], ACC)
    slope_y = tl.zeros([BLOCK], ACC)
    slope_x = tl.zeros([BLOCK], ACC)
    image_voxels = tl.cast(size[0], tl.int64) * size[1] * size[2]
    image_plane = n * channels * image_voxels
    plane = image + n * image_strides[0]
    source = grad + n * grad_strides[0]
    source_offset = (
        position[0] * grad_strides[2]
        + position[1] * grad_strides[3]
        + position[2] * grad_strides[4]
    )
    target = n * channels * voxels
    if image_direction is not None:
        direction_plane = image_direction + n * image_direction_strides[0]
    if ADD and IS_DIRECTED:
        added = field_direction + n * field_direction_strides[0]
        added += (
            position[0] * field_direction_strides[2]
            + position[1] * field_direction_strides[3]
            + position[2] * field_direction_strides[4]
        )
    for _channel in range(channels):
        upstream = tl.load(source + source_offset, mask=reached, other=0).to(ACC)
        derivative = tl.zeros([BLOCK], ACC)
        for dz in tl.static_range(UPPER_Z):
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    voxel_there, inside = corner(first, size, dz, dy, dx)
                    z, y, x = voxel_there
                    inside &= reached
                    weight_z = corner_weight(weights[0], dz, "linear")
                    weight_y = corner_weight(weights[1], dy, "linear")
                    weight_x = corner_weight(weights[2], dx, "linear")
                    # Along the direction: the weight's derivative, and its gradient's.
                    along_z = step_z * (2 * dz - 1)
                    along_y = step_y * (2 * dy - 1)
                    along_x = step_x * (2 * dx - 1)
                    along = along_z * (weight_y * weight_x)
                    along += weight_z * (along_y * weight_x + weight_y * along_x)
                    if to_image is not None:
                        offset = (z * size[1] + y) * size[2] + x
                        scatter(
                            to_image,
                            to_image_fixed,
                            image_plane,
                            offset,
                            upstream * along,
                            inside,
                            scale,
                        )
                    if IS_DIRECTED:
                        corner_offset = (
                            z * image_strides[2] + y * image_strides[3] + x * image_strides[4]
                        )
                        value = tl.load(plane + corner_offset, mask=inside, other=0).to(ACC)
                        derivative += value * along
                        value *= upstream
                        slope_z += value * (along_y * weight_x + weight_y * along_x) * (2 * dz - 1)
                        slope_y += value * (along_z * weight_x + weight_z * along_x) * (2 * dy - 1)
                        slope_x += value * (along_z * weight_y + weight_z * along_y) * (2 * dx - 1)
                    if image_direction is not None:
                        corner_offset = (
                            z * image_direction_strides[2]
                            + y * image_direction_strides[3]
                            + x * image_direction_strides[4]
                        )
                        value = tl.load(direction_plane + corner_offset, mask=inside, other=0)
                        value = value.to(ACC)
                        derivative += value * (weight_z * weight_y * weight_x)
                        value *= upstream
                        slope_z += value * (weight_y * weight_x) * (2 * dz - 1)
                        slope_y += value * (weight_z * weight_x) * (2 * dy - 1)
                        slope_x += value * (weight_z * weight_y) * (2 * dx - 1)
        if to_grad is not None:
            if ADD and IS_DIRECTED:
                derivative += tl.load(added, mask=active, other=0).to(ACC)
            derivative = tl.where(undefined, float("nan"), derivative)
            tl.store(to_grad + target + voxel, derivative.to(to_grad.dtype.element_ty), mask=active)
        plane += image_strides[1]
        source += grad_strides[1]
        image_plane += image_voxels
        target += voxels
        if image_direction is not None:
            direction_plane += image_direction_strides[1]
        if ADD and IS_DIRECTED:
            added += field_direction_strides[1]

    if NEEDS_LOCATION:
        slopes = (
            times_derivative(derivatives[0], slope_z),
            times_derivative(derivatives[1], slope_y),
            times_derivative(derivatives[2], slope_x),
        )
        store_location_gradient(
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
            NDIM,
            ACC,
        )


def warp_double_backward(
    directions: tuple[Tensor | None, Tensor | None, Tensor | None],
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    padding: str,
    add: bool,
    needs: Sequence[bool],
    fixed_scale: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of ``<directions, the gradients of warp>``, linear mode.

    Args:
        directions: of image, displacement and affine, of their shapes and dtypes; None where there
            is none. That of the affine never comes without that of the displacement.
        grad: ``(N, C, *spatial)``, the gradient of the result of ``warp``.
        image: see ``kernels.warp``.
        displacement: see there.
        affine: see there.
        padding: "zeros", "border" or "reflection".
        add: of ``compose``, where the displacement is added to the result.
        needs: whether the gradients to grad, image, displacement and affine are asked for.
        fixed_scale: what turns the image's shares into integers, float64 with one element; None
            where the floating-point sum need not be deterministic.

    Returns:
        The gradients to grad, image, displacement and affine, contiguous and in their dtypes; None
        where not asked for, or where there is no affine.
    """
    along_image, along_field, along_affine = directions
    batch, channels = image.shape[:2]
    ndim, voxels = displacement.shape[1], displacement.shape[2:].numel()
    blocks = triton.cdiv(voxels, _BLOCK)
    # Where nothing is launched, nothing is received.
    allocate = torch.empty if grad.numel() else torch.zeros
    device, accumulated = image.device, accumulator(image)

    to_grad = to_image = fixed = to_displacement = partial = None
    if needs[0]:
        to_grad = torch.empty(grad.shape, dtype=grad.dtype, device=device)
    if needs[1]:
        to_image = torch.zeros(image.shape, dtype=accumulated, device=device)
        if fixed_scale is not None:
            fixed = torch.zeros(image.shape, dtype=torch.int64, device=device)
    if needs[2]:
        to_displacement = allocate(displacement.shape, dtype=displacement.dtype, device=device)
    if needs[3] and affine is not None:
        partial = allocate((batch, blocks, ndim, ndim + 1), dtype=accumulated, device=device)
    if grad.numel():
        tensors = [grad, image, displacement]
        tensors += [x for x in (along_image, along_field) if x is not None]
        with torch.cuda.device_of(image):
            warp_double_backward_kernel[(batch * blocks,)](
                along_image,
                along_field,
                along_affine,
                grad,
                image,
                displacement,
                affine,
                to_grad,
                # The image's gradient does not depend on the image.
                None if along_field is None else to_image,
                fixed,
                fixed_scale,
                to_displacement,
                partial,
                None if along_image is None else element_strides(along_image),
                None if along_field is None else element_strides(along_field),
                None if along_affine is None else along_affine.stride(),
                element_strides(grad),
                element_strides(image),
                element_strides(displacement),
                None if affine is None else affine.stride(),
                spatial_size(image),
                spatial_size(displacement),
                channels,
                NDIM=ndim,
                PADDING=padding,
                ADD=add,
                INDEX=index_type(_BLOCK, *tensors),
                ACC=accumulator_type(image),
                BLOCK=_BLOCK,
                num_warps=_WARPS,
            )
    if to_image is not None:
        if fixed is not None:
            to_image = from_fixed_point(fixed, fixed_scale, to_image)
        to_image = to_image.to(image.dtype)
    return (
        to_grad,
        to_image,
        to_displacement,
        None if partial is None else partial.sum(1, dtype=torch.float64).to(affine.dtype),
    )
