"""``plasticine.compose``: one displacement for two transforms in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine import backends
from plasticine.ops import _autocast, _checks
from plasticine.ops._compose_backends import BACKWARD, FORWARD, Gradients
from plasticine.ops._native_interface import PADDING_CODES, device_type
from plasticine.ops._operator import Operator, keep_for_tangents, map_over_batch
from plasticine.ops._warp_double_backward import (
    differentiate_backward,
    tangent_of_result,
    tangents_of_gradients,
)


def compose(u: Tensor, v: Tensor, *, padding: str = "border", backend: str = "auto") -> Tensor:
    """The displacement of ``(id + u) o (id + v)``: ``u(p + v(p)) + v(p)``.

    Warping by it equals warping by ``u`` first and the result by ``v``, but interpolates once.

    Args:
        u: ``(N, d, *u_spatial)`` in voxels, 2D or 3D, float32, float64, float16 or bfloat16.
        v: ``(N, d, *spatial)`` in voxels, of the dtype of ``u``; its grid may differ in size.
        padding: how ``u`` continues outside its grid: "border", "zeros" or "reflection". Projects
            disagree here, and after several compositions by voxels: MONAI, VoxelMorph and FireANTs
            use zeros.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Either may have a batch of 1 where the other has N. Under ``torch.autocast`` half fields are
    composed, and returned, in float32.

    Returns:
        ``(N, d, *spatial)`` in the dtype of ``u``. Differentiable twice with respect to both, and
        in forward mode.

    Raises:
        TypeError: an argument is no tensor, or of a dtype that is not served.
        ValueError: shapes, devices or options do not fit.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    _checks.is_tensor(u, "u")
    _checks.is_tensor(v, "v")
    if _autocast.is_any_enabled():
        # One field is widened once, so that its two gradients are added in float32.
        one = v is u
        u = _autocast.single(u)
        v = u if one else _autocast.single(v)
    if u.shape[0] != v.shape[0]:
        if u.shape[0] == 1:
            u = u.expand(v.shape[0], *u.shape[1:])
        elif v.shape[0] == 1:
            v = v.expand(u.shape[0], *v.shape[1:])
    return COMPOSE(u, v, padding, backend)


def check(u: Tensor, v: Tensor, padding: str) -> None:
    """Raises unless the arguments fit together."""
    if padding not in PADDING_CODES:
        _checks.one_of(padding, "padding", _checks.PADDINGS)
    ndim = _checks.field(u, "u")
    if _checks.field(v, "v") != ndim:
        raise ValueError(
            "u and v must have the same number of spatial axes, got u of shape "
            f"{tuple(u.shape)} and v of shape {tuple(v.shape)}"
        )
    if u.dtype != v.dtype:
        raise TypeError(f"u and v must have one dtype, got u {u.dtype} and v {v.dtype}")
    _checks.same_device(u, "u", v, "v")
    _checks.same_batch(u, "u", v, "v")
    _checks.something_to_sample(u, "u", v, "v")


def _forward(u: Tensor, v: Tensor, padding: str, backend: str) -> Tensor:
    check(u, v, padding)
    return FORWARD[backends.choose(backend, "compose", device_type(u))](u, v, padding)


def _forward_fake(u: Tensor, v: Tensor, padding: str, backend: str) -> Tensor:
    check(u, v, padding)
    return v.new_empty(v.shape)


def _backward(
    grad: Tensor, u: Tensor, v: Tensor, padding: str, backend: str, needs: list[bool]
) -> tuple[Tensor, ...]:
    """The gradients of u and v; an empty tensor where not needed."""
    check(u, v, padding)
    _checks.gradient(grad, v.shape, v)
    gradients = _backward_unchecked(grad, u, v, padding, backend, needs)
    return tuple(u.new_empty(0) if x is None else x for x in gradients)


def _backward_unchecked(
    grad: Tensor, u: Tensor, v: Tensor, padding: str, backend: str, needs: Sequence[bool]
) -> Gradients:
    serve = BACKWARD[backends.choose(backend, "compose", device_type(u))]
    return serve(grad, u, v, padding, needs)


def _backward_fake(
    grad: Tensor, u: Tensor, v: Tensor, padding: str, backend: str, needs: list[bool]
) -> tuple[Tensor, ...]:
    check(u, v, padding)
    return tuple(x.new_empty(x.shape if need else 0) for x, need in zip((u, v), needs, strict=True))


class _Compose(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        keep_for_tangents(ctx, *inputs[:2])
        ctx.options = inputs[2:4]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:2]
        gradients = COMPOSE_BACKWARD.from_autograd(grad, *ctx.saved_tensors, *ctx.options, needs)
        wanted = [x if need else None for x, need in zip(gradients, needs, strict=True)]
        return (*wanted, None, None, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        padding, _ = ctx.options
        options = ("linear", padding, True)
        return tangent_of_result((*tangents[:2], None), (*ctx.saved_tensors, None), options)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_over_batch(info, in_dims, arguments, 2)


class _ComposeBackward(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Any:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:3])
        keep_for_tangents(ctx, *inputs[:3])
        ctx.options = inputs[3:5]
        ctx.found = inputs[5]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        padding, _ = ctx.options
        directions = [x if found else None for x, found in zip(cotangents, ctx.found, strict=True)]
        results = differentiate_backward(
            (*directions, None),
            (*ctx.saved_tensors, None),
            ("linear", padding, True),
            (*ctx.needs_input_grad[:3], False),
        )
        return (*results[:3], None, None, None, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        padding, _ = ctx.options
        saved = ctx.saved_tensors
        of_grad: tuple[Tensor, ...] = ()
        if tangents[0] is not None:
            of_grad = (
                *COMPOSE_BACKWARD(tangents[0], *saved[1:], *ctx.options, ctx.found),
                saved[0].new_zeros(0),
            )
        results = tangents_of_gradients(
            of_grad,
            (*tangents[1:3], None),
            (*saved, None),
            ("linear", padding, True),
            (*ctx.found, False),
        )
        return results[:2]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_over_batch(info, in_dims, arguments, 3)


COMPOSE = Operator(
    "compose(Tensor u, Tensor v, str padding, str backend) -> Tensor",
    _forward,
    _forward_fake,
    _Compose,
    tensors=2,
)
COMPOSE_BACKWARD = Operator(
    "compose_backward(Tensor grad, Tensor u, Tensor v, str padding, str backend, bool[2] needs)"
    " -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
    _ComposeBackward,
    tensors=3,
    unchecked=_backward_unchecked,
)
