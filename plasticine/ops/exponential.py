"""``plasticine.exponential``: the flow of a stationary velocity field after unit time."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from plasticine import backends
from plasticine.ops import _autocast, _checks
from plasticine.ops._exponential_backends import (
    BACKWARD,
    FORWARD,
    no_stages,
    stages_like,
    stored_stages,
)
from plasticine.ops._exponential_steps import steps_for
from plasticine.ops._native_interface import device_type
from plasticine.ops._operator import Operator, fold_batch
from plasticine.ops.compose import compose
from plasticine.ops.warp import warp


@overload
def exponential(
    velocity: Tensor,
    *,
    steps: int | Literal["auto"] = ...,
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
    steps: int | Literal["auto"] = ...,
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
    steps: int | Literal["auto"] = ...,
    method: str = ...,
    padding: str = ...,
    inverse: bool = ...,
    checkpoint: str = ...,
    backend: str = ...,
) -> Tensor | tuple[Tensor, Tensor]: ...


def exponential(
    velocity: Tensor,
    *,
    steps: int | Literal["auto"] = 7,
    method: str = "euler",
    padding: str = "border",
    inverse: bool = False,
    checkpoint: str = "store",
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The displacement of the diffeomorphism that a stationary velocity field generates.

    Scaling and squaring (Arsigny et al., "A log-Euclidean framework for statistics on
    diffeomorphisms", MICCAI 2006): ``u_0`` is one Runge-Kutta step over ``h = 2**-steps`` of the
    time, then ``steps`` times ``u <- u o (id + u) + u``. What each method and number of squarings
    gives and costs is in ``docs/exponential.md``.

    Args:
        velocity: ``(N, d, *spatial)`` in voxels, 2D or 3D, float32, float64, float16 or bfloat16.
            Half types are integrated in float32 and rounded once (under ``torch.autocast`` not
            rounded: the result is float32).
        steps: number of squarings, 0 or more; or "auto": as many as the method needs for the
            greatest speed in the whole batch, voxels with NaN or an infinity left aside. The speed
            is read on the host: on a GPU this waits for it, ``torch.compile`` breaks the graph
            there (an error with ``fullgraph=True``), and ``torch.vmap`` is refused.
        method: how ``u_0`` is formed from the velocity, interpolated linearly between voxels:
            "euler" ``h v(p)``, "midpoint" ``h v(p + h/2 v(p))`` or "rk4", the classical step of
            fourth order.
        padding: how the field continues outside its grid: "border", "zeros" or "reflection".
            Projects disagree here, and by voxels: MONAI, VoxelMorph and FireANTs use zeros.
        inverse: also return ``exp(-v)``, the inverse transform; the velocity is read once for both.
        checkpoint: what autograd keeps for the backward pass beside the velocity: "store" up to
            three displacements on the way ("rk4": none), "recompute" nothing. The others are
            computed again; the results are the same bits, those of a gradient on a GPU up to the
            order of its atomics. A forward and backward pass holds seven fields at most at a time,
            or six, beside the velocity, the result and both gradients among them; more where
            deterministic algorithms are asked for on a GPU.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Returns:
        The displacement ``(N, d, *spatial)`` in the dtype of the velocity, or with ``inverse`` the
        pair of ``exp(v)`` and ``exp(-v)``. Differentiable twice.

    Raises:
        TypeError: ``velocity`` is no tensor or of a dtype that is not served, ``steps`` is neither
            an int nor "auto".
        ValueError: a shape or an option is not one of those above.
        RuntimeError: the backend asked for by name is missing or cannot serve the call; ``steps``
            is "auto" under ``torch.vmap``.
    """
    _checks.is_tensor(velocity, "velocity")
    _checks.field(velocity, "velocity")
    _checks.one_of(method, "method", _checks.METHODS)
    _checks.one_of(padding, "padding", _checks.PADDINGS)
    _checks.one_of(checkpoint, "checkpoint", _checks.CHECKPOINTS)
    if _autocast.is_any_enabled():
        velocity = _autocast.single(velocity)
    precise = velocity.float() if velocity.element_size() < 4 else velocity
    count = steps_for(precise, steps, method, backend)
    store = checkpoint == "store" and torch.is_grad_enabled() and velocity.requires_grad
    results = EXPONENTIAL(precise, count, method, padding, inverse, store, backend)
    result = results[0].to(velocity.dtype)
    return (result, results[1].to(velocity.dtype)) if inverse else result


