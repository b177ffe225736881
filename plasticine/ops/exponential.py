"""``plasticine.exponential``: the flow of a stationary velocity field after unit time."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops import _autocast, _checks
from plasticine.ops._native_interface import (
    PADDING_CODES,
    contiguous_like,
    device_type,
    native,
    native_or_none,
    threads_for,
)
from plasticine.ops._operator import Operator, not_twice_differentiable, reference_gradients


@overload
def exponential(
    velocity: Tensor,
    *,
    steps: int = ...,
    method: str = ...,
    padding: str = ...,
    inverse: Literal[False] = ...,
    checkpoint: str = ...,
    backend: str = ...,
) -> Tensor: ...


@overload
def exponential(
    velocity: Tensor,
    *,
    steps: int = ...,
    method: str = ...,
    padding: str = ...,
    inverse: Literal[True],
    checkpoint: str = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def exponential(
    velocity: Tensor,
    *,
    steps: int = ...,
    method: str = ...,
    padding: str = ...,
    inverse: bool = ...,
    checkpoint: str = ...,
    backend: str = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...


def exponential(
    velocity: Tensor,
    *,
    steps: int = 7,
    method: str = "euler",
    padding: str = "border",
    inverse: bool = False,
    checkpoint: str = "store",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The displacement of the diffeomorphism that a stationary velocity field generates.

    Scaling and squaring (Arsigny et al., "A log-Euclidean framework for statistics on
    diffeomorphisms", MICCAI 2006): ``u_0 = v / 2**steps``, then ``steps`` times
    ``u <- u o (id + u) + u``.

    Args:
        velocity: ``(N, d, *spatial)`` in voxels, 2D or 3D, float32, float64, float16 or bfloat16.
            Half types are integrated in float32 and rounded once (under ``torch.autocast`` not
            rounded: the result is float32).
        steps: number of squarings, 0 or more.
        method: how the scaled field is turned into the first displacement: "euler".
        padding: how the field continues outside its grid: "border", "zeros" or "reflection".
            Projects disagree here, and by voxels: MONAI, VoxelMorph and FireANTs use zeros.
        inverse: also return ``exp(-v)``, the inverse transform.
        checkpoint: what autograd keeps for the backward pass: "store" the ``steps`` intermediate
            displacements, "recompute" only the velocity.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Returns:
        The displacement ``(N, d, *spatial)`` in the dtype of the velocity, or with ``inverse`` the
        pair of ``exp(v)`` and ``exp(-v)``. Differentiable once.

    Raises:
        TypeError: ``velocity`` is no tensor or of a dtype that is not served, ``steps`` is no int.
        ValueError: a shape or an option is not one of those above.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    _checks.is_tensor(velocity, "velocity")
    _checks.field(velocity, "velocity")
    steps = _checks.steps_of(steps)
    _checks.one_of(method, "method", _checks.METHODS)
    _checks.one_of(padding, "padding", _checks.PADDINGS)
    _checks.one_of(checkpoint, "checkpoint", _checks.CHECKPOINTS)
    if _autocast.is_any_enabled():
        velocity = _autocast.single(velocity)
    precise = velocity.float() if velocity.element_size() < 4 else velocity
    scales = (0.5**steps, -(0.5**steps)) if inverse else (0.5**steps,)
    store = checkpoint == "store" and torch.is_grad_enabled() and velocity.requires_grad
    results = [
        EXPONENTIAL(precise, scale, steps, padding, store, backend)[0].to(velocity.dtype)
        for scale in scales
    ]
    return (results[0], results[1]) if inverse else results[0]


def check(velocity: Tensor, steps: int, padding: str) -> None:
    """Raises unless the arguments are those that the public function passes on."""
    _checks.field(velocity, "velocity")
    if velocity.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"velocity must be float32 or float64 here, got {velocity.dtype}; "
            "plasticine.exponential takes half types"
        )
    _checks.steps_of(steps)
    _checks.one_of(padding, "padding", _checks.PADDINGS)


def _forward(
    velocity: Tensor, scale: float, steps: int, padding: str, store: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """The displacement, and the fields that were squared ``(steps, N, d, *spatial)`` if stored."""
    check(velocity, steps, padding)
    served = backends.choose(backend, "exponential", device_type(velocity))
    if served == "cpu":
        return _cpu_forward(velocity, scale, steps, padding, store)
    result, stages = reference.exponential(velocity, scale, steps, padding)
    kept = torch.stack(stages) if store and steps else _no_stages(velocity)
    return result.contiguous(), kept


def _forward_fake(
    velocity: Tensor, scale: float, steps: int, padding: str, store: bool, backend: str
) -> tuple[Tensor, Tensor]:
    check(velocity, steps, padding)
    stages = _stages_like(velocity, steps) if store and steps else _no_stages(velocity)
    return velocity.new_empty(velocity.shape), stages


def _no_stages(velocity: Tensor) -> Tensor:
    return velocity.new_empty(0)


def _stages_like(velocity: Tensor, steps: int) -> Tensor:
    return velocity.new_empty((steps, *velocity.shape))


def _backward(
    grad: Tensor,
    velocity: Tensor | None,
    stages: Tensor | None,
    scale: float,
    steps: int,
    padding: str,
    backend: str,
) -> Tensor:
    """The velocity's gradient, from the stages or, recomputed, from the velocity."""
    check(grad, steps, padding)
    if velocity is not None:
        check(velocity, steps, padding)
        _checks.gradient(grad, velocity.shape, velocity)
    elif stages is None or stages.shape != (steps, *grad.shape):
        got = None if stages is None else tuple(stages.shape)
        raise ValueError(
            f"stages must have shape {(steps, *grad.shape)} where velocity is None, got {got}"
        )
    else:
        _checks.gradient(grad, stages.shape[1:], stages)
    served = backends.choose(backend, "exponential", device_type(grad))
    backward = _cpu_backward if served == "cpu" else _reference_backward
    return backward(grad, velocity, stages, scale, steps, padding)


