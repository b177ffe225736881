"""Triton kernel of ``warp_exponential``: the last step of a flow, and an image warped by it.

The displacement stays in registers. Its backward pass is that of ``exponential`` after that of
``warp``.

:func:`warp_exponential_forward` trusts its input; the checks are those of the operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .exponential import advance, field_like
from .flow import first_stage, next_displacement, step_of
from .gather import gather
from .launch import accumulator_type, element_strides, index_type, spatial_size
from .location import block_of, locate_displaced, voxel_position
from .tuning import SAMPLING, size_class, tuned


@tuned(*SAMPLING)
@triton.jit(do_not_specialize=["size_class"])
def warp_exponential_kernel(
    image,
    field,
    out,
    image_strides,
    field_strides,
    size,
    out_size,
    scale,
    channels,
    size_class,
    STEP: tl.constexpr,
    NDIM: tl.constexpr,
    MODE: tl.constexpr,
    PADDING: tl.constexpr,
    FIELD_PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of out, contiguous ``(n, c, *out_size)``; the field has the size of out."""
    program = tl.program_id(0)
    n, voxel, voxels, active = block_of(program, out_size, INDEX, BLOCK)
    position = voxel_position(voxel, out_size)
    displacement = next_displacement(
        field,
        field_strides,
        n,
        position,
        active,
        out_size,
        tl.cast(scale, ACC),
        STEP,
        NDIM,
        FIELD_PADDING,
        INDEX,
        ACC,
    )
    first, weights, _, undefined = locate_displaced(
        displacement, position, active, size, NDIM, MODE, PADDING, INDEX, ACC
    )
    plane = image + n * image_strides[0]
    target = out + n * channels * voxels
    for _channel in range(channels):
        value = gather(
            plane, image_strides, first, weights, undefined, active, size, NDIM, MODE, ACC
        )
        tl.store(target + voxel, value.to(out.dtype.element_ty), mask=active)
        plane += image_strides[1]
        target += voxels


def warp_exponential_forward(
    image: Tensor,
    velocity: Tensor,
    steps: int,
    method: str,
    mode: str,
    padding: str,
    field_padding: str,
    kept: Sequence[int],
) -> tuple[Tensor, Tensor | None]:
    """Samples ``image`` at ``p + exp(velocity)(p)``.

    Args:
        image: ``(N, C, *image_spatial)``, any strides; float32, float64, float16 or bfloat16.
        velocity: ``(N, d, *spatial)`` in voxels, any strides; float64 with a float64 image, else
            float32.
        steps: number of squarings.
        method: "euler", "midpoint" or "rk4".
        mode: "linear" or "nearest" (ties to even).
        padding: how the image continues outside: "zeros", "border" or "reflection".
        field_padding: how the velocity and its displacements do.
        kept: which of the displacements before the last are returned too; see
            ``kernels.exponential``.

    Returns:
        ``(N, C, *spatial)``, contiguous, in the image's dtype; and the kept displacements,
        ``(kept, N, d, *spatial)``, or None where none are kept.
    """
    batch, channels = image.shape[:2]
    out = image.new_empty((batch, channels, *velocity.shape[2:]))
    stages = velocity.new_empty((len(kept), *velocity.shape)) if kept else None
    places = {} if stages is None else dict(zip(kept, stages, strict=True))
    scale = 0.5**steps
    field: Tensor | None = None
    for stage in range(first_stage(steps, method), steps):
        following = places[stage] if stage in places else field_like(velocity)
        fields = [] if field is None else [field]
        advance(velocity, fields, [following], scale, steps, method, field_padding)
        field = following
    if out.numel() == 0:
        return out, stages
    source = velocity if field is None else field
    voxels = velocity.shape[2:].numel()
    with torch.cuda.device_of(image):
        warp_exponential_kernel[lambda chosen: (batch * triton.cdiv(voxels, chosen["BLOCK"]),)](
            image,
            source,
            out,
            element_strides(image),
            element_strides(source),
            spatial_size(image),
            spatial_size(velocity),
            scale if field is None else 1.0,
            channels,
            STEP=step_of(steps, method) if field is None else "square",
            NDIM=velocity.shape[1],
            MODE=mode,
            PADDING=padding,
            FIELD_PADDING=field_padding,
            INDEX=index_type(warp_exponential_kernel.largest_block, image, source, out),
            ACC=accumulator_type(velocity),
            size_class=size_class(batch * voxels),
        )
    return out, stages
