"""``exponential`` on each backend; the arguments have been checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops._exponential_deterministic import deterministic_backward
from plasticine.ops._kernels import (
    SHARED_SIZE,
    call_with_threads,
    contiguous_like,
    contiguous_rows,
    threads_for,
)

# Memory of a forward and backward pass of one displacement, in fields: the result, its gradient,
# the velocity's gradient and a second one in turn with it, and with checkpoint="store" three more.
# Either three displacements are stored, or two, and the others computed again in the third field;
# with "recompute" one of the three is left out.
_STORED = 3
# The adjoint of the Runge-Kutta step works in three fields beside its two gradients: they serve the
# squarings before it, and nothing is stored.
_RK4_SCRATCH = 4


class Flow(NamedTuple):
    """A stationary velocity field and how it is integrated."""

    velocity: Tensor  # (N, d, *spatial)
    steps: int
    method: str
    padding: str
    sign: int = 1  # -1: against the velocity

    @property
    def scale(self) -> float:
        """The time of the first step."""
        return self.sign * 0.5**self.steps

    @property
    def first_stage(self) -> int:
        """The first displacement that needs memory: Euler's ``u_0`` is the scaled velocity."""
        return _first_stage(self.steps, self.method)


def _first_stage(steps: int, method: str) -> int:
    return 1 if method == "euler" and steps > 0 else 0


