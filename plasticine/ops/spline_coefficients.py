"""``plasticine.spline_coefficients``: the cubic B-spline that passes through an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops import _autocast, _checks
from plasticine.ops._native_interface import (
    PADDING_CODES,
    contiguous_like,
    cuda_launch,
    device_type,
    native,
    native_or_none,
    threads_for,
)
from plasticine.ops._operator import Operator, map_over_batch


def spline_coefficients(image: Tensor, *, padding: str = "border", backend: str = "auto") -> Tensor:
    """The coefficients ``c`` of the cubic B-spline that equals the image at every voxel.

    Per spatial axis, ``(c[i-1] + 4 c[i] + c[i+1]) / 6`` is the image at voxel ``i`` (Unser,
    Aldroubi and Eden, 1991). This is solved exactly, not by a truncated filter. Warp the result
    with ``plasticine.warp(c, u, mode="bspline", padding=padding, prefilter=False)``: worthwhile
    where one image is warped many times.

    Args:
        image: ``(N, C, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16; any strides.
            Half types are computed in float32, and rounded once (under ``torch.autocast`` not
            rounded: the result is float32).
        padding: the coefficients beyond the edge: "zeros" (0), "border" (that of the edge, which
            is ``scipy.ndimage``'s "reflect") or "reflection" (the mirror image about the edge
            voxel's centre, ``scipy.ndimage``'s "mirror").
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Returns:
        ``(N, C, *spatial)`` in the dtype of the image. Linear in the image, and differentiable any
        number of times and in forward mode. Every coefficient depends on every voxel, so a NaN or
        an infinity in a channel of the image leaves nothing finite in that channel, and no trace
        in any other.

    Raises:
        TypeError: ``image`` is no tensor, or of a dtype that is not served.
        ValueError: a shape or an option is not one of those above.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    _checks.is_tensor(image, "image")
    if _autocast.is_any_enabled():
        image = _autocast.single(image)
    return SPLINE_COEFFICIENTS(image, padding, False, backend)


def check(image: Tensor, padding: str) -> None:
    """Raises unless the arguments fit together."""
    _checks.one_of(padding, "padding", _checks.PADDINGS)
    _checks.image_alone(image, "image")


def _forward(image: Tensor, padding: str, adjoint: bool, backend: str) -> Tensor:
    check(image, padding)
    serve = _FORWARD[backends.choose(backend, "spline_coefficients", device_type(image))]
    return serve(image, padding, adjoint)


def _forward_fake(image: Tensor, padding: str, adjoint: bool, backend: str) -> Tensor:
    check(image, padding)
    return image.new_empty(image.shape)


class _SplineCoefficients(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.options = inputs[1:4]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        padding, adjoint, backend = ctx.options
        return SPLINE_COEFFICIENTS(grad, padding, not adjoint, backend), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        padding, adjoint, backend = ctx.options
        return SPLINE_COEFFICIENTS(tangents[0], padding, adjoint, backend)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_over_batch(info, in_dims, arguments, 1)


SPLINE_COEFFICIENTS = Operator(
    "spline_coefficients(Tensor image, str padding, bool adjoint, str backend) -> Tensor",
    _forward,
    _forward_fake,
    _SplineCoefficients,
    tensors=1,
)


def _float32_scratch(image: Tensor) -> Tensor | None:
    """Where half types are kept between the axes, which are solved one after the other."""
    half = image.dtype in (torch.float16, torch.bfloat16)
    return image.new_empty(image.shape, dtype=torch.float32) if half else None


def _cpu_forward(image: Tensor, padding: str, adjoint: bool) -> Tensor:
    result = contiguous_like(image)
    scratch = _float32_scratch(image)  # named: the native call does not keep it alive
    backends.NATIVE.spline_coefficients(
        native(image),
        native(result),
        native_or_none(scratch),
        PADDING_CODES[padding],
        adjoint,
        threads_for(image),
    )
    return result


def _cuda_forward(image: Tensor, padding: str, adjoint: bool) -> Tensor:
    result = contiguous_like(image)
    scratch = _float32_scratch(image)
    backends.CUDA.spline_coefficients(
        native(image),
        native(result),
        native_or_none(scratch),
        PADDING_CODES[padding],
        adjoint,
        *cuda_launch(image),
    )
    return result


def _triton_forward(image: Tensor, padding: str, adjoint: bool) -> Tensor:
    result = contiguous_like(image)
    kernels = backends.triton_kernels("spline_coefficients")[0]
    kernels.spline_coefficients(image, result, padding, adjoint)
    return result


def _reference_forward(image: Tensor, padding: str, adjoint: bool) -> Tensor:
    return reference.spline_coefficients(image, padding, adjoint).contiguous()


_FORWARD: dict[str, Callable[..., Tensor]] = {
    "cpu": _cpu_forward,
    "cuda": _cuda_forward,
    "triton": _triton_forward,
    "reference": _reference_forward,
}
