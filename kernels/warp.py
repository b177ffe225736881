"""Triton kernels of ``warp``: sample an image at ``A p + t + u(p)``, forward and backward.

A program takes one block of consecutive output voxels of one sample, finds where they are sampled,
and uses that for every channel. The identity grid and the affine field live in registers only.
Axes are (z, y, x); in 2D there is no z: its size is 1, its stride 0, its coordinate 0.

:func:`warp_forward` and :func:`warp_backward` trust their input; the checks are those of the
operator ``plasticine.warp``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fixed_point import fixed_point_scale, from_fixed_point
from .gather import gather, store_location_gradient
from .interpolation import corner_weight
from .launch import accumulator, accumulator_type, element_strides, index_type, spatial_size
from .location import block_of, corner, locate, voxel_position
from .scatter import scatter
from .tuning import SAMPLING, size_class, tuned
from .warp_cubic import warp_cubic_backward_kernel, warp_cubic_forward_kernel

CUBIC_MODES = ("cubic", "bspline")

# The voxels of a program and its warps, backward; the grid is one program per block of every
# sample. A thread takes one voxel: with two, its registers leave few warps resident.
_BACKWARD_BLOCK = 128
_WARPS = 4


@tuned(*SAMPLING)
@triton.jit(do_not_specialize=["size_class"])
def warp_forward_kernel(
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
    n, voxel, voxels, active = block_of(tl.program_id(0), out_size, INDEX, BLOCK)
    first, weights, _, undefined = locate(
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

    plane = image + n * image_strides[0]
    target = out + n * channels * voxels
    for _channel in range(channels):
        total = gather(
            plane, image_strides, first, weights, undefined, active, size, NDIM, MODE, ACC
        )
        tl.store(target + voxel, total.to(out.dtype.element_ty), mask=active)
        plane += image_strides[1]
        target += voxels


@triton.jit
def warp_backward_kernel(
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

    grad_image is contiguous in ACC and starts at zero; grad_image_fixed, with fixed_scale, is its
    int64 counterpart; grad_displacement is contiguous; grad_affine holds one sum per program.
    """
    UPPER: tl.constexpr = 1 if MODE == "nearest" else 2
    UPPER_Z: tl.constexpr = UPPER if NDIM == 3 else 1
    NEEDS_LOCATION: tl.constexpr = grad_displacement is not None or grad_affine is not None
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
        MODE,
        PADDING,
        INDEX,
        ACC,
    )
    # An output that no voxel of the image entered passes nothing on, not even 0 * inf.
    reached = active & ~undefined
    for axis in tl.static_range(3 - NDIM, 3):
        reached &= (first[axis] > -UPPER) & (first[axis] < size[axis])

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
        for dz in tl.static_range(UPPER_Z):
            for dy in tl.static_range(UPPER):
                for dx in tl.static_range(UPPER):
                    voxel_there, inside = corner(first, size, dz, dy, dx)
                    z, y, x = voxel_there
                    inside &= reached
                    weight_z = corner_weight(weights[0], dz, MODE)
                    weight_y = corner_weight(weights[1], dy, MODE)
                    weight_x = corner_weight(weights[2], dx, MODE)
                    if grad_image is not None:
                        offset = (z * size[1] + y) * size[2] + x
                        share = upstream * (weight_z * weight_y * weight_x)
                        scatter(
                            grad_image,
                            grad_image_fixed,
                            target_plane,
                            offset,
                            share,
                            inside,
                            scale,
                        )
                    if NEEDS_LOCATION:
                        corner_offset = (
                            z * image_strides[2] + y * image_strides[3] + x * image_strides[4]
                        )
                        value = tl.load(plane + corner_offset, mask=inside, other=0).to(ACC)
                        value *= upstream
                        slope_z += value * (weight_y * weight_x) * (2 * dz - 1)
                        slope_y += value * (weight_z * weight_x) * (2 * dy - 1)
                        slope_x += value * (weight_z * weight_y) * (2 * dx - 1)
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


