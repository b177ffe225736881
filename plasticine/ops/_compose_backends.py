"""``compose`` on each backend; the arguments have been checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from plasticine import backends, reference
from plasticine.ops._native_interface import (
    PADDING_CODES,
    contiguous_like,
    contiguous_rows,
    cuda_launch,
    native,
    native_or_none,
    threads_for,
)
from plasticine.ops._operator import reference_gradients
from plasticine.ops._warp_backends import ScatterBuffers, deterministic_scale, scattered_to

Gradients = tuple[Tensor | None, Tensor | None]


def _cpu_forward(u: Tensor, v: Tensor, padding: str) -> Tensor:
    result = contiguous_like(v)
    backends.NATIVE.compose_forward(
        native(u), native(v), native(result), PADDING_CODES[padding], threads_for(v)
    )
    return result


def _cpu_backward(
    grad: Tensor, u: Tensor, v: Tensor, padding: str, needs: Sequence[bool]
) -> Gradients:
    gradients = (
        contiguous_like(u) if needs[0] else None,
        contiguous_like(v) if needs[1] else None,
    )
    backends.NATIVE.compose_backward(
        native(grad),
        native(u),
        native(v),
        native_or_none(gradients[0]),
        native_or_none(gradients[1]),
        PADDING_CODES[padding],
        threads_for(v),
    )
    return gradients


def _cuda_forward(u: Tensor, v: Tensor, padding: str) -> Tensor:
    u = contiguous_rows(u)
    result = contiguous_like(v)
    backends.CUDA.compose_forward(
        native(u), native(v), native(result), PADDING_CODES[padding], *cuda_launch(v)
    )
    return result


def _cuda_backward(
    grad: Tensor, u: Tensor, v: Tensor, padding: str, needs: Sequence[bool]
) -> Gradients:
    u = contiguous_rows(u)
    buffers = ScatterBuffers(grad, u.shape, deterministic_scale(grad)) if needs[0] else None
    grad_v = contiguous_like(v) if needs[1] else None
    backends.CUDA.compose_backward(
        native(grad),
        native(u),
        native(v),
        (*scattered_to(buffers), native_or_none(grad_v)),
        PADDING_CODES[padding],
        *cuda_launch(v),
    )
    return None if buffers is None else buffers.total(u.dtype), grad_v


def _triton_forward(u: Tensor, v: Tensor, padding: str) -> Tensor:
    result = contiguous_like(v)
    backends.triton_kernels("compose")[0].compose_forward(u, v, result, padding)
    return result


def _triton_backward(
    grad: Tensor, u: Tensor, v: Tensor, padding: str, needs: Sequence[bool]
) -> Gradients:
    gradients = (
        contiguous_like(u) if needs[0] else None,
        contiguous_like(v) if needs[1] else None,
    )
    backends.triton_kernels("compose")[0].compose_backward(grad, u, v, *gradients, padding)
    return gradients


def _reference_forward(u: Tensor, v: Tensor, padding: str) -> Tensor:
    return reference.compose(u, v, padding).contiguous()


def _reference_backward(
    grad: Tensor, u: Tensor, v: Tensor, padding: str, needs: Sequence[bool]
) -> Gradients:
    def function(u: Tensor, v: Tensor) -> Tensor:
        return reference.compose(u, v, padding)

    first, second = reference_gradients(function, (u, v), needs, grad)
    return first, second


FORWARD: dict[str, Callable[..., Tensor]] = {
    "cpu": _cpu_forward,
    "cuda": _cuda_forward,
    "triton": _triton_forward,
    "reference": _reference_forward,
}
BACKWARD: dict[str, Callable[..., Gradients]] = {
    "cpu": _cpu_backward,
    "cuda": _cuda_backward,
    "triton": _triton_backward,
    "reference": _reference_backward,
}
