"""Triton kernels of ``exponential``: scaling and squaring of a stationary velocity field.

``u_0`` is one Runge-Kutta step over ``scale = 2**-steps`` of the time, then ``steps`` times
``u <- u o (id + u) + u`` (Arsigny et al., MICCAI 2006). Every displacement is one launch, that of
exp(v) and that of exp(-v) in the same one. Euler's ``u_0 = scale v`` is never in memory: the first
squaring reads the velocity.

The host functions trust their input; the checks are those of the operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .compose import add_adjoint
from .flow import first_stage, next_displacement, slopes, step_of
from .gather import load_vector, store_vector
from .launch import accumulator_type, element_strides, index_type, spatial_size
from .location import block_of, voxel_position
from .tuning import SAMPLING, size_class, tuned

# The voxels of a program of the slopes, and its warps.
_BLOCK = 256
_WARPS = 4

# Fields that the backward pass works in, its result among them: two gradients in turn and the
# displacements that it computes again, of which there are more where none is kept. The adjoint of
# the classical Runge-Kutta step needs five by itself.
_WORKING = 4
_WORKING_WITH_KEPT = 3
_WORKING_RK4 = 5


@tuned(*SAMPLING)
@triton.jit(do_not_specialize=["size_class"])
def step_kernel(
    field,
    out,
    inverse_field,
    inverse_out,
    strides,
    size,
    scale,
    inverse_scale,
    size_class,
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
    n, voxel, voxels, active = block_of(program, size, INDEX, BLOCK)
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


@triton.jit
def slopes_kernel(
    velocity,
    second,
    third,
    strides,
    size,
    scale,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of the slopes of the classical Runge-Kutta step, for its adjoint; contiguous."""
    program = tl.program_id(0)
    n, voxel, voxels, active = block_of(program, size, INDEX, BLOCK)
    position = voxel_position(voxel, size)
    first = load_vector(velocity, strides, n, position, active, NDIM, ACC)
    where = (position, active, size, tl.cast(scale, ACC))
    found, further = slopes(velocity, strides, n, first, *where, NDIM, PADDING, INDEX, ACC)
    store_vector(second, n, found, voxel, voxels, active, NDIM)
    store_vector(third, n, further, voxel, voxels, active, NDIM)


