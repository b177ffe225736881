"""The backward pass of ``exponential`` on a GPU in deterministic mode.

A scatter in fixed point needs the largest gradient before it starts: every step is an operator of
its own, whose gradient is read in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from plasticine.ops.compose import COMPOSE_BACKWARD
from plasticine.ops.warp import WARP, WARP_BACKWARD


def deterministic_backward(
    backend: str,
    grad: Tensor,
    velocity: Tensor,
    stages: Sequence[Tensor],
    scale: float,
    method: str,
    padding: str,
) -> Tensor:
    """The velocity's gradient, by those of ``compose`` and ``warp``.

    Args:
        backend: "cuda" or "triton".
        grad: the gradient of exp(v), ``(N, d, *spatial)``.
        velocity: of the same shape.
        stages: every displacement that was squared, in order.
        scale: ``2**-steps``.
        method: "euler", "midpoint" or "rk4".
        padding: how the field continues outside its grid.

    Returns:
        The gradient, of the velocity's shape and dtype.
    """
    for u in reversed(stages):
        of_field, of_location = COMPOSE_BACKWARD.serve[backend](grad, u, u, padding, (True, True))
        grad = of_field.add_(of_location)
    return _start_backward(backend, grad, velocity, scale, method, padding)


def _start_backward(
    backend: str, grad: Tensor, velocity: Tensor, scale: float, method: str, padding: str
) -> Tensor:
    """The gradient of a Runge-Kutta step; see :func:`plasticine.reference.first_displacement`."""

    def at(displacement: Tensor) -> Tensor:
        return WARP.serve[backend](velocity, displacement, None, "linear", padding)

    def of_sample(grad: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of the field that is sampled, and of where it is."""
        arguments = velocity, displacement, None, "linear", padding, (True, True, False)
        of_field, of_location, _ = WARP_BACKWARD.serve[backend](grad, *arguments)
        return of_field, of_location

    if method == "euler":
        return (grad * scale).contiguous()
    half = velocity * (scale / 2)
    if method == "midpoint":
        total, of_location = of_sample(grad * scale, half)
        return total.add_(of_location, alpha=scale / 2)
    second = at(half)
    third = at(second * (scale / 2))
    total, of_location = of_sample(grad * (scale / 6), third * scale)
    grad_third = of_location * scale + grad * (scale / 3)
    share, of_location = of_sample(grad_third, second * (scale / 2))
    total.add_(share)
    grad_second = of_location * (scale / 2) + grad * (scale / 3)
    share, of_location = of_sample(grad_second, half)
    total.add_(share).add_(of_location, alpha=scale / 2)
    return total.add_(grad, alpha=scale / 6)
