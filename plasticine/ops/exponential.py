"""``plasticine.exponential``: the flow of a stationary velocity field after unit time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NoReturn, overload

import torch
from torch import Tensor

from plasticine import backends
from plasticine.ops import _autocast, _checks, _exponential_backends, _words
from plasticine.ops._derivative import Derivative, MaybeTensors
from plasticine.ops._exponential_backends import Flow, stages_like, stored_stages
from plasticine.ops._exponential_steps import steps_for
from plasticine.ops._kernels import contiguous_like
from plasticine.ops._operator import REGISTRY, Operator
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


@_words.checks_inside
def exponential(
    velocity: Tensor,
    *,
    steps: int | Literal["auto"] = 7,
    method: str = "euler",
    padding: str = "border",
    inverse: bool = False,
    checkpoint: str = "store",
    backend: str = "auto",
    **_unknown: NoReturn,
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
    if _unknown:
        _words.refuse(exponential, _unknown)
    _checks.is_tensor(velocity, "velocity")
    _checks.field(velocity, "velocity")
    _checks.one_of(method, "method", _checks.METHODS)
    _checks.one_of(padding, "padding", _checks.PADDINGS)
    _checks.one_of(checkpoint, "checkpoint", _checks.CHECKPOINTS)
    if _autocast.is_any_enabled():
        (velocity,) = _autocast.single(velocity)
    precise = velocity.float() if velocity.element_size() < 4 else velocity
    count = steps_for(precise, steps, method, backend)
    store = checkpoint == "store" and torch.is_grad_enabled() and velocity.requires_grad
    results = EXPONENTIAL(precise, count, method, padding, inverse, store, backend)
    result = results[0].to(velocity.dtype)
    return (result, results[1].to(velocity.dtype)) if inverse else result


def check(velocity: Tensor, steps: int, *_: Any) -> None:
    """Raises unless the arguments are those that the public function passes on."""
    _checks.field(velocity, "velocity")
    if velocity.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"velocity must be float32 or float64 here, got {velocity.dtype}; "
            "plasticine.exponential takes half types"
        )
    _checks.steps_of(steps)


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


def _results(
    velocity: Tensor, steps: int, method: str, padding: str, inverse: bool, store: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """exp(v), exp(-v), and the stages kept for the backward pass."""
    kept = len(stored_stages(steps, method)) if store else 0
    return (
        contiguous_like(velocity),
        contiguous_like(velocity) if inverse else None,
        stages_like(velocity, kept * (1 + inverse)),
    )


def _serve(backend: str) -> Any:
    def serve(
        velocity: Tensor, steps: int, method: str, padding: str, inverse: bool, store: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        kept = stored_stages(steps, method) if store else []
        flow = Flow(velocity, steps, method, padding)
        return _exponential_backends.forward(backend, flow, inverse, kept)

    return serve


def _check_backward(
    grad: Tensor | None,
    grad_inverse: Tensor | None,
    velocity: Tensor,
    stages: Tensor | None,
    steps: int,
    method: str,
    padding: str,
    inverse: bool,
) -> None:
    check(velocity, steps)
    for given in (grad, grad_inverse):
        if given is not None:
            _checks.gradient(given, velocity.shape, velocity)
    if stages is not None:
        expected = ((1 + inverse) * len(stored_stages(steps, method)), *velocity.shape)
        if stages.shape != expected:
            raise ValueError(f"stages must have shape {expected}, got {tuple(stages.shape)}")


def _results_backward(grad: Any, grad_inverse: Any, velocity: Tensor, *_: Any) -> Tensor:
    return contiguous_like(velocity)


def _serve_backward(backend: str) -> Any:
    def serve(
        grad: Tensor | None,
        grad_inverse: Tensor | None,
        velocity: Tensor,
        stages: Tensor | None,
        steps: int,
        method: str,
        padding: str,
        inverse: bool,
    ) -> Tensor:
        """The velocity's gradient from those of exp(v) and exp(-v).

        ``inverse`` says whether the stages, where there are any, are those of both.
        """
        total: Tensor | None = None
        for direction, given in enumerate((grad, grad_inverse)):
            if given is None:
                continue
            own, kept = None, []
            if stages is not None and direction <= inverse:
                kept = stored_stages(steps, method)
                own = stages[direction * len(kept) : (direction + 1) * len(kept)]
            flow = Flow(velocity, steps, method, padding, -1 if direction else 1)
            found = _exponential_backends.backward(backend, given, flow, own, kept)
            total = found if total is None else total.add_(found)
        return velocity.new_zeros(velocity.shape) if total is None else total

    return serve


def _gradients(
    grads: MaybeTensors, saved: MaybeTensors, options: Sequence[Any], needs: Sequence[bool]
) -> MaybeTensors:
    steps, method, padding, inverse, _, backend = options
    grad, grad_inverse = grads[0], grads[1] if inverse else None
    if grad is None and grad_inverse is None:
        return (None,)
    own = steps, method, padding, inverse, backend
    return (EXPONENTIAL_BACKWARD(grad, grad_inverse, *saved, *own),)


def _saved(inputs: Sequence[Any], results: Sequence[Tensor]) -> MaybeTensors:
    return inputs[0], results[2] if results[2].dim() > 1 else None


def _second_gradients(
    cotangents: MaybeTensors, saved: MaybeTensors, options: Sequence[Any], needs: Sequence[bool]
) -> MaybeTensors:
    """Twice through the chain of compositions: its own derivative is not written out."""
    forth, back, velocity = saved
    steps, method, padding, _, backend = options
    given = [(sign, x) for sign, x in ((1.0, forth), (-1.0, back)) if x is not None]

    def pulled_back(velocity: Tensor, *grads: Tensor) -> Tensor:
        def displacements(velocity: Tensor) -> tuple[Tensor, ...]:
            return tuple(
                as_chain(velocity, steps, method, padding, backend, sign=sign) for sign, _ in given
            )

        return torch.func.vjp(displacements, velocity)[1](grads)[0]

    pull = torch.func.vjp(pulled_back, velocity, *(x for _, x in given))[1]
    grad_velocity, *grad_grads = pull(cotangents[0])
    found = iter(grad_grads)
    return (
        None if forth is None else next(found),
        None if back is None else next(found),
        grad_velocity,
        None,
    )


_CHOICES = {"method": _checks.METHODS, "padding": _checks.PADDINGS}

EXPONENTIAL = REGISTRY["exponential"] = Operator(
    "exponential(Tensor velocity, int steps, str method, str padding, bool inverse, bool store)"
    " -> (Tensor, Tensor, Tensor)",
    check=check,
    results=_results,
    derivative=Derivative(_gradients, saved=_saved, constant=(2,)),
    choices=_CHOICES,
    serve={backend: _serve(backend) for backend in backends.BACKENDS},
    result_axes=(0, 0, 1),
)
EXPONENTIAL_BACKWARD = Operator(
    "exponential_backward(Tensor? grad, Tensor? grad_inverse, Tensor velocity, Tensor? stages,"
    " int steps, str method, str padding, bool inverse) -> Tensor",
    check=_check_backward,
    results=_results_backward,
    derivative=Derivative(_second_gradients, saved=lambda inputs, results: inputs[:3]),
    choices=_CHOICES,
    field=2,
    serve={backend: _serve_backward(backend) for backend in backends.BACKENDS},
    held_as="exponential",
    input_axes=(0, 0, 0, 1),
)
