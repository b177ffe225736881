"""``compose`` on each backend; the arguments have been checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops._native_interface import (
    PADDING_CODES,
    contiguous_like,
    contiguous_rows,
    cuda_launch,
    native,
    native_or_none,
    spans_32_bits,
    threads_for,
)
from plasticine.ops._operator import reference_gradients

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
    if _are_widened(u, v):
        return _cuda_forward(u.float(), v.float(), padding).to(v.dtype)
    u = contiguous_rows(u)
    result = contiguous_like(v)
    backends.CUDA.compose_forward(
        native(u), native(v), native(result), PADDING_CODES[padding], *cuda_launch(v)
    )
    return result


def _cuda_backward(
    grad: Tensor, u: Tensor, v: Tensor, padding: str, needs: Sequence[bool]
) -> Gradients:
    from plasticine.kernels.fixed_point import fixed_point_scale, from_fixed_point

    if _are_widened(grad, u, v):
        widened = _cuda_backward(grad.float(), u.float(), v.float(), padding, needs)
        first, second = (x if x is None else x.to(u.dtype) for x in widened)
        return first, second
    u = contiguous_rows(u)
    accumulator = torch.float64 if u.dtype == torch.float64 else torch.float32
    grad_u = fixed = scale = None
    if needs[0]:
        grad_u = u.new_empty(u.shape, dtype=accumulator)
        if torch.are_deterministic_algorithms_enabled() and grad.numel():
            fixed = u.new_empty(u.shape, dtype=torch.int64)
            scale = fixed_point_scale(grad, v.shape[2:].numel())
    grad_v = contiguous_like(v) if needs[1] else None
    backends.CUDA.compose_backward(
        native(grad),
        native(u),
        native(v),
        native_or_none(grad_u),
        native_or_none(fixed),
        native_or_none(scale),
        native_or_none(grad_v),
        PADDING_CODES[padding],
        *cuda_launch(v),
    )
    if grad_u is not None:
        if fixed is not None:
            grad_u = from_fixed_point(fixed, scale, grad_u)
        grad_u = grad_u.to(u.dtype)
    return grad_u, grad_v


def _are_widened(*fields: Tensor) -> bool:
    """Whether half fields are composed in float32, for which alone 64-bit offsets are compiled."""
    return fields[0].element_size() == 2 and not all(map(spans_32_bits, fields))


def _triton_forward(*arguments: Any) -> Tensor:
    return backends.triton_kernels("compose")[0].compose_forward(*arguments)


def _triton_backward(*arguments: Any) -> Gradients:
    return backends.triton_kernels("compose")[0].compose_backward(*arguments)


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