def exponential_forward(
    velocity: Tensor,
    steps: int,
    method: str,
    padding: str,
    inverse: bool,
    kept: Sequence[int],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """exp(v), and exp(-v) if asked for.

    Args:
        velocity: ``(N, d, *spatial)`` in voxels, float32 or float64, any strides.
        steps: number of squarings.
        method: how ``u_0`` is formed: "euler", "midpoint" or "rk4".
        padding: how the field continues outside its grid: "zeros", "border" or "reflection".
        inverse: whether exp(-v) is computed in the same launches.
        kept: which of the displacements before the last are returned too, ascending; Euler's
            ``u_0`` is not among them where it is squared.

    Returns:
        exp(v); exp(-v) or None; and the kept displacements, ``(kept, N, d, *spatial)``, those of
        exp(v) before those of exp(-v), or None where none are kept.
    """
    directions = 2 if inverse else 1
    stages = None
    if kept:
        stages = velocity.new_empty((directions * len(kept), *velocity.shape))
    places = [
        {} if stages is None else dict(zip(kept, stages[i * len(kept) :], strict=False))
        for i in range(directions)
    ]
    fields: list[Tensor] = []
    for stage in range(first_stage(steps, method), steps + 1):
        outs = [place[stage] if stage in place else field_like(velocity) for place in places]
        advance(velocity, fields, outs, 0.5**steps, steps, method, padding)
        fields = outs
    return fields[0], fields[1] if inverse else None, stages


def exponential_resume(
    velocity: Tensor,
    stages: Tensor,
    steps: int,
    method: str,
    padding: str,
    kept: Sequence[int],
) -> Tensor:
    """exp(v) from the last of its kept displacements on.

    Args:
        velocity: as given to :func:`exponential_forward`.
        stages: ``(kept, N, d, *spatial)``, what it returned.
        steps: as given to it.
        method: as given to it.
        padding: as given to it.
        kept: as given to it.
    """
    field = stages[len(kept) - 1]
    for _ in range(kept[-1], steps):
        out = field_like(velocity)
        advance(velocity, [field], [out], 0.5**steps, steps, method, padding)
        field = out
    return field


def exponential_backward(
    grad: Tensor,
    velocity: Tensor,
    stages: Tensor | None,
    scale: float,
    steps: int,
    method: str,
    padding: str,
    kept: Sequence[int],
) -> Tensor:
    """The velocity's gradient of exp(v), or of exp(-v); summed with floating-point atomics.

    Args:
        grad: the gradient of the result, any strides.
        velocity: as given to :func:`exponential_forward`.
        stages: the kept displacements of this direction, or None.
        scale: ``2**-steps``, or its negative for exp(-v).
        steps: as given to :func:`exponential_forward`.
        method: as given to it.
        padding: as given to it.
        kept: which displacements the stages are; the others are computed again.
    """
    working = _WORKING_RK4 if method == "rk4" else _WORKING_WITH_KEPT if kept else _WORKING
    flow = velocity, scale, steps, method, padding
    first = first_stage(steps, method)
    held = {} if stages is None else dict(zip(kept, stages, strict=True))
    own = 0  # whether the gradient is one of the fields that the pass works in
    for stage in range(steps - 1, first - 1, -1):
        if stage not in held:
            recomputed = sum(1 for other in held if other not in kept)
            _compute_again(flow, held, stage, working - recomputed, own)
        u = held.pop(stage)
        grad = _adjoint_of_square(grad, u, 1.0, padding)
        del u
        own = 1
    if first == 1:
        return _adjoint_of_square(grad, velocity, scale, padding)
    if method == "euler":
        return (grad * scale).contiguous()
    if method == "midpoint":
        total = torch.zeros_like(velocity, memory_format=torch.contiguous_format)
        options = {"scale": scale, "reach": scale / 2, "accumulate": True}
        add_adjoint(grad, velocity, velocity, padding, total, total, **options)
        return total
    return _adjoint_of_rk4(grad, velocity, scale, padding)


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
    samples, voxels = len(outs) * velocity.shape[0], velocity.shape[2:].numel()
    pair = len(outs) == 2
    with torch.cuda.device_of(velocity):
        step_kernel[lambda chosen: (samples * triton.cdiv(voxels, chosen["BLOCK"]),)](
            sources[0],
            outs[0],
            sources[1] if pair else None,
            outs[1] if pair else None,
            element_strides(sources[0]),
            spatial_size(velocity),
            scale if starts else 1.0,
            -scale if starts else 1.0,
            STEP=step_of(steps, method) if starts else "square",
            size_class=size_class(samples * voxels),
            **_launch_options(velocity, padding, step_kernel.largest_block),
        )


def _launch_options(velocity: Tensor, padding: str, largest_block: int) -> dict[str, object]:
    """What all kernels that step through a flow are launched with, but for the block itself."""
    return {
        "NDIM": velocity.shape[1],
        "PADDING": padding,
        "INDEX": index_type(largest_block, velocity),
        "ACC": accumulator_type(velocity),
    }


def _compute_again(
    flow: tuple[Tensor, float, int, str, str],
    held: dict[int, Tensor],
    wanted: int,
    working: int,
    own: int,
) -> None:
    """Adds the displacement ``wanted`` to those that are held, and what is worth it on the way.

    Args:
        flow: velocity, scale, steps, method and padding.
        held: displacements by their number.
        wanted: which one is to be computed, from the last one before it that is held.
        working: how many fields there are for gradients and for displacements that are not held.
        own: how many of them hold the gradient now.
    """
    velocity, scale, steps, method, padding = flow
    begin = max((stage for stage in held if stage < wanted), default=None)
    start = first_stage(steps, method) - 1 if begin is None else begin
    # All but the wanted one and the one that alternates with it, which then is a gradient's.
    spare = working - own - 2
    worth: set[int] = set()
    top = wanted
    if spare > 0 and wanted - 1 > start:
        top = wanted - 1  # used by the very next step
        worth.add(top)
        spare -= 1
    # For longer, with two gradients and the displacement in use among the others.
    lasting = max(min(spare, working - 3, top - start - 1), 0)
    for index in range(1, lasting + 1):
        worth.add(start + -(-index * (top - start) // (lasting + 1)))
    field = None if begin is None else held[begin]
    for stage in range(start + 1, wanted + 1):
        out = field_like(velocity)
        advance(velocity, [] if field is None else [field], [out], scale, steps, method, padding)
        field = out
        if stage == wanted or stage in worth:
            held[stage] = field


def _adjoint_of_square(grad: Tensor, field: Tensor, scale: float, padding: str) -> Tensor:
    """The adjoint of ``u + u o (id + u)`` at ``u = scale * field``, to the field."""
    total = torch.zeros_like(field, memory_format=torch.contiguous_format)
    add_adjoint(
        grad,
        field,
        field,
        padding,
        total,
        total,
        scale=scale,
        reach=scale,
        passed=grad,
        passed_scale=scale,
        accumulate=True,
    )
    return total


def _adjoint_of_rk4(grad: Tensor, velocity: Tensor, scale: float, padding: str) -> Tensor:
    """Of ``scale / 6 (k_1 + 2 k_2 + 2 k_3 + k_4)``, each slope sampled where the one before leads.

    The factor comes last: sixths are not exact in a kernel's float32 arguments.
    """
    total = torch.zeros_like(velocity, memory_format=torch.contiguous_format)
    if velocity.numel() == 0:
        return total
    second, third = field_like(velocity), field_like(velocity)
    blocks = triton.cdiv(velocity.shape[2:].numel(), _BLOCK)
    with torch.cuda.device_of(velocity):
        slopes_kernel[(velocity.shape[0] * blocks,)](
            velocity,
            second,
            third,
            element_strides(velocity),
            spatial_size(velocity),
            scale,
            **_launch_options(velocity, padding, _BLOCK),
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )
    twice = {"passed": grad, "passed_scale": 2.0}
    grad_third = field_like(velocity)
    add_adjoint(grad, velocity, third, padding, total, grad_third, reach=scale, **twice)
    grad_second = third  # the slope has served
    add_adjoint(grad_third, velocity, second, padding, total, grad_second, reach=scale / 2, **twice)
    add_adjoint(
        grad_second,
        velocity,
        velocity,
        padding,
        total,
        total,
        reach=scale / 2,
        passed=grad,
        accumulate=True,
    )
    return total.mul_(scale / 6)
