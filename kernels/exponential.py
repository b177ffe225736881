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
from .flow import Flow, Stages, first_stage, intermediate_velocities, next_displacement, step_of
from .gather import load_vector, store_vector
from .launch import Field, field_of, launch_over_voxels
from .location import block_of
from .tuning import SAMPLING, tuned

# The voxels of a program of the intermediate velocities.
_BLOCK = 256

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
    memory once. inverse_field is the data alone, with the strides of field.
    """
    program = tl.program_id(0)
    data = field.data
    if inverse_out is not None:
        if program % 2 == 1:
            data = inverse_field
            out = inverse_out
            scale = inverse_scale
        program = program // 2
    field = Field(data, field.strides, field.size)
    n, voxel, position, voxels, active = block_of(program, field.size, INDEX, BLOCK)
    result = next_displacement(field, n, position, active, scale, STEP, NDIM, PADDING, ACC)
    store_vector(out, n, result, voxel, voxels, active, NDIM)


@triton.jit
def intermediate_velocities_kernel(
    velocity,
    second,
    third,
    scale,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of what the adjoint of the classical Runge-Kutta step needs; contiguous."""
    n, voxel, position, voxels, active = block_of(tl.program_id(0), velocity.size, INDEX, BLOCK)
    first = load_vector(velocity, n, position, active, NDIM, ACC)
    where = (position, active, tl.cast(scale, ACC))
    found, further = intermediate_velocities(velocity, n, first, *where, NDIM, PADDING)
    store_vector(second, n, found, voxel, voxels, active, NDIM)
    store_vector(third, n, further, voxel, voxels, active, NDIM)


def exponential_forward(flow: Flow, out: Tensor, inverse: Tensor | None, stages: Stages) -> None:
    """exp(v), and exp(-v) if asked for, in the same launches.

    Args:
        flow: the velocity ``(N, d, *spatial)`` in voxels, float32 or float64, any strides;
            ``2**-steps``; the number of squarings; how ``u_0`` is formed: "euler", "midpoint" or
            "rk4"; how the field continues outside: "zeros", "border" or "reflection"; a CPU's.
        out: overwritten with exp(v); contiguous, like the velocity.
        inverse: the same of exp(-v); None where it is not wanted.
        stages: memory for the kept displacements, ``(kept, N, d, *spatial)``, contiguous, those of
            exp(v) before those of exp(-v), or None; and which they are, ascending. Euler's ``u_0``
            is not among them where it is squared.
    """
    velocity, scale, steps, method, padding, _ = flow
    memory, kept = stages
    results = [out] if inverse is None else [out, inverse]
    places = [
        {} if memory is None else dict(zip(kept, memory[i * len(kept) :], strict=False))
        for i in range(len(results))
    ]
    fields: list[Tensor] = []
    for stage in range(first_stage(steps, method), steps + 1):
        outs = [
            _place(result, place, stage, steps)
            for result, place in zip(results, places, strict=True)
        ]
        advance(velocity, fields, outs, scale, steps, method, padding)
        fields = outs


def exponential_resume(flow: Flow, out: Tensor, stages: Stages) -> None:
    """exp(v) from the last of its kept displacements on.

    Args:
        flow: as given to :func:`exponential_forward`.
        out: overwritten with exp(v); contiguous, like the velocity.
        stages: as filled by it.
    """
    velocity, scale, steps, method, padding, _ = flow
    memory, kept = stages
    assert memory is not None
    field = memory[len(kept) - 1]
    for stage in range(kept[-1] + 1, steps + 1):
        following = _place(out, {}, stage, steps)
        advance(velocity, [field], [following], scale, steps, method, padding)
        field = following


def exponential_backward(flow: Flow, grad: Tensor, stages: Stages, grad_velocity: Tensor) -> None:
    """The velocity's gradient of exp(v), or of exp(-v); summed with floating-point atomics.

    Args:
        flow: as given to :func:`exponential_forward`, with the negative scale for exp(-v).
        grad: the gradient of the result, any strides.
        stages: the kept displacements of this direction, or None, and which they are; the others
            are computed again.
        grad_velocity: overwritten; contiguous, like the velocity.
    """
    velocity, scale, steps, method, padding, _ = flow
    memory, kept = stages
    working = _WORKING_RK4 if method == "rk4" else _WORKING_WITH_KEPT if kept else _WORKING
    first = first_stage(steps, method)
    held = {} if memory is None else dict(zip(kept, memory, strict=True))
    own = 0  # whether the gradient is one of the fields that the pass works in
    for stage in range(steps - 1, first - 1, -1):
        # Two gradients in turn; the last of all, after those of the stages, is the result.
        into_result = (stage - first) % 2 == 1
        if stage not in held:
            recomputed = sum(1 for other in held if other not in kept)
            is_idle = into_result or not own
            spare = grad_velocity if is_idle else None
            _compute_again(flow, held, stage, working - recomputed, own, spare, int(into_result))
        u = held.pop(stage)
        total = grad_velocity if into_result else torch.empty_like(grad_velocity)
        _adjoint_of_square(grad, u, total, 1.0, padding)
        grad = total
        del u, total
        own = 1
    if first == 1:
        _adjoint_of_square(grad, velocity, grad_velocity, scale, padding)
    elif method == "euler":
        torch.mul(grad, scale, out=grad_velocity)
    elif method == "midpoint":
        total = grad_velocity.zero_()
        add_adjoint(grad, velocity, velocity, total, total, padding, scale=scale, reach=scale / 2)
    else:
        _adjoint_of_rk4(grad, velocity, grad_velocity, scale, padding)


