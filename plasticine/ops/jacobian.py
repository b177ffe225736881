"""``plasticine.jacobian_determinant``: how a displacement changes volume, voxel by voxel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops import _autocast, _checks
from plasticine.ops._native_interface import (
    SCHEME_CODES,
    contiguous_like,
    cuda_launch,
    device_type,
    native,
    threads_for,
)
from plasticine.ops._operator import (
    Operator,
    map_over_batch,
    not_differentiable_again,
    reference_gradients,
)


def jacobian_determinant(
    displacement: Tensor,
    *,
    scheme: str = "central",
    spacing: Sequence[float] | None = None,
    backend: str = "auto",
) -> Tensor:
    """``det(I + du_i / dx_j)``: the local volume ratio of ``p + u(p)``; 0 or less where it folds.

    Args:
        displacement: ``(N, d, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16, in
            voxels, or in the unit of ``spacing``. Half types are computed in float32, and returned
            in it under ``torch.autocast``.
        scheme: the finite differences: "central" (one-sided at the border), "forward" or
            "backward" (falling back to the other side at the last or first voxel). An axis of
            length 1 has derivative 0.
        spacing: the voxel size along each spatial axis; None for a displacement in voxels.
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Returns:
        ``(N, 1, *spatial)`` in the dtype of the displacement. Differentiable twice; the second
        derivative is the reference's, whatever the device.

    Raises:
        TypeError: ``displacement`` is no tensor or of a dtype that is not served.
        ValueError: a shape or an option is not one of those above.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    _checks.is_tensor(displacement, "displacement")
    ndim = _checks.field(displacement, "displacement")
    if _autocast.is_any_enabled():
        displacement = _autocast.single(displacement)
    return JACOBIAN(displacement, scheme, _checks.spacing_of(spacing, ndim), backend)


def check(displacement: Tensor, scheme: str, spacing: Sequence[float]) -> None:
    """Raises unless the arguments fit together."""
    ndim = _checks.field(displacement, "displacement")
    _checks.one_of(scheme, "scheme", _checks.SCHEMES)
    _checks.spacing_of(spacing, ndim)


def _forward(displacement: Tensor, scheme: str, spacing: Sequence[float], backend: str) -> Tensor:
    check(displacement, scheme, spacing)
    served = backends.choose(backend, "jacobian", device_type(displacement))
    return FORWARD[served](displacement, scheme, spacing)


def _forward_fake(
    displacement: Tensor, scheme: str, spacing: Sequence[float], backend: str
) -> Tensor:
    check(displacement, scheme, spacing)
    return displacement.new_empty(_shape(displacement))


def _shape(displacement: Tensor) -> tuple[int, ...]:
    return (displacement.shape[0], 1, *displacement.shape[2:])


def _backward(
    grad: Tensor, displacement: Tensor, scheme: str, spacing: Sequence[float], backend: str
) -> Tensor:
    check(displacement, scheme, spacing)
    _checks.gradient(grad, _shape(displacement), displacement)
    served = backends.choose(backend, "jacobian", device_type(displacement))
    return BACKWARD[served](grad, displacement, scheme, spacing)


def _backward_fake(
    grad: Tensor, displacement: Tensor, scheme: str, spacing: Sequence[float], backend: str
) -> Tensor:
    check(displacement, scheme, spacing)
    return displacement.new_empty(displacement.shape)


def _double_backward(
    direction: Tensor,
    grad: Tensor,
    displacement: Tensor,
    scheme: str,
    spacing: Sequence[float],
    backend: str,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    """The gradients of grad and displacement; an empty tensor where not needed."""
    _check_double_backward(direction, grad, displacement, scheme, spacing)

    def function(field: Tensor) -> Tensor:
        return reference.jacobian_determinant(field, scheme, spacing)

    first, second = reference.double_backward(function, (displacement,), (direction,), grad, needs)
    return (
        grad.new_empty(0) if first is None else first,
        grad.new_empty(0) if second is None else second,
    )


def _double_backward_fake(
    direction: Tensor,
    grad: Tensor,
    displacement: Tensor,
    scheme: str,
    spacing: Sequence[float],
    backend: str,
    needs: list[bool],
) -> tuple[Tensor, Tensor]:
    _check_double_backward(direction, grad, displacement, scheme, spacing)
    return (
        grad.new_empty(grad.shape if needs[0] else 0),
        grad.new_empty(displacement.shape if needs[1] else 0),
    )


def _check_double_backward(
    direction: Tensor, grad: Tensor, displacement: Tensor, scheme: str, spacing: Sequence[float]
) -> None:
    check(displacement, scheme, spacing)
    _checks.gradient(grad, _shape(displacement), displacement)
    _checks.gradient(direction, displacement.shape, displacement)


class _Jacobian(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.options = inputs[1:4]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return JACOBIAN_BACKWARD(grad, *ctx.saved_tensors, *ctx.options), None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_over_batch(info, in_dims, arguments, 1)


class _JacobianBackward(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        return arguments[-1](*arguments[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.options = inputs[2:5]

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:2]
        results = JACOBIAN_DOUBLE_BACKWARD(direction, *ctx.saved_tensors, *ctx.options, needs)
        wanted = [x if need else None for x, need in zip(results, needs, strict=True)]
        return (*wanted, None, None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
        return map_over_batch(info, in_dims, arguments, 2)


JACOBIAN = Operator(
    "jacobian(Tensor displacement, str scheme, float[] spacing, str backend) -> Tensor",
    _forward,
    _forward_fake,
    _Jacobian,
    tensors=1,
)
JACOBIAN_BACKWARD = Operator(
    "jacobian_backward(Tensor grad, Tensor displacement, str scheme, float[] spacing,"
    " str backend) -> Tensor",
    _backward,
    _backward_fake,
    _JacobianBackward,
    tensors=2,
)
JACOBIAN_DOUBLE_BACKWARD = Operator(
    "jacobian_double_backward(Tensor direction, Tensor grad, Tensor displacement, str scheme,"
    " float[] spacing, str backend, bool[2] needs) -> (Tensor, Tensor)",
    _double_backward,
    _double_backward_fake,
    not_differentiable_again(
        "plasticine.jacobian_determinant has no third derivative: its second derivative cannot be "
        "differentiated again (create_graph=True followed by a third backward)",
        tensors=3,
    ),
    tensors=3,
)


def _cpu_forward(displacement: Tensor, scheme: str, spacing: Sequence[float]) -> Tensor:
    result = displacement.new_empty(_shape(displacement))
    backends.NATIVE.jacobian_forward(
        native(displacement),
        native(result),
        SCHEME_CODES[scheme],
        tuple(spacing),
        threads_for(displacement),
    )
    return result


def _cpu_backward(
    grad: Tensor, displacement: Tensor, scheme: str, spacing: Sequence[float]
) -> Tensor:
    result = contiguous_like(displacement)
    backends.NATIVE.jacobian_backward(
        native(grad),
        native(displacement),
        native(result),
        SCHEME_CODES[scheme],
        tuple(spacing),
        threads_for(displacement),
    )
    return result


def _cuda_forward(displacement: Tensor, scheme: str, spacing: Sequence[float]) -> Tensor:
    result = displacement.new_empty(_shape(displacement))
    backends.CUDA.jacobian_forward(
        native(displacement),
        native(result),
        SCHEME_CODES[scheme],
        tuple(spacing),
        *cuda_launch(displacement),
    )
    return result


def _cuda_backward(
    grad: Tensor, displacement: Tensor, scheme: str, spacing: Sequence[float]
) -> Tensor:
    result = contiguous_like(displacement)
    backends.CUDA.jacobian_backward(
        native(grad),
        native(displacement),
        native(result),
        SCHEME_CODES[scheme],
        tuple(spacing),
        *cuda_launch(displacement),
    )
    return result


def _triton_forward(displacement: Tensor, scheme: str, spacing: Sequence[float]) -> Tensor:
    result = displacement.new_empty(_shape(displacement))
    kernels = backends.triton_kernels("jacobian")[0]
    kernels.jacobian_forward(displacement, result, scheme, spacing)
    return result


def _triton_backward(
    grad: Tensor, displacement: Tensor, scheme: str, spacing: Sequence[float]
) -> Tensor:
    result = contiguous_like(displacement)
    kernels = backends.triton_kernels("jacobian")[0]
    kernels.jacobian_backward(grad, displacement, result, scheme, spacing)
    return result


def _reference_forward(displacement: Tensor, scheme: str, spacing: Sequence[float]) -> Tensor:
    return reference.jacobian_determinant(displacement, scheme, spacing).contiguous()


def _reference_backward(
    grad: Tensor, displacement: Tensor, scheme: str, spacing: Sequence[float]
) -> Tensor:
    def function(field: Tensor) -> Tensor:
        return reference.jacobian_determinant(field, scheme, spacing)

    gradient = reference_gradients(function, (displacement,), (True,), grad)[0]
    assert gradient is not None
    return gradient


FORWARD: dict[str, Callable[..., Tensor]] = {
    "cpu": _cpu_forward,
    "cuda": _cuda_forward,
    "triton": _triton_forward,
    "reference": _reference_forward,
}
BACKWARD: dict[str, Callable[..., Tensor]] = {
    "cpu": _cpu_backward,
    "cuda": _cuda_backward,
    "triton": _triton_backward,
    "reference": _reference_backward,
}
