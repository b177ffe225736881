"""Triton kernel of ``warp_exponential``: the last step of a flow, and an image warped by it.

The displacement stays in registers. Its backward pass is that of ``exponential`` after that of
``warp``.

:func:`warp_exponential_forward` trusts its input; the checks are those of the operator.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .exponential import advance, field_like
from .flow import Flow, Stages, first_stage, next_displacement, step_of
from .gather import sample_channels
from .launch import field_of, launch_over_voxels
from .location import block_of, displaced
from .tuning import SAMPLING, tuned


@tuned(*SAMPLING)
@triton.jit(do_not_specialize=["size_class"])
def warp_exponential_kernel(
    image,
    field,
    out,
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
    """One block of out, contiguous; the field has its size."""
    n, voxel, position, voxels, active = block_of(tl.program_id(0), field.size, INDEX, BLOCK)
    displacement = next_displacement(
        field, n, position, active, scale, STEP, NDIM, FIELD_PADDING, ACC
    )
    block = (displaced(position, displacement), n, voxel, voxels, active, channels)
    sample_channels(image, out, *block, NDIM, MODE, PADDING)


def warp_exponential_forward(
    image: Tensor, flow: Flow, out: Tensor, stages: Stages, mode: str, padding: str
) -> None:
    """Samples ``image`` at ``p + exp(velocity)(p)``.

    Args:
        image: ``(N, C, *image_spatial)``, any strides; float32, float64, float16 or bfloat16.
        flow: see ``kernels.exponential``; its velocity is float64 with a float64 image, else
            float32.
        out: overwritten; ``(N, C, *spatial)``, contiguous, in the image's dtype.
        stages: see ``kernels.exponential``.
        mode: "linear" or "nearest" (ties to even).
        padding: how the image continues outside.
    """
    velocity, scale, steps, method, field_padding, _ = flow
    memory, kept = stages
    places = {} if memory is None else dict(zip(kept, memory, strict=True))
    field: Tensor | None = None
    for stage in range(first_stage(steps, method), steps):
        following = places[stage] if stage in places else field_like(velocity)
        fields = [] if field is None else [field]
        advance(velocity, fields, [following], scale, steps, method, field_padding)
        field = following
    if out.numel() == 0:
        return
    source = velocity if field is None else field
    launch_over_voxels(
        warp_exponential_kernel,
        velocity,
        field_of(image),
        field_of(source),
        out,
        scale if field is None else 1.0,
        image.shape[1],
        touched=(image, source, out),
        STEP=step_of(steps, method) if field is None else "square",
        MODE=mode,
        PADDING=padding,
        FIELD_PADDING=field_padding,
    )
