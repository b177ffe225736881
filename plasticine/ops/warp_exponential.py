"""``plasticine.warp_exponential``: warp an image by the flow of a velocity field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from plasticine import backends
from plasticine.ops import _autocast, _checks, _warp_backends, _warp_exponential_backends
from plasticine.ops._exponential_backends import (
    BACKWARD,
    FORWARD,
    RESUME,
    no_stages,
    stages_like,
    stored_stages,
)
from plasticine.ops._exponential_steps import steps_for
from plasticine.ops._native_interface import device_type
from plasticine.ops._operator import Operator, fold_batch
from plasticine.ops.exponential import as_chain
from plasticine.ops.warp import warp

Gradients = tuple[Tensor | None, Tensor | None]

_MODES = ("linear", "nearest")


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
    _checks.is_tensor(image, "image")
    _checks.is_tensor(velocity, "velocity")
    _checks.one_of(method, "method", _checks.METHODS)
    _checks.one_of(checkpoint, "checkpoint", _checks.CHECKPOINTS)
    if _autocast.is_any_enabled():
        image, velocity, _ = _autocast.widest(image, velocity, None)
    if image.shape[0] != velocity.shape[0]:
        if image.shape[0] == 1:
            image = image.expand(velocity.shape[0], *image.shape[1:])
        elif velocity.shape[0] == 1:
            velocity = velocity.expand(image.shape[0], *velocity.shape[1:])
    _check_pair(image, velocity)
    precise = velocity.float() if velocity.element_size() < 4 else velocity
    count = steps_for(precise, steps, method, backend)
    store = checkpoint == "store" and torch.is_grad_enabled() and velocity.requires_grad
    options = count, method, mode, padding, field_padding, store, backend
    return WARP_EXPONENTIAL(image, precise, *options)[0]


def _check_pair(image: Tensor, velocity: Tensor) -> None:
    _checks.image_and_displacement(image, velocity, "velocity")


def check(
    image: Tensor,
    velocity: Tensor,
    steps: int,
    method: str,
    mode: str,
    padding: str,
    field_padding: str,
) -> None:
    """Raises unless the arguments are those that the public function passes on."""
    _check_pair(image, velocity)
    if velocity.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"velocity must be float32 or float64 here, got {velocity.dtype}; "
            "plasticine.warp_exponential takes half types"
        )
    _checks.steps_of(steps)
    _checks.one_of(method, "method", _checks.METHODS)
    _checks.one_of(mode, "mode", _MODES)
    _checks.one_of(padding, "padding", _checks.PADDINGS)
    _checks.one_of(field_padding, "field_padding", _checks.PADDINGS)


def _forward(
    image: Tensor,
    velocity: Tensor,
    steps: int,
    method: str,
    mode: str,
    padding: str,
    field_padding: str,
    store: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The warped image, and the stages kept for the backward pass."""
    check(image, velocity, steps, method, mode, padding, field_padding)
    served = backends.choose(backend, "warp_exponential", device_type(image))
    kept = stored_stages(steps, method) if store else []
    serve = _warp_exponential_backends.FORWARD[served]
    result, stages = serve(image, velocity, steps, method, mode, padding, field_padding, kept)
    return result, no_stages(velocity) if stages is None else stages