def check(velocity: Tensor, steps: int, method: str, padding: str) -> None:
    """Raises unless the arguments are those that the public function passes on."""
    _checks.field(velocity, "velocity")
    if velocity.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"velocity must be float32 or float64 here, got {velocity.dtype}; "
            "plasticine.exponential takes half types"
        )
    _checks.steps_of(steps)
    _checks.one_of(method, "method", _checks.METHODS)
    _checks.one_of(padding, "padding", _checks.PADDINGS)


def as_chain(
    velocity: Tensor, steps: int, method: str, padding: str, backend: str, *, sign: float = 1.0
) -> Tensor:
    """exp(sign v) with an operator for each step, so that autograd can differentiate it again.

    Args:
        velocity: ``(N, d, *spatial)`` in voxels, float32 or float64.
        steps: number of squarings.
        method: "euler", "midpoint" or "rk4".
        padding: how the field continues outside its grid.
        backend: which backend serves the warps and compositions.
        sign: -1 for the inverse.

    Returns:
        The displacement ``(N, d, *spatial)``.
    """
    scale = sign * 0.5**steps

    def at(displacement: Tensor) -> Tensor:
        return warp(velocity, displacement, padding=padding, backend=backend)

    u = velocity * scale
    if method != "euler":
        second = at(velocity * (scale / 2))
        u = second * scale
        if method == "rk4":
            third = at(second * (scale / 2))
            fourth = at(third * scale)
            u = (velocity + 2 * second + 2 * third + fourth) * (scale / 6)
    for _ in range(steps):
        u = compose(u, u, padding=padding, backend=backend)
    return u


