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

from .cubic import cubic_adjoint, plane_taps
from .gather import add_location_gradient, load_vector, sample_channels, select, store_vector
from .launch import accumulator, field_of, launch_over_voxels
from .location import (
    affine_displaced,
    block_of,
    corner,
    displaced,
    locate,
    offset_of,
    reaching,
    voxel_number,
)
from .scatter import ScatteredSums, scatter
from .tuning import SAMPLING, configuration, tuned

CUBIC_MODES = ("cubic", "bspline")

# The voxels of a program, backward. A thread takes one voxel: with two, its registers leave few
# warps resident.
_BACKWARD_BLOCK = 128


@triton.jit
def locations_of(
    displacement,
    affine,
    affine_strides,
    n,
    position,
    active,
    NDIM: tl.constexpr,
    ACC: tl.constexpr,
):
    """Where the voxels at a position are sampled, (z, y, x); affine may be None."""
    u = load_vector(displacement, n, position, active, NDIM, ACC)
    if affine is None:
        location = displaced(position, u)
    else:
        location = affine_displaced(affine, affine_strides, n, position, u, NDIM)
    return location


@triton.jit(do_not_specialize=["size_class"])
def warp_forward_kernel(
    image,
    displacement,
    affine,
    affine_strides,
    out,
    channels,
    size_class,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of out, contiguous; affine may be None."""
    n, voxel, position, voxels, active = block_of(tl.program_id(0), displacement.size, INDEX, BLOCK)
    location = locations_of(displacement, affine, affine_strides, n, position, active, NDIM, ACC)
    block = (location, n, voxel, voxels, active, channels)
    sample_channels(image, out, *block, NDIM, MODE, PADDING)


_SAMPLE = tuned(*SAMPLING)(warp_forward_kernel)
# One voxel per thread.
_SAMPLE_CUBIC = tuned(
    configuration(4, BLOCK=128), configuration(2, BLOCK=64), configuration(8, BLOCK=256)
)(warp_forward_kernel)


@triton.jit
def linear_adjoint(
    upstream,
    grad_image,
    grad_image_fixed,
    scale,
    target_plane,
    plane,
    image,
    first,
    weights,
    reached,
    gradient,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    NEEDS_LOCATION: tl.constexpr,
):
    """Scatters one channel's upstream gradient to the cells that were located, linear or nearest.

    Returns:
        ``gradient``, that to the padded locations, (z, y, x), with this channel's added.
    """
    UPPER: tl.constexpr = 1 if MODE == "nearest" else 2
    UPPER_Z: tl.constexpr = UPPER if NDIM == 3 else 1
    for dz in tl.static_range(UPPER_Z):
        for dy in tl.static_range(UPPER):
            for dx in tl.static_range(UPPER):
                voxel, weight, inside = corner(first, weights, image.size, dz, dy, dx, MODE)
                inside &= reached
                if grad_image is not None:
                    offset = voxel_number(voxel, image.size)
                    share = upstream * (weight[0] * weight[1] * weight[2])
                    scatter(
                        grad_image, grad_image_fixed, target_plane, offset, share, inside, scale
                    )
                if NEEDS_LOCATION:
                    value = tl.load(plane + offset_of(voxel, image.strides), mask=inside, other=0)
                    value = value.to(upstream.dtype) * upstream
                    gradient = add_location_gradient(gradient, value, weight, dz, dy, dx)
    return gradient


@triton.jit
def warp_backward_kernel(
    grad,
    image,
    displacement,
    affine,
    affine_strides,
    grad_image,
    grad_image_fixed,
    fixed_scale,
    grad_displacement,
    grad_affine,
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
    IS_CUBIC: tl.constexpr = MODE == "cubic" or MODE == "bspline"
    NEEDS_LOCATION: tl.constexpr = grad_displacement is not None or grad_affine is not None
    program = tl.program_id(0)
    n, voxel, position, voxels, active = block_of(program, displacement.size, INDEX, BLOCK)
    location = locations_of(displacement, affine, affine_strides, n, position, active, NDIM, ACC)
    size = image.size
    first, weights, derivatives, undefined = locate(
        location, active, size, NDIM, MODE, PADDING, INDEX
    )
    if IS_CUBIC:
        taps = plane_taps(first, size, PADDING)
    reached = reaching(first, size, active & ~undefined, NDIM, MODE, PADDING)
    scale = 0.0
    if fixed_scale is not None:
        scale = tl.load(fixed_scale)
    gradient_z = tl.zeros([BLOCK], ACC)
    gradient_y = tl.zeros([BLOCK], ACC)
    gradient_x = tl.zeros([BLOCK], ACC)
    image_voxels = tl.cast(size[0], tl.int64) * size[1] * size[2]
    target_plane = n * channels * image_voxels
    plane = image.data + n * image.strides[0]
    source = grad.data + n * grad.strides[0]
    source_offset = offset_of(position, grad.strides)
    for _channel in range(channels):
        upstream = tl.load(source + source_offset, mask=reached, other=0).to(ACC)
        target = (grad_image, grad_image_fixed, scale, target_plane)
        gradient = (gradient_z, gradient_y, gradient_x)
        if IS_CUBIC:
            cells = (plane, image, first, weights, taps, reached, gradient)
            gradient_z, gradient_y, gradient_x = cubic_adjoint(
                upstream, *target, *cells, NDIM, MODE, PADDING, NEEDS_LOCATION
            )
        else:
            cells = (plane, image, first, weights, reached, gradient)
            gradient_z, gradient_y, gradient_x = linear_adjoint(
                upstream, *target, *cells, NDIM, MODE, NEEDS_LOCATION
            )
        plane += image.strides[1]
        source += grad.strides[1]
        target_plane += image_voxels

    if NEEDS_LOCATION:
        z, y, x = derivatives
        gradient = (gradient_z * z, gradient_y * y, gradient_x * x)
        gradient = select(undefined, float("nan"), gradient)
        if grad_displacement is not None:
            store_vector(grad_displacement, n, gradient, voxel, voxels, active, NDIM)
        if grad_affine is not None:
            for axis in tl.static_range(3 - NDIM, 3):
                row = grad_affine + (program.to(tl.int64) * NDIM + (axis - 3 + NDIM)) * (NDIM + 1)
                tl.store(row + NDIM, tl.sum(gradient[axis]))
                for other in tl.static_range(3 - NDIM, 3):
                    moment = tl.sum(gradient[axis] * position[other].to(ACC))
                    tl.store(row + (other - 3 + NDIM), moment)


def warp_forward(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    out: Tensor,
    mode: str,
    padding: str,
) -> None:
    """Samples ``image`` at ``p + displacement(p)``, or at ``affine(p) + displacement(p)``.

    Args:
        image: ``(N, C, *image_spatial)``, any strides; float32, float64, float16 or bfloat16.
        displacement: ``(N, d, *spatial)`` in voxels, any strides; the dtype of the image, float32
            with a half image, or a half type with float32 coefficients.
        affine: ``(N, d, d + 1)`` in voxels, of the displacement's dtype, or None for the identity.
        out: overwritten; ``(N, C, *spatial)``, contiguous, in the image's dtype.
        mode: "linear", "nearest" (ties to even), "cubic", or "bspline" of coefficients.
        padding: "zeros", "border" or "reflection", as ``plasticine.warp`` defines them.
    """
    if out.numel() == 0:
        return
    launch_over_voxels(
        _SAMPLE_CUBIC if mode in CUBIC_MODES else _SAMPLE,
        displacement,
        field_of(image),
        field_of(displacement),
        affine,
        None if affine is None else affine.stride(),
        out,
        image.shape[1],
        touched=(image, displacement, out),
        MODE=mode,
        PADDING=padding,
    )


def warp_backward(
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    grad_image: Tensor | None,
    grad_displacement: Tensor | None,
    grad_affine: Tensor | None,
    mode: str,
    padding: str,
) -> None:
    """The gradients of :func:`warp_forward`.

    The image's gradient is summed with atomics in float32 (float64 for float64), in fixed point
    under ``torch.use_deterministic_algorithms``; the other gradients are always deterministic.

    Args:
        grad: the gradient of the result, any strides.
        image: as given to :func:`warp_forward`. Where only its gradient is asked for, only its
            sizes and dtype are looked at.
        displacement: as given to :func:`warp_forward`.
        affine: as given to :func:`warp_forward`.
        grad_image: overwritten, contiguous, like the image; None where it is not wanted.
        grad_displacement: the same of the displacement.
        grad_affine: the same of the affine map.
        mode: as given to :func:`warp_forward`.
        padding: as given to :func:`warp_forward`.
    """
    is_constant = mode == "nearest" or grad.numel() == 0
    if is_constant:
        for result in (grad_displacement, grad_affine):
            if result is not None:
                result.zero_()
        grad_displacement = grad_affine = None
    partial = None
    if grad_affine is not None:
        blocks = triton.cdiv(displacement.shape[2:].numel(), _BACKWARD_BLOCK)
        shape = (image.shape[0], blocks, *grad_affine.shape[1:])
        partial = image.new_empty(shape, dtype=accumulator(image))
    total = ScatteredSums(grad_image, grad, mode)
    if grad.numel() and any(x is not None for x in (grad_image, grad_displacement, partial)):
        launch_over_voxels(
            warp_backward_kernel,
            displacement,
            field_of(grad),
            field_of(image),
            field_of(displacement),
            affine,
            None if affine is None else affine.stride(),
            total.sums,
            total.fixed,
            total.scale,
            grad_displacement,
            partial,
            image.shape[1],
            touched=(image, displacement, grad),
            block=_BACKWARD_BLOCK,
            MODE=mode,
            PADDING=padding,
        )
    total.finish()
    if partial is not None:
        grad_affine.copy_(partial.sum(1, dtype=torch.float64))