def _forward_fake(
    image: Tensor,
    velocity: Tensor,
    steps: int,
    method: str,
    mode: str,
    padding: str,
    field_padding: str,
    store: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    check(image, velocity, steps, method, mode, padding, field_padding)
    kept = len(stored_stages(steps, method)) if store else 0
    return (
        image.new_empty(image.shape[:2] + velocity.shape[2:]),
        stages_like(velocity, kept) if kept else no_stages(velocity),
    )


def _backward(
    grad: Tensor,
    image: Tensor,
    velocity: Tensor,
    stages: Tensor | None,
    steps: int,
    method: str,
    mode: str,
    padding: str,
    field_padding: str,
    backend: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients of image and velocity; an empty tensor where not needed."""
    check(image, velocity, steps, method, mode, padding, field_padding)
    _checks.gradient(grad, image.shape[:2] + velocity.shape[2:], image)
    kept = stored_stages(steps, method)
    if stages is not None and stages.shape != (len(kept), *velocity.shape):
        raise ValueError(
            f"stages must have shape {(len(kept), *velocity.shape)}, got {tuple(stages.shape)}"
        )
    served = backends.choose(backend, "warp_exponential", device_type(image))
    if stages is None or not kept:
        forward = FORWARD[served]
        displacement, _, stages = forward(velocity, steps, method, field_padding, False, kept)
    else:
        displacement = RESUME[served](velocity, stages, steps, method, field_padding, kept)
    linear = mode == "linear"
    grad_image, grad_displacement, _ = _warp_backends.BACKWARD[served](
        grad, image, displacement, None, mode, padding, (needs[0], needs[1] and linear, False)
    )
    del displacement
    grad_velocity: Tensor | None = None
    if needs[1] and not linear:
        grad_velocity = torch.zeros_like(velocity, memory_format=torch.contiguous_format)
    elif grad_displacement is not None:
        grad_velocity = BACKWARD[served](
            grad_displacement, velocity, stages, 0.5**steps, steps, method, field_padding, kept
        )
    return (
        image.new_empty(0) if grad_image is None else grad_image,
        velocity.new_empty(0) if grad_velocity is None else grad_velocity,
    )


def _backward_fake(
    grad: Tensor,
    image: Tensor,
    velocity: Tensor,
    stages: Tensor | None,
    steps: int,
    method: str,
    mode: str,
    padding: str,
    field_padding: str,
    backend: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    return (
        image.new_empty(image.shape if needs[0] else 0),
        velocity.new_empty(velocity.shape if needs[1] else 0),
    )


class _WarpExponential(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        image, velocity, steps, method, mode, padding, field_padding, _, backend, _ = inputs
        stages = output[1]
        ctx.mark_non_differentiable(stages)
        ctx.set_materialize_grads(False)  # zeros for the stages are as large as they are
        ctx.save_for_backward(image, velocity, stages if stages.dim() > 1 else None)
        ctx.options = steps, method, mode, padding, field_padding, backend

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 10
        needs = ctx.needs_input_grad[:2]
        gradients = WARP_EXPONENTIAL_BACKWARD(grad, *ctx.saved_tensors, *ctx.options, list(needs))
        wanted = [x if need else None for x, need in zip(gradients, needs, strict=True)]
        return (*wanted, *[None] * 8)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        image, velocity, *options, execute = arguments
        image = fold_batch(info, image, in_dims[0])
        velocity = fold_batch(info, velocity, in_dims[1])
        result, stages = execute(image, velocity, *options)
        result = result.unflatten(0, (info.batch_size, -1))
        if stages.dim() == 1:
            return (result, stages), (0, None)
        return (result, stages.unflatten(1, (info.batch_size, -1))), (0, 1)


class _WarpExponentialBackward(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.options = inputs[4:-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Twice through the chain of warps: its own derivative is not written out."""
        steps, method, mode, padding, field_padding, backend, needs = ctx.options
        grad, image, velocity = ctx.saved_tensors

        def pulled_back(grad: Tensor, image: Tensor, velocity: Tensor) -> tuple[Tensor, ...]:
            def warped(image: Tensor, velocity: Tensor) -> Tensor:
                u = as_chain(velocity, steps, method, field_padding, backend)
                return warp(image, u, mode=mode, padding=padding, backend=backend)

            found = torch.func.vjp(warped, image, velocity)[1](grad)
            return tuple(x for x, need in zip(found, needs, strict=True) if need)

        pull = torch.func.vjp(pulled_back, grad, image, velocity)[1]
        found = pull(tuple(x for x, need in zip(gradients, needs, strict=True) if need))
        return (*found, *[None] * 9)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        *tensors, execute = arguments
        folded = [
            fold_batch(info, x, axis, batch)
            for x, axis, batch in zip(tensors[:4], in_dims[:4], (0, 0, 0, 1), strict=True)
        ]
        results = execute(*folded, *tensors[4:])
        unfolded = [x.unflatten(0, (info.batch_size, -1)) if x.dim() > 1 else x for x in results]
        return tuple(unfolded), tuple(0 if x.dim() > 1 else None for x in unfolded)


WARP_EXPONENTIAL = Operator(
    "warp_exponential(Tensor image, Tensor velocity, int steps, str method, str mode, str padding,"
    " str field_padding, bool store, str backend) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
    _WarpExponential,
    tensors=2,
)
WARP_EXPONENTIAL_BACKWARD = Operator(
    "warp_exponential_backward(Tensor grad, Tensor image, Tensor velocity, Tensor? stages,"
    " int steps, str method, str mode, str padding, str field_padding, str backend, bool[2] needs)"
    " -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
    _WarpExponentialBackward,
    tensors=4,
)