def _forward(
    velocity: Tensor,
    steps: int,
    method: str,
    padding: str,
    inverse: bool,
    store: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """exp(v), exp(-v), and the stages kept for the backward pass; empty where not asked for."""
    check(velocity, steps, method, padding)
    serve = FORWARD[backends.choose(backend, "exponential", device_type(velocity))]
    kept = stored_stages(steps, method) if store else []
    result, inverse_result, stages = serve(velocity, steps, method, padding, inverse, kept)
    return (
        result,
        velocity.new_empty(0) if inverse_result is None else inverse_result,
        no_stages(velocity) if stages is None else stages,
    )


def _forward_fake(
    velocity: Tensor,
    steps: int,
    method: str,
    padding: str,
    inverse: bool,
    store: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    check(velocity, steps, method, padding)
    kept = len(stored_stages(steps, method)) if store else 0
    return (
        velocity.new_empty(velocity.shape),
        velocity.new_empty(velocity.shape if inverse else 0),
        stages_like(velocity, kept * (1 + inverse)) if kept else no_stages(velocity),
    )


def _backward(
    grad: Tensor | None,
    grad_inverse: Tensor | None,
    velocity: Tensor,
    stages: Tensor | None,
    steps: int,
    method: str,
    padding: str,
    inverse: bool,
    backend: str,
) -> Tensor:
    """The velocity's gradient from those of exp(v) and exp(-v).

    ``inverse`` says whether the stages, where there are any, are those of both.
    """
    check(velocity, steps, method, padding)
    kept = [] if stages is None else stored_stages(steps, method)
    directions = 2 if inverse else 1
    if stages is not None and stages.shape != (directions * len(kept), *velocity.shape):
        raise ValueError(
            f"stages must have shape {(directions * len(kept), *velocity.shape)}, "
            f"got {tuple(stages.shape)}"
        )
    serve = BACKWARD[backends.choose(backend, "exponential", device_type(velocity))]
    total: Tensor | None = None
    for direction, (sign, given) in enumerate(((1.0, grad), (-1.0, grad_inverse))):
        if given is None:
            continue
        _checks.gradient(given, velocity.shape, velocity)
        own = None
        if stages is not None and direction < directions:
            own = stages[direction * len(kept) : (direction + 1) * len(kept)]
        found = serve(
            given,
            velocity,
            own,
            sign * 0.5**steps,
            steps,
            method,
            padding,
            [] if own is None else kept,
        )
        total = found if total is None else total.add_(found)
    return velocity.new_zeros(velocity.shape) if total is None else total


def _backward_fake(
    grad: Tensor | None,
    grad_inverse: Tensor | None,
    velocity: Tensor,
    *options: Any,
) -> Tensor:
    return velocity.new_empty(velocity.shape)


class _Exponential(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        velocity, steps, method, padding, inverse, _, backend, _ = inputs
        _, inverse_result, stages = output
        ctx.mark_non_differentiable(*((stages,) if inverse else (inverse_result, stages)))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(velocity, stages if stages.dim() > 1 else None)
        ctx.options = steps, method, padding, inverse, backend

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_inverse: Tensor | None, _: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        velocity = None
        if not ctx.options[3]:
            grad_inverse = None
        if grad is not None or grad_inverse is not None:
            velocity = EXPONENTIAL_BACKWARD(grad, grad_inverse, *ctx.saved_tensors, *ctx.options)
        return (velocity, *[None] * 7)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        velocity, *options, execute = arguments
        velocity = velocity.movedim(in_dims[0], 0)
        results = execute(velocity.flatten(0, 1), *options)
        unfolded: list[Tensor] = []
        out_dims: list[int | None] = []
        for x, batch in zip(results, (0, 0, 1), strict=True):
            unfolded.append(x if x.dim() == 1 else x.unflatten(batch, (info.batch_size, -1)))
            out_dims.append(None if x.dim() == 1 else batch)
        return tuple(unfolded), tuple(out_dims)


class _ExponentialBackward(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, grad_inverse, velocity, _, steps, method, padding, _, backend, _ = inputs
        ctx.save_for_backward(grad, grad_inverse, velocity)
        ctx.options = steps, method, padding, backend

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Twice through the chain of compositions: its own derivative is not written out."""
        forth, back, velocity = ctx.saved_tensors
        given = [(sign, x) for sign, x in ((1.0, forth), (-1.0, back)) if x is not None]

        def pulled_back(velocity: Tensor, *grads: Tensor) -> Tensor:
            def displacements(velocity: Tensor) -> tuple[Tensor, ...]:
                return tuple(as_chain(velocity, *ctx.options, sign=sign) for sign, _ in given)

            return torch.func.vjp(displacements, velocity)[1](grads)[0]

        pull = torch.func.vjp(pulled_back, velocity, *(x for _, x in given))[1]
        grad_velocity, *grad_grads = pull(grad)
        found = iter(grad_grads)
        return (
            None if forth is None else next(found),
            None if back is None else next(found),
            grad_velocity,
            *[None] * 7,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        *tensors, steps, method, padding, inverse, backend, execute = arguments
        folded = [
            fold_batch(info, x, axis, batch)
            for x, axis, batch in zip(tensors, in_dims[:4], (0, 0, 0, 1), strict=True)
        ]
        result = execute(*folded, steps, method, padding, inverse, backend)
        return result.unflatten(0, (info.batch_size, -1)), 0


EXPONENTIAL = Operator(
    "exponential(Tensor velocity, int steps, str method, str padding, bool inverse, bool store,"
    " str backend) -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
    _Exponential,
    tensors=1,
)
EXPONENTIAL_BACKWARD = Operator(
    "exponential_backward(Tensor? grad, Tensor? grad_inverse, Tensor velocity, Tensor? stages,"
    " int steps, str method, str padding, bool inverse, str backend) -> Tensor",
    _backward,
    _backward_fake,
    _ExponentialBackward,
    tensors=4,
)