def warp_forward(
    image: Tensor, displacement: Tensor, affine: Tensor | None, mode: str, padding: str
) -> Tensor:
    """Samples ``image`` at ``p + displacement(p)``, or at ``affine(p) + displacement(p)``.

    Args:
        image: ``(N, C, *image_spatial)``, any strides; float32, float64, float16 or bfloat16.
        displacement: ``(N, d, *spatial)`` in voxels, any strides; the dtype of the image, float32
            with a half image, or a half type with float32 coefficients.
        affine: ``(N, d, d + 1)`` in voxels, of the displacement's dtype, or None for the identity.
        mode: "linear", "nearest" (ties to even), "cubic", or "bspline" of coefficients.
        padding: "zeros", "border" or "reflection", as ``plasticine.warp`` defines them.

    Returns:
        ``(N, C, *spatial)``, contiguous, in the image's dtype.
    """
    batch, channels = image.shape[:2]
    out = image.new_empty(batch, channels, *displacement.shape[2:])
    if out.numel() == 0:
        return out
    kernel = warp_cubic_forward_kernel if mode in CUBIC_MODES else warp_forward_kernel
    voxels = displacement.shape[2:].numel()
    options = launch_options(image, displacement, out, mode, padding, kernel.largest_block)
    with torch.cuda.device_of(image):
        kernel[lambda chosen: (batch * triton.cdiv(voxels, chosen["BLOCK"]),)](
            image,
            displacement,
            affine,
            out,
            element_strides(image),
            element_strides(displacement),
            None if affine is None else affine.stride(),
            spatial_size(image),
            spatial_size(displacement),
            channels,
            size_class=size_class(batch * voxels),
            **options,
        )
    return out


def warp_backward(
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of :func:`warp_forward`.

    The image's gradient is summed with atomics in float32 (float64 for float64), in fixed point
    under ``torch.use_deterministic_algorithms``; the other gradients are always deterministic.

    Args:
        grad: the gradient of the result, any strides.
        image: as given to :func:`warp_forward`. Where only its gradient is asked for, only its
            sizes and dtype are looked at.
        displacement: as given to :func:`warp_forward`.
        affine: as given to :func:`warp_forward`.
        mode: as given to :func:`warp_forward`.
        padding: as given to :func:`warp_forward`.
        needs: whether the gradients to image, displacement and affine are asked for.

    Returns:
        The gradients to image, displacement and affine, contiguous and in their dtypes; None where
        not asked for, or where there is no affine.
    """
    kernel = warp_cubic_backward_kernel if mode in CUBIC_MODES else warp_backward_kernel
    batch, channels = image.shape[:2]
    spatial, ndim = displacement.shape[2:], displacement.shape[1]
    accumulated = accumulator(image)
    needs_image, needs_displacement, needs_affine = needs
    needs_affine = needs_affine and affine is not None
    is_constant = mode == "nearest" or grad.numel() == 0

    grad_image = fixed = scale = grad_displacement = partial = None
    if needs_image:
        grad_image = torch.zeros(image.shape, dtype=accumulated, device=image.device)
        if grad.numel() and torch.are_deterministic_algorithms_enabled():
            fixed = torch.zeros(image.shape, dtype=torch.int64, device=image.device)
            scale = fixed_point_scale(grad, spatial.numel(), mode)
    options = launch_options(image, displacement, grad, mode, padding, _BACKWARD_BLOCK)
    blocks = triton.cdiv(spatial.numel(), _BACKWARD_BLOCK)
    if needs_displacement:
        allocate = torch.zeros if is_constant else torch.empty
        grad_displacement = allocate(
            displacement.shape, dtype=displacement.dtype, device=image.device
        )
    if needs_affine:
        allocate = torch.zeros if is_constant else torch.empty
        partial = allocate((batch, blocks, ndim, ndim + 1), dtype=accumulated, device=image.device)

    has_location = not is_constant and (needs_displacement or needs_affine)
    if grad.numel() and (needs_image or has_location):
        with torch.cuda.device_of(image):
            kernel[(batch * blocks,)](
                grad,
                image,
                displacement,
                affine,
                grad_image,
                fixed,
                scale,
                None if is_constant else grad_displacement,
                None if is_constant else partial,
                element_strides(grad),
                element_strides(image),
                element_strides(displacement),
                None if affine is None else affine.stride(),
                spatial_size(image),
                spatial_size(displacement),
                channels,
                **options,
                BLOCK=_BACKWARD_BLOCK,
                num_warps=_WARPS,
            )
    if fixed is not None:
        grad_image = from_fixed_point(fixed, scale, grad_image)
    return (
        None if grad_image is None else grad_image.to(image.dtype),
        grad_displacement,
        None if partial is None else partial.sum(1, dtype=torch.float64).to(affine.dtype),
    )


def launch_options(
    image: Tensor, displacement: Tensor, result: Tensor, mode: str, padding: str, largest_block: int
) -> dict[str, object]:
    """The constants common to the kernels, forward and backward."""
    return {
        "NDIM": displacement.shape[1],
        "MODE": mode,
        "PADDING": padding,
        "INDEX": index_type(largest_block, image, displacement, result),
        "ACC": accumulator_type(image),
    }