def field_like(velocity: Tensor) -> Tensor:
    """Uninitialised contiguous memory."""
    return torch.empty_like(velocity, memory_format=torch.contiguous_format)


def _place(result: Tensor, places: dict[int, Tensor], stage: int, steps: int) -> Tensor:
    """The memory of a displacement: its place if it is kept, else the result every other time."""
    if stage in places:
        return places[stage]
    return result if (steps - stage) % 2 == 0 else field_like(result)


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
    starts = not fields
    sources = list(fields) or [velocity] * len(outs)
    pair = len(outs) == 2
    launch_over_voxels(
        step_kernel,
        velocity,
        field_of(sources[0]),
        outs[0],
        sources[1] if pair else None,
        outs[1] if pair else None,
        scale if starts else 1.0,
        -scale if starts else 1.0,
        touched=(velocity,),
        directions=len(outs),
        STEP=step_of(steps, method) if starts else "square",
        PADDING=padding,
    )


def _compute_again(
    flow: Flow,
    held: dict[int, Tensor],
    wanted: int,
    working: int,
    own: int,
    spare: Tensor | None,
    turn: int,
) -> None:
    """Adds the displacement ``wanted`` to those that are held, and what is worth it on the way.

    Args:
        flow: as given to :func:`exponential_forward`.
        held: displacements by their number.
        wanted: which one is to be computed, from the last one before it that is held.
        working: how many fields there are for gradients and for displacements that are not held.
        own: how many of them hold the gradient now.
        spare: the one of them that is the result, if it does not hold the gradient.
        turn: 1 where the next gradient goes there, which the wanted displacement then must not.
    """
    velocity, scale, steps, method, padding, _ = flow
    begin = max((stage for stage in held if stage < wanted), default=None)
    start = first_stage(steps, method) - 1 if begin is None else begin
    # All but the wanted one and the one that alternates with it, which then is a gradient's.
    room = working - own - 2
    worth: set[int] = set()
    top = wanted
    if room > 0 and wanted - 1 > start:
        top = wanted - 1  # used by the very next step
        worth.add(top)
        room -= 1
    # For longer, with two gradients and the displacement in use among the others.
    lasting = max(min(room, working - 3, top - start - 1), 0)
    for index in range(1, lasting + 1):
        worth.add(start + -(-index * (top - start) // (lasting + 1)))
    field = None if begin is None else held[begin]
    for stage in range(start + 1, wanted + 1):
        # What lasts until the next gradient alone is held where that, or the one after it, goes.
        is_passing = spare is not None and stage not in worth and (wanted - stage) % 2 == turn
        out = spare if is_passing else field_like(velocity)
        advance(velocity, [] if field is None else [field], [out], scale, steps, method, padding)
        field = out
        if stage == wanted or stage in worth:
            held[stage] = field


def _adjoint_of_square(
    grad: Tensor, field: Tensor, total: Tensor, scale: float, padding: str
) -> None:
    """Writes the adjoint of ``u + u o (id + u)``, at ``u = scale * field``, to ``total``."""
    total.zero_()
    factors = {"scale": scale, "reach": scale, "passed_scale": scale}
    add_adjoint(grad, field, field, total, total, padding, passed=grad, **factors)


def _adjoint_of_rk4(
    grad: Tensor, velocity: Tensor, total: Tensor, scale: float, padding: str
) -> None:
    """Of ``scale / 6 (k_1 + 2 k_2 + 2 k_3 + k_4)``, each k sampled where the one before leads.

    The factor comes last: sixths are not exact in a kernel's float32 arguments.
    """
    total.zero_()
    second, third = field_like(velocity), field_like(velocity)
    launch_over_voxels(
        intermediate_velocities_kernel,
        velocity,
        field_of(velocity),
        second,
        third,
        scale,
        touched=(velocity,),
        block=_BLOCK,
        PADDING=padding,
    )
    twice = {"passed": grad, "passed_scale": 2.0}
    grad_third = field_like(velocity)
    add_adjoint(grad, velocity, third, total, grad_third, padding, reach=scale, **twice)
    grad_second = third  # the velocity has served
    add_adjoint(grad_third, velocity, second, total, grad_second, padding, reach=scale / 2, **twice)
    add_adjoint(
        grad_second, velocity, velocity, total, total, padding, reach=scale / 2, passed=grad
    )
    total.mul_(scale / 6)