def stored_stages(steps: int, method: str) -> list[int]:
    """Which ``u_k`` are kept for the backward pass with ``checkpoint="store"``, ascending."""
    if method == "rk4":
        return []
    first = _first_stage(steps, method)
    count = steps - first
    if count <= _STORED:
        return list(range(first, steps))
    # Evenly apart, the longer ways in the end: the last is gone when the first gradient is formed.
    return [first - 1 - (-index * count // _STORED) for index in range(1, _STORED)]


def stages_like(velocity: Tensor, count: int) -> Tensor | None:
    """Uninitialised memory of ``count`` fields; None of none."""
    return velocity.new_empty((count, *velocity.shape)) if count else None


def forward(
    backend: str, flow: Flow, inverse: bool, kept: list[int]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """exp(v), exp(-v) if asked for, and the kept stages of the first, then of the second."""
    if backend == "reference":
        return _define(flow, inverse, kept)
    velocity = flow.velocity
    result = contiguous_like(velocity)
    inverse_result = contiguous_like(velocity) if inverse else None
    directions = 2 if inverse else 1
    stages = stages_like(velocity, directions * len(kept))
    between = flow.steps - flow.first_stage - len(kept)
    arguments = result, inverse_result, (stages, kept)
    scratch = directions if between else 0
    Core(backend, flow).call("exponential_forward", *arguments, scratch=scratch)
    return result, inverse_result, stages


def resume(backend: str, flow: Flow, stages: Tensor, kept: list[int]) -> Tensor:
    """exp(v) from the last of its kept stages on."""
    if backend == "reference":
        u = stages[len(kept) - 1]
        for _ in range(kept[-1], flow.steps):
            u = reference.compose(u, u, flow.padding)
        return u.contiguous()
    result = contiguous_like(flow.velocity)
    scratch = 1 if kept[-1] + 1 < flow.steps else 0
    Core(backend, flow).call("exponential_resume", result, (stages, kept), scratch=scratch)
    return result


def backward(
    backend: str, grad: Tensor, flow: Flow, stages: Tensor | None, kept: list[int]
) -> Tensor:
    """The velocity's gradient of one direction, which the stages are of."""
    if backend == "reference":
        return _define_backward(grad, flow, stages, kept)
    if backend != "cpu" and torch.are_deterministic_algorithms_enabled():
        return _step_by_step(backend, grad, flow)
    result = contiguous_like(flow.velocity)
    arguments = grad, (stages, kept), result
    scratch = _scratch_fields(flow, len(kept))
    Core(backend, flow).call("exponential_backward", *arguments, scratch=scratch)
    return result


class Core:
    """A compiled backend with a flow.

    Attributes:
        flow: as the kernels take it.
    """

    def __init__(self, backend: str, flow: Flow) -> None:
        """Says how many samples are under way at a time, and with how many threads each."""
        velocity = flow.velocity
        samples = velocity.shape[0]
        threads = 1
        if backend == "cpu":
            # A sample goes through all its passes at once, in the cache. Each thread has one of its
            # own where there are enough of them to keep all threads busy, or too few voxels for two
            # threads to share.
            threads = threads_for(velocity)
            samples = max(samples, 1)
            small = velocity.numel() < 4 * SHARED_SIZE * samples
            apart = samples % threads == 0 or samples >= 4 * threads or small
            samples = min(samples, threads) if apart else 1
        else:
            # All samples go through a pass together: it is one launch.
            velocity = contiguous_rows(velocity)
        self._backend = backend
        self._velocity = velocity
        self.flow = velocity, flow.scale, flow.steps, flow.method, flow.padding, threads
        self._slots = samples

    def call(self, kernel: str, *arguments: Any, scratch: int) -> None:
        """Calls a kernel that takes a flow, and so many fields of memory to work in."""
        if self._backend != "triton":  # which has its own
            _, *size = self._velocity.shape
            arguments = *arguments, self._velocity.new_empty((scratch, self._slots, *size))
        call_with_threads(self._backend, kernel, self._velocity, self.flow, *arguments)


def _step_by_step(backend: str, grad: Tensor, flow: Flow) -> Tensor:
    """The same in deterministic mode; all displacements are computed again, and held."""
    if flow.sign < 0:
        return _step_by_step(backend, grad, flow._replace(velocity=-flow.velocity, sign=1)).neg_()
    every = list(range(flow.first_stage, flow.steps))
    stages = forward(backend, flow, False, every)[2] if every else None
    held = [] if stages is None else list(stages)
    if len(held) < flow.steps:  # Euler's u_0 is in no stack
        held.insert(0, flow.velocity * flow.scale)
    return deterministic_backward(
        backend, grad, flow.velocity, held, flow.scale, flow.method, flow.padding
    )


def _scratch_fields(flow: Flow, kept: int) -> int:
    """How many fields the backward pass works in beside the velocity's gradient."""
    if flow.method == "rk4":
        return _RK4_SCRATCH
    stages = flow.steps - flow.first_stage
    # One gradient a stage, and the one to the velocity.
    if kept == stages:
        return min(stages, 1)
    return min(stages, _STORED - 1 if kept else _STORED)


def _define(
    flow: Flow, inverse: bool, kept: list[int]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    results: list[Tensor] = []
    stages: list[Tensor] = []
    for sign in (1, -1) if inverse else (1,):
        scale = sign * flow.scale
        u = reference.first_displacement(flow.velocity, scale, flow.method, flow.padding)
        for step in range(flow.steps):
            if step in kept:
                stages.append(u)
            u = reference.compose(u, u, flow.padding)
        results.append(u.contiguous())
    return results[0], results[1] if inverse else None, torch.stack(stages) if stages else None


def _define_backward(grad: Tensor, flow: Flow, stages: Tensor | None, kept: list[int]) -> Tensor:
    """One squaring after the other, so that one graph is alive."""

    def start(velocity: Tensor) -> Tensor:
        return reference.first_displacement(velocity, flow.scale, flow.method, flow.padding)

    def square(u: Tensor) -> Tensor:
        return reference.compose(u, u, flow.padding)

    held = [] if stages is None else list(zip(kept, stages, strict=True))
    end = flow.steps
    for begin, u in [*reversed(held), (0, None)]:
        if begin == end:
            continue
        between = [start(flow.velocity) if u is None else u]
        for _ in range(begin + 1, end):
            between.append(square(between[-1]))
        for u in reversed(between):
            found = reference.gradients(square, (u,), (True,), grad)[0]
            assert found is not None
            grad = found
        end = begin
    found = reference.gradients(start, (flow.velocity,), (True,), grad)[0]
    assert found is not None
    return found