def _backward_fake(
    grad: Tensor,
    velocity: Tensor | None,
    stages: Tensor | None,
    scale: float,
    steps: int,
    padding: str,
    backend: str,
) -> Tensor:
    return grad.new_empty(grad.shape)


class _Exponential(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        velocity, scale, steps, padding, _, backend, _ = inputs
        stages = output[1]
        stored = stages.dim() > 1
        ctx.mark_non_differentiable(stages)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(None if stored else velocity, stages if stored else None)
        ctx.options = scale, steps, padding, backend

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        velocity = None
        if grad is not None:
            velocity = EXPONENTIAL_BACKWARD(grad, *ctx.saved_tensors, *ctx.options)
        return velocity, None, None, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        velocity, *options, execute = arguments
        velocity = velocity.movedim(in_dims[0], 0)
        result, stages = execute(velocity.flatten(0, 1), *options)
        size = info.batch_size
        if stages.dim() == 1:
            return (result.unflatten(0, (size, -1)), stages), (0, None)
        return (result.unflatten(0, (size, -1)), stages.unflatten(1, (size, -1))), (0, 1)


class _ExponentialBackward(not_twice_differentiable("exponential", 3)):  # type: ignore[misc]
    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        size = info.batch_size

        def fold(x: Tensor | None, axis: int | None, batch: int) -> Tensor | None:
            if x is None:
                return None
            x = (
                x.unsqueeze(batch).expand(*x.shape[:batch], size, *x.shape[batch:])
                if (axis is None)
                else x.movedim(axis, batch)
            )
            return x.flatten(batch, batch + 1)

        grad, velocity, stages, *options, execute = arguments
        result = execute(
            fold(grad, in_dims[0], 0),
            fold(velocity, in_dims[1], 0),
            fold(stages, in_dims[2], 1),
            *options,
        )
        return result.unflatten(0, (size, -1)), 0


EXPONENTIAL = Operator(
    "exponential(Tensor velocity, float scale, int steps, str padding, bool store, str backend)"
    " -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
    _Exponential,
    tensors=1,
)
EXPONENTIAL_BACKWARD = Operator(
    "exponential_backward(Tensor grad, Tensor? velocity, Tensor? stages, float scale, int steps,"
    " str padding, str backend) -> Tensor",
    _backward,
    _backward_fake,
    _ExponentialBackward,
    tensors=3,
)


def _cpu_forward(
    velocity: Tensor, scale: float, steps: int, padding: str, store: bool
) -> tuple[Tensor, Tensor]:
    result = contiguous_like(velocity)
    stages = _stages_like(velocity, steps) if store and steps else None
    # The fields alternate between this one and the result.
    scratch = _stages_like(velocity, 1) if stages is None and steps > 1 else None
    backends.NATIVE.exponential_forward(
        native(velocity),
        native(result),
        native_or_none(stages),
        native_or_none(scratch),
        scale,
        steps,
        PADDING_CODES[padding],
        threads_for(velocity),
    )
    return result, _no_stages(velocity) if stages is None else stages


def _cpu_backward(
    grad: Tensor,
    velocity: Tensor | None,
    stages: Tensor | None,
    scale: float,
    steps: int,
    padding: str,
) -> Tensor:
    if stages is None:
        assert velocity is not None
        stages = _cpu_forward(velocity, scale, steps, padding, store=True)[1]
    result = contiguous_like(grad)
    scratch = _stages_like(grad, 1)
    backends.NATIVE.exponential_backward(
        native(grad),
        native(stages),
        native(result),
        native(scratch),
        scale,
        steps,
        PADDING_CODES[padding],
        threads_for(grad),
    )
    return result


def _reference_backward(
    grad: Tensor,
    velocity: Tensor | None,
    stages: Tensor | None,
    scale: float,
    steps: int,
    padding: str,
) -> Tensor:
    """One squaring after the other, so that the graph of only one is alive."""
    if stages is None:
        assert velocity is not None
        stages = _forward(velocity, scale, steps, padding, True, "reference")[1]

    def square(u: Tensor) -> Tensor:
        return reference.compose(u, u, padding)

    for step in reversed(range(steps)):
        found = reference_gradients(square, (stages[step],), (True,), grad)[0]
        assert found is not None
        grad = found
    return (grad * scale).contiguous()
