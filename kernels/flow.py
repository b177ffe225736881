"""Triton kernel of one step of a flow: from a velocity to its first displacement, or a squaring.

``exponential`` takes such steps one by one; ``warp_exponential`` takes the last one in registers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gather import added, load_vector, sample_vector, scaled, store_vector
from .launch import accumulator, element_strides, index_type, spatial_size
from .location import voxel_position

# The voxels of a program and its warps.
BLOCK = 256
WARPS = 4


@triton.jit
def slopes(
    velocity,
    strides,
    n,
    first,
    position,
    active,
    size,
    scale,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
):
    """The second and third slope of the classical Runge-Kutta step; the first is the velocity."""
    where = (position, active, size)
    half = scaled(first, scale / 2)
    second = sample_vector(velocity, strides, n, half, *where, NDIM, PADDING, INDEX, ACC)
    half = scaled(second, scale / 2)
    third = sample_vector(velocity, strides, n, half, *where, NDIM, PADDING, INDEX, ACC)
    return second, third


@triton.jit
def next_displacement(
    field,
    strides,
    n,
    position,
    active,
    size,
    scale,
    STEP: tl.constexpr,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
):
    """The displacement that one step makes of a field, at the voxels of a position.

    STEP is "square", of ``scale * field``, or what makes ``u_0`` of a velocity: "euler", "midpoint"
    or "rk4" over the time ``scale``.
    """
    where = (position, active, size)
    value = load_vector(field, strides, n, position, active, NDIM, ACC)
    if STEP == "euler":
        result = scaled(value, scale)
    elif STEP == "square":
        u = scaled(value, scale)
        further = sample_vector(field, strides, n, u, *where, NDIM, PADDING, INDEX, ACC)
        result = scaled(added(further, value), scale)
    elif STEP == "midpoint":
        half = scaled(value, scale / 2)
        further = sample_vector(field, strides, n, half, *where, NDIM, PADDING, INDEX, ACC)
        result = scaled(further, scale)
    else:
        second, third = slopes(field, strides, n, value, *where, scale, NDIM, PADDING, INDEX, ACC)
        whole = scaled(third, scale)
        fourth = sample_vector(field, strides, n, whole, *where, NDIM, PADDING, INDEX, ACC)
        inner = scaled(added(second, third), 2)
        result = scaled(added(added(value, inner), fourth), scale / 6)
    return result


@triton.jit
def step_kernel(
    field,
    out,
    inverse_field,
    inverse_out,
    strides,
    size,
    scale,
    inverse_scale,
    blocks,
    STEP: tl.constexpr,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of out, contiguous; and of inverse_out, where that is not None.

    The two programs of a block follow one another, so that a velocity which both read comes from
    memory once. strides are those of both fields.
    """
    program = tl.program_id(0)
    if inverse_out is not None:
        if program % 2 == 1:
            field = inverse_field
            out = inverse_out
            scale = inverse_scale
        program = program // 2
    n = (program // blocks).to(tl.int64)
    voxel = (program % blocks).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    voxels = tl.cast(size[0], INDEX) * size[1] * size[2]
    active = voxel < voxels
    result = next_displacement(
        field,
        strides,
        n,
        voxel_position(voxel, size),
        active,
        size,
        tl.cast(scale, ACC),
        STEP,
        NDIM,
        PADDING,
        INDEX,
        ACC,
    )
    store_vector(out, n, result, voxel, voxels, active, NDIM)


def first_stage(steps: int, method: str) -> int:
    """The first displacement that is ever in memory."""
    return 1 if method == "euler" and steps > 0 else 0


def step_of(steps: int, method: str) -> str:
    """What makes the first stage of the velocity; see next_displacement."""
    return "square" if first_stage(steps, method) == 1 else method


def field_like(velocity: Tensor) -> Tensor:
    """Uninitialised contiguous memory."""
    return torch.empty_like(velocity, memory_format=torch.contiguous_format)


def advance(
    velocity: Tensor,
    fields: Sequence[Tensor],
    outs: Sequence[Tensor],
    scale: float,
    steps: int,
    method: str,
    padding: str,
) -> None:
    """Writes the displacements after those in ``fields``, or the first ones where it is empty.

    One or two at a time; two are of exp(v) and exp(-v).
    """
    if velocity.numel() == 0:
        return
    starts = not fields
    sources = list(fields) or [velocity] * len(outs)
    blocks = triton.cdiv(velocity.shape[2:].numel(), BLOCK)
    pair = len(outs) == 2
    with torch.cuda.device_of(velocity):
        step_kernel[(len(outs) * velocity.shape[0] * blocks,)](
            sources[0],
            outs[0],
            sources[1] if pair else None,
            outs[1] if pair else None,
            element_strides(sources[0]),
            spatial_size(velocity),
            scale if starts else 1.0,
            -scale if starts else 1.0,
            blocks,
            STEP=step_of(steps, method) if starts else "square",
            **launch_options(velocity, padding),
        )


def launch_options(velocity: Tensor, padding: str) -> dict[str, object]:
    """What all kernels that step through a flow are launched with."""
    return {
        "NDIM": velocity.shape[1],
        "PADDING": padding,
        "INDEX": index_type(BLOCK, velocity),
        "ACC": tl.float64 if accumulator(velocity) == torch.float64 else tl.float32,
        "BLOCK": BLOCK,
        "num_warps": WARPS,
    }
