"""``exponential`` on each backend; the arguments have been checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops._exponential_deterministic import deterministic_backward
from plasticine.ops._native_interface import (
    METHOD_CODES,
    PADDING_CODES,
    SHARED_SIZE,
    NativeFlow,
    contiguous_like,
    contiguous_rows,
    cuda_launch,
    native,
    native_or_none,
    threads_for,
)
from plasticine.ops._operator import reference_gradients

# Memory of a forward and backward pass of one displacement, in fields: the result, its gradient,
# the velocity's gradient and a second one in turn with it, and with checkpoint="store" three more.
# Either three displacements are stored, or two, and the others computed again in the third field;
# with "recompute" one of the three is left out.
_STORED = 3
# The adjoint of the Runge-Kutta step works in three fields beside its two gradients: they serve the
# squarings before it, and nothing is stored.
_RK4_SCRATCH = 4


def first_stage(steps: int, method: str) -> int:
    """The first displacement that needs memory: Euler's ``u_0`` is the scaled velocity."""
    return 1 if method == "euler" and steps > 0 else 0


def stored_stages(steps: int, method: str) -> list[int]:
    """Which ``u_k`` are kept for the backward pass with ``checkpoint="store"``, ascending."""
    if method == "rk4":
        return []
    first = first_stage(steps, method)
    count = steps - first
    if count <= _STORED:
        return list(range(first, steps))
    # Evenly apart, the longer ways in the end: the last is gone when the first gradient is formed.
    return [first - 1 - (-index * count // _STORED) for index in range(1, _STORED)]


def no_stages(velocity: Tensor) -> Tensor:
    """What stands for stages where none are kept."""
    return velocity.new_empty(0)


def stages_like(velocity: Tensor, count: int) -> Tensor:
    """Uninitialised memory of ``count`` fields."""
    return velocity.new_empty((count, *velocity.shape))


def cpu_forward(
    velocity: Tensor, steps: int, method: str, padding: str, inverse: bool, kept: list[int]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """exp(v), exp(-v) if asked for, and the kept stages of the first, then of the second."""
    return _forward(_cpu(velocity), velocity, steps, method, padding, inverse, kept)


def cpu_resume(
    velocity: Tensor, stages: Tensor, steps: int, method: str, padding: str, kept: list[int]
) -> Tensor:
    """exp(v) from the last of its kept stages on."""
    return _resume(_cpu(velocity), velocity, stages, steps, method, padding, kept)


def cpu_backward(
    grad: Tensor,
    velocity: Tensor,
    stages: Tensor | None,
    scale: float,
    steps: int,
    method: str,
    padding: str,
    kept: list[int],
) -> Tensor:
    """The velocity's gradient of one direction, the sign of ``scale``; stages are its own."""
    options = scale, steps, method, padding, kept
    return _backward(_cpu(velocity), grad, velocity, stages, *options)


def cuda_forward(
    velocity: Tensor, steps: int, method: str, padding: str, inverse: bool, kept: list[int]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As :func:`cpu_forward`."""
    velocity = contiguous_rows(velocity)
    return _forward(_cuda(velocity), velocity, steps, method, padding, inverse, kept)


def cuda_resume(
    velocity: Tensor, stages: Tensor, steps: int, method: str, padding: str, kept: list[int]
) -> Tensor:
    """As :func:`cpu_resume`."""
    return _resume(_cuda(velocity), velocity, stages, steps, method, padding, kept)


def cuda_backward(
    grad: Tensor,
    velocity: Tensor,
    stages: Tensor | None,
    scale: float,
    steps: int,
    method: str,
    padding: str,
    kept: list[int],
) -> Tensor:
    """As :func:`cpu_backward`."""
    if torch.are_deterministic_algorithms_enabled():
        return _step_by_step("cuda", grad, velocity, scale, steps, method, padding)
    velocity = contiguous_rows(velocity)
    options = scale, steps, method, padding, kept
    return _backward(_cuda(velocity), grad, velocity, stages, *options)


def triton_forward(
    velocity: Tensor, steps: int, method: str, padding: str, inverse: bool, kept: list[int]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As :func:`cpu_forward`."""
    result = contiguous_like(velocity)
    inverse_result = contiguous_like(velocity) if inverse else None
    stages = stages_like(velocity, (2 if inverse else 1) * len(kept)) if kept else None
    serve = backends.triton_kernels("exponential")[0].exponential_forward
    results = result, inverse_result, stages
    serve(velocity, *results, 0.5**steps, steps, method, padding, kept)
    return results


def triton_resume(
    velocity: Tensor, stages: Tensor, steps: int, method: str, padding: str, kept: list[int]
) -> Tensor:
    """As :func:`cpu_resume`."""
    result = contiguous_like(velocity)
    serve = backends.triton_kernels("exponential")[0].exponential_resume
    serve(velocity, stages, result, 0.5**steps, steps, method, padding, kept)
    return result


def triton_backward(
    grad: Tensor,
    velocity: Tensor,
    stages: Tensor | None,
    scale: float,
    steps: int,
    method: str,
    padding: str,
    kept: list[int],
) -> Tensor:
    """As :func:`cpu_backward`."""
    if torch.are_deterministic_algorithms_enabled():
        return _step_by_step("triton", grad, velocity, scale, steps, method, padding)
    result = contiguous_like(velocity)
    serve = backends.triton_kernels("exponential")[0].exponential_backward
    serve(grad, velocity, stages, result, scale, steps, method, padding, kept)
    return result


class _Core(NamedTuple):
    """A compiled module, and how a velocity is given to it."""

    module: Any
    threads: int  # of a CPU
    where: tuple[int, ...]  # what its functions end with: device and stream of a GPU
    slots: int  # how many samples are under way at a time, each in scratch of its own


def _cpu(velocity: Tensor) -> _Core:
    """A sample goes through all its passes at once, in the cache.

    Each thread has one of its own where there are enough of them to keep all threads busy, or too
    few voxels for two threads to share.
    """
    threads = threads_for(velocity)
    samples = max(velocity.shape[0], 1)
    small = velocity.numel() < 4 * SHARED_SIZE * samples
    apart = samples % threads == 0 or samples >= 4 * threads or small
    return _Core(backends.NATIVE, threads, (), min(samples, threads) if apart else 1)


def _cuda(velocity: Tensor) -> _Core:
    """All samples go through a pass together: it is one launch."""
    return _Core(backends.CUDA, 1, cuda_launch(velocity), velocity.shape[0])


def native_flow(
    velocity: Tensor, scale: float, steps: int, method: str, padding: str, threads: int
) -> NativeFlow:
    """A flow as the native functions take it."""
    return native(velocity), scale, steps, METHOD_CODES[method], PADDING_CODES[padding], threads


def _scratch(velocity: Tensor, core: _Core, fields: int) -> Tensor:
    """Uninitialised memory ``(fields, slots, d, *spatial)``."""
    return velocity.new_empty((fields, core.slots, *velocity.shape[1:]))


def _forward(
    core: _Core,
    velocity: Tensor,
    steps: int,
    method: str,
    padding: str,
    inverse: bool,
    kept: list[int],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    directions = 2 if inverse else 1
    result = contiguous_like(velocity)
    inverse_result = contiguous_like(velocity) if inverse else None
    stages = stages_like(velocity, directions * len(kept)) if kept else None
    between = steps - first_stage(steps, method) - len(kept)
    scratch = _scratch(velocity, core, directions if between else 0)
    core.module.exponential_forward(
        native_flow(velocity, 0.5**steps, steps, method, padding, core.threads),
        native(result),
        native_or_none(inverse_result),
        (native_or_none(stages), kept),
        native(scratch),
        *core.where,
    )
    return result, inverse_result, stages


def _resume(
    core: _Core,
    velocity: Tensor,
    stages: Tensor,
    steps: int,
    method: str,
    padding: str,
    kept: list[int],
) -> Tensor:
    result = contiguous_like(velocity)
    scratch = _scratch(velocity, core, 1 if kept[-1] + 1 < steps else 0)
    core.module.exponential_resume(
        native_flow(velocity, 1.0, steps, method, padding, core.threads),
        native(result),
        (native(stages), kept),
        native(scratch),
        *core.where,
    )
    return result


def _backward(
    core: _Core,
    grad: Tensor,
    velocity: Tensor,
    stages: Tensor | None,
    scale: float,
    steps: int,
    method: str,
    padding: str,
    kept: list[int],
) -> Tensor:
    result = contiguous_like(velocity)
    scratch = _scratch(velocity, core, _scratch_fields(steps, method, len(kept)))
    core.module.exponential_backward(
        native_flow(velocity, scale, steps, method, padding, core.threads),
        native(grad),
        (native_or_none(stages), kept),
        native(result),
        native(scratch),
        *core.where,
    )
    return result


def _step_by_step(
    backend: str,
    grad: Tensor,
    velocity: Tensor,
    scale: float,
    steps: int,
    method: str,
    padding: str,
) -> Tensor:
    """The same in deterministic mode; all displacements are computed again, and held."""
    if scale < 0:
        backwards = -velocity, -scale, steps, method, padding
        return _step_by_step(backend, grad, *backwards).neg_()
    every = list(range(first_stage(steps, method), steps))
    forward = FORWARD[backend]
    stages = forward(velocity, steps, method, padding, False, every)[2] if every else None
    held = [] if stages is None else list(stages)
    if len(held) < steps:  # Euler's u_0 is in no stack
        held.insert(0, velocity * scale)
    return deterministic_backward(backend, grad, velocity, held, scale, method, padding)


def _scratch_fields(steps: int, method: str, kept: int) -> int:
    """How many fields the backward pass works in beside the velocity's gradient."""
    if method == "rk4":
        return _RK4_SCRATCH
    stages = steps - first_stage(steps, method)
    # One gradient a stage, and the one to the velocity.
    if kept == stages:
        return min(stages, 1)
    return min(stages, _STORED - 1 if kept else _STORED)


def reference_forward(
    velocity: Tensor, steps: int, method: str, padding: str, inverse: bool, kept: list[int]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As :func:`cpu_forward`."""
    results: list[Tensor] = []
    stages: list[Tensor] = []
    for sign in (1, -1) if inverse else (1,):
        u = reference.first_displacement(velocity, sign * 0.5**steps, method, padding)
        for step in range(steps):
            if step in kept:
                stages.append(u)
            u = reference.compose(u, u, padding)
        results.append(u.contiguous())
    return results[0], results[1] if inverse else None, torch.stack(stages) if stages else None


def reference_resume(
    velocity: Tensor, stages: Tensor, steps: int, method: str, padding: str, kept: list[int]
) -> Tensor:
    """As :func:`cpu_resume`."""
    u = stages[len(kept) - 1]
    for _ in range(kept[-1], steps):
        u = reference.compose(u, u, padding)
    return u.contiguous()


def reference_backward(
    grad: Tensor,
    velocity: Tensor,
    stages: Tensor | None,
    scale: float,
    steps: int,
    method: str,
    padding: str,
    kept: list[int],
) -> Tensor:
    """As :func:`cpu_backward`: one squaring after the other, so that one graph is alive."""

    def start(velocity: Tensor) -> Tensor:
        return reference.first_displacement(velocity, scale, method, padding)

    def square(u: Tensor) -> Tensor:
        return reference.compose(u, u, padding)

    held = [] if stages is None else list(zip(kept, stages, strict=True))
    end = steps
    for begin, u in [*reversed(held), (0, None)]:
        if begin == end:
            continue
        between = [start(velocity) if u is None else u]
        for _ in range(begin + 1, end):
            between.append(square(between[-1]))
        for u in reversed(between):
            found = reference_gradients(square, (u,), (True,), grad)[0]
            assert found is not None
            grad = found
        end = begin
    found = reference_gradients(start, (velocity,), (True,), grad)[0]
    assert found is not None
    return found


FORWARD = {
    "cpu": cpu_forward,
    "cuda": cuda_forward,
    "triton": triton_forward,
    "reference": reference_forward,
}
RESUME = {
    "cpu": cpu_resume,
    "cuda": cuda_resume,
    "triton": triton_resume,
    "reference": reference_resume,
}
BACKWARD = {
    "cpu": cpu_backward,
    "cuda": cuda_backward,
    "triton": triton_backward,
    "reference": reference_backward,
}
