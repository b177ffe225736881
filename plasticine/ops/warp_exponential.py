"""``plasticine.warp_exponential``: warp an image by the flow of a velocity field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from plasticine import backends
from plasticine.ops import _autocast, _checks, _exponential_backends, _words
from plasticine.ops._derivative import Derivative, MaybeTensors
from plasticine.ops._exponential_backends import Core, Flow, stages_like, stored_stages
from plasticine.ops._exponential_steps import steps_for
from plasticine.ops._kernels import (
    Kernel,
    broadcast_batch,
    call_with_threads,
    gradients_like,
    spans_32_bits,
)
from plasticine.ops._operator import REGISTRY, Operator
from plasticine.ops.exponential import as_chain
from plasticine.ops.warp import WARP, WARP_BACKWARD, warp

_MODES = ("linear", "nearest")


@_words.checks_inside
def warp_exponential(
    image: Tensor,
    velocity: Tensor,
    *,
    steps: int | Literal["auto"] = 7,
    method: str = "euler",
    mode: str = "linear",
    padding: str = "border",
    field_padding: str = "border",
    checkpoint: str = "store",
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Tensor:
    """``warp(image, exponential(velocity))``, the last squaring and the warp in one pass.

    The displacement itself is used block by block as it is formed and is never in memory; only the
    backward pass holds it for a while. Where it is wanted too, call
    :func:`plasticine.exponential` and :func:`plasticine.warp`.

    Args:
        image: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16; any strides.
        velocity: ``(N, d, *output_spatial)`` in voxels. It sets the size of the result, which may
            differ from the image's. Of the image's dtype, or float32 with a half image; half
            velocities are integrated in float32 and the displacement is not rounded.
        steps: number of squarings, or "auto"; see :func:`plasticine.exponential`.
        method: "euler", "midpoint" or "rk4"; see there.
        mode: "linear", or "nearest" (ties to even; no gradient to the velocity).
        padding: how the image continues outside: "zeros", "border" or "reflection".
        field_padding: how the velocity and its displacements do.
        checkpoint: "store" or "recompute": what autograd keeps beside image and velocity; see
            :func:`plasticine.exponential`.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Either tensor may have a batch of 1 where the other has N.

    Returns:
        ``(N, C, *output_spatial)`` in the image's dtype. Differentiable with respect to both, twice
        where :func:`plasticine.warp` is.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served; ``steps`` is neither
            an int nor "auto".
        ValueError: shapes, devices or options do not fit.
        RuntimeError: the backend asked for by name is missing or cannot serve the call; ``steps``
            is "auto" under ``torch.vmap``.
    """
    if _unknown:
        _words.refuse(warp_exponential, _unknown)
    _checks.is_tensor(image, "image")
    _checks.is_tensor(velocity, "velocity")
    _checks.one_of(method, "method", _checks.METHODS)
    _checks.one_of(checkpoint, "checkpoint", _checks.CHECKPOINTS)
    if _autocast.is_any_enabled():
        image, velocity, _ = _autocast.widest(image, velocity, None)
    if image.shape[0] != velocity.shape[0]:
        image, velocity = broadcast_batch(image, velocity)
    _check_pair(image, velocity)
    precise = velocity.float() if velocity.element_size() < 4 else velocity
    count = steps_for(precise, steps, method, backend)
    store = checkpoint == "store" and torch.is_grad_enabled() and velocity.requires_grad
    options = count, method, mode, padding, field_padding, store, backend
    return WARP_EXPONENTIAL(image, precise, *options)[0]


def _check_pair(image: Tensor, velocity: Tensor) -> None:
    _checks.image_and_displacement(image, velocity, "velocity")


def check(image: Tensor, velocity: Tensor, steps: int, *_: Any) -> None:
    """Raises unless the arguments are those that the public function passes on."""
    _check_pair(image, velocity)
    if velocity.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"velocity must be float32 or float64 here, got {velocity.dtype}; "
            "plasticine.warp_exponential takes half types"
        )
    _checks.steps_of(steps)


def _results(
    image: Tensor,
    velocity: Tensor,
    steps: int,
    method: str,
    mode: str,
    padding: str,
    field_padding: str,
    store: bool,
) -> tuple[Tensor, Tensor | None]:
    """The warped image, and the stages kept for the backward pass."""
    kept = len(stored_stages(steps, method)) if store else 0
    return (
        image.new_empty(image.shape[:2] + velocity.shape[2:]),
        stages_like(velocity, kept),
    )


def _serve(backend: str) -> Kernel:
    def serve(
        image: Tensor,
        velocity: Tensor,
        steps: int,
        method: str,
        mode: str,
        padding: str,
        field_padding: str,
        store: bool,
    ) -> tuple[Tensor, Tensor | None]:
        flow = Flow(velocity, steps, method, field_padding)
        kept = stored_stages(steps, method) if store else []
        if not _is_fused(backend, image, flow):
            displacement, _, stages = _exponential_backends.forward(backend, flow, False, kept)
            return WARP.serve[backend](image, displacement, None, mode, padding), stages
        options = steps, method, mode, padding, field_padding, store
        result, stages = _results(image, velocity, *options)
        arguments: tuple[Any, ...] = image, Core(backend, flow).flow, result, (stages, kept)
        if backend != "triton":  # which has memory of its own
            # All displacements but the last are in memory, two at a time, in turn.
            between = steps - flow.first_stage - len(kept)
            arguments = *arguments, stages_like(velocity, min(between, 2))
        kernel = "warp_exponential_forward"
        call_with_threads(backend, kernel, velocity, *arguments, mode, padding)
        return result, stages

    return serve


def _is_fused(backend: str, image: Tensor, flow: Flow) -> bool:
    """Whether a kernel is compiled that warps as it integrates."""
    if backend != "cuda":
        return backend != "reference"
    is_composed = flow.steps > 0 or flow.method == "midpoint"
    is_narrow = spans_32_bits(image) and spans_32_bits(flow.velocity)
    return is_composed and is_narrow and flow.velocity.dtype == torch.float32


def _check_backward(
    grad: Tensor,
    image: Tensor,
    velocity: Tensor,
    stages: Tensor | None,
    steps: int,
    method: str,
    *_: Any,
) -> None:
    check(image, velocity, steps)
    _checks.gradient(grad, image.shape[:2] + velocity.shape[2:], image)
    expected = (len(stored_stages(steps, method)), *velocity.shape)
    if stages is not None and stages.shape != expected:
        raise ValueError(f"stages must have shape {expected}, got {tuple(stages.shape)}")


def _results_backward(
    grad: Tensor, image: Tensor, velocity: Tensor, *others: Any
) -> tuple[Tensor | None, ...]:
    return gradients_like((image, velocity), others[-1])


def _serve_backward(backend: str) -> Kernel:
    def serve(
        grad: Tensor,
        image: Tensor,
        velocity: Tensor,
        stages: Tensor | None,
        steps: int,
        method: str,
        mode: str,
        padding: str,
        field_padding: str,
        needs: Sequence[bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of image and velocity: those of ``warp``, then of ``exponential``."""
        kept = stored_stages(steps, method)
        flow = Flow(velocity, steps, method, field_padding)
        if stages is None or not kept:
            displacement, _, stages = _exponential_backends.forward(backend, flow, False, kept)
        else:
            displacement = _exponential_backends.resume(backend, flow, stages, kept)
        wanted = needs[0], needs[1] and mode == "linear", False
        grad_image, grad_displacement, _ = WARP_BACKWARD.serve[backend](
            grad, image, displacement, None, mode, padding, wanted
        )
        del displacement
        if not needs[1]:
            return grad_image, None
        if grad_displacement is None:
            return grad_image, torch.zeros_like(velocity, memory_format=torch.contiguous_format)
        backward = _exponential_backends.backward
        return grad_image, backward(backend, grad_displacement, flow, stages, kept)

    return serve


