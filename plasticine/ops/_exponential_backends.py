"""``exponential`` on each backend; the arguments have been checked."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops._native_interface import (
    METHOD_CODES,
    PADDING_CODES,
    SHARED_SIZE,
    contiguous_like,
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


def peak(velocity: Tensor, backend: str) -> float:
    """The greatest Euclidean norm of a voxel's velocity; those that are not finite do not count."""
    velocity = _innermost(velocity)
    if backend == "cpu" and type(velocity) in (Tensor, torch.nn.Parameter):
        return backends.NATIVE.exponential_peak(native(velocity), threads_for(velocity))
    norm = torch.linalg.vector_norm(velocity.double(), dim=1)
    norm = torch.where(norm.isfinite(), norm, 0.0)
    return norm.max().item() if norm.numel() else 0.0


def _innermost(x: Tensor) -> Tensor:
    """What torch.func.grad wraps."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def cpu_forward(
    velocity: Tensor, steps: int, method: str, padding: str, inverse: bool, kept: list[int]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """exp(v), exp(-v) if asked for, and the kept stages of the first, then of the second."""
    directions = 2 if inverse else 1
    result = contiguous_like(velocity)
    inverse_result = contiguous_like(velocity) if inverse else None
    stages = stages_like(velocity, directions * len(kept)) if kept else None
    between = steps - first_stage(steps, method) - len(kept)
    scratch = _scratch(velocity, directions if between else 0)
    backends.NATIVE.exponential_forward(
        native(velocity),
        native(result),
        native_or_none(inverse_result),
        native_or_none(stages),
        kept,
        native(scratch),
        0.5**steps,
        steps,
        METHOD_CODES[method],
        PADDING_CODES[padding],
        threads_for(velocity),
    )
    return result, inverse_result, stages


def cpu_resume(
    velocity: Tensor, stages: Tensor, steps: int, method: str, padding: str, kept: list[int]
) -> Tensor:
    """exp(v) from the last of its kept stages on."""
    result = contiguous_like(velocity)
    scratch = _scratch(velocity, 1 if kept[-1] + 1 < steps else 0)
    backends.NATIVE.exponential_resume(
        native(velocity),
        native(result),
        native(stages),
        kept,
        native(scratch),
        steps,
        METHOD_CODES[method],
        PADDING_CODES[padding],
        threads_for(velocity),
    )
    return result


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
    result = contiguous_like(velocity)
    scratch = _scratch(velocity, _scratch_fields(steps, method, len(kept)))
    backends.NATIVE.exponential_backward(
        native(grad),
        native(velocity),
        native_or_none(stages),
        kept,
        native(result),
        native(scratch),
        scale,
        steps,
        METHOD_CODES[method],
        PADDING_CODES[padding],
        threads_for(velocity),
    )
    return result


def _scratch(velocity: Tensor, fields: int) -> Tensor:
    """Uninitialised memory ``(fields, slots, d, *spatial)``: a slot for each sample under way.

    A sample goes through all its passes at once, in the cache. Each thread has one of its own where
    there are enough of them to keep all threads busy, or too few voxels for two threads to share.
    """
    threads = threads_for(velocity)
    samples = max(velocity.shape[0], 1)
    small = velocity.numel() < 4 * SHARED_SIZE * samples
    apart = samples % threads == 0 or samples >= 4 * threads or small
    return velocity.new_empty((fields, min(samples, threads) if apart else 1, *velocity.shape[1:]))


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


FORWARD = {"cpu": cpu_forward, "reference": reference_forward}
RESUME = {"cpu": cpu_resume, "reference": reference_resume}
BACKWARD = {"cpu": cpu_backward, "reference": reference_backward}