def _saved(inputs: Sequence[Any], results: Sequence[Tensor]) -> MaybeTensors:
    return *inputs[:2], results[1] if results[1].dim() > 1 else None


def _gradients(
    grads: MaybeTensors, saved: MaybeTensors, options: Sequence[Any], needs: Sequence[bool]
) -> MaybeTensors:
    if grads[0] is None:
        return None, None
    *own, _, backend = options
    return WARP_EXPONENTIAL_BACKWARD(grads[0], *saved, *own, backend, list(needs))


def _second_gradients(
    cotangents: MaybeTensors,
    saved: MaybeTensors,
    options: Sequence[Any],
    needs_gradient: Sequence[bool],
) -> MaybeTensors:
    """Twice through the chain of warps: its own derivative is not written out."""
    steps, method, mode, padding, field_padding, backend, needs = options
    grad, image, velocity = saved

    def pulled_back(grad: Tensor, image: Tensor, velocity: Tensor) -> tuple[Tensor, ...]:
        def warped(image: Tensor, velocity: Tensor) -> Tensor:
            u = as_chain(velocity, steps, method, field_padding, backend)
            return warp(image, u, mode=mode, padding=padding, backend=backend)

        found = torch.func.vjp(warped, image, velocity)[1](grad)
        return tuple(x for x, need in zip(found, needs, strict=True) if need)

    results, pull = torch.func.vjp(pulled_back, grad, image, velocity)[:2]
    given = [x for x, need in zip(cotangents, needs, strict=True) if need]
    zeros = [torch.zeros_like(x) for x in results]
    found = pull(tuple(y if x is None else x for x, y in zip(given, zeros, strict=True)))
    return *found, None


_CHOICES = {
    "method": _checks.METHODS,
    "mode": _MODES,
    "padding": _checks.PADDINGS,
    "field_padding": _checks.PADDINGS,
}

WARP_EXPONENTIAL = REGISTRY["warp_exponential"] = Operator(
    "warp_exponential(Tensor image, Tensor velocity, int steps, str method, str mode, str padding,"
    " str field_padding, bool store) -> (Tensor, Tensor)",
    check=check,
    results=_results,
    derivative=Derivative(_gradients, saved=_saved, constant=(1,)),
    choices=_CHOICES,
    field=1,
    serve={backend: _serve(backend) for backend in backends.BACKENDS},
    result_axes=(0, 1),
)
WARP_EXPONENTIAL_BACKWARD = Operator(
    "warp_exponential_backward(Tensor grad, Tensor image, Tensor velocity, Tensor? stages,"
    " int steps, str method, str mode, str padding, str field_padding, bool[2] needs)"
    " -> (Tensor, Tensor)",
    check=_check_backward,
    results=_results_backward,
    derivative=Derivative(_second_gradients, saved=lambda inputs, results: inputs[:3]),
    choices=_CHOICES,
    field=2,
    serve={backend: _serve_backward(backend) for backend in backends.BACKENDS},
    held_as="warp_exponential",
    input_axes=(0, 0, 0, 1),
)
