"""The backward pass of ``exponential`` on a GPU in deterministic mode.

A scatter in fixed point needs the largest gradient before it starts: every step is an operator of
its own, whose gradient is read in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from plasticine.ops import _compose_backends, _warp_backends


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
    unsquare = _compose_backends.BACKWARD[backend]
    for u in reversed(stages):
        first, second = unsquare(grad, u, u, padding, (True, True))
        assert first is not None
        assert second is not None
        grad = first.add_(second)
    return _start_backward(backend, grad, velocity, scale, method, padding)


def _start_backward(
    backend: str, grad: Tensor, velocity: Tensor, scale: float, method: str, padding: str
) -> Tensor:
    """The gradient of a Runge-Kutta step; see :func:`plasticine.reference.first_displacement`."""

    def at(displacement: Tensor) -> Tensor:
        return _warp_backends.FORWARD[backend](velocity, displacement, None, "linear", padding)

    def unsample(grad: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
        needs = (True, True, False)
        options = None, "linear", padding, needs
        first, second, _ = _warp_backends.BACKWARD[backend](grad, velocity, displacement, *options)
        assert first is not None
        assert second is not None
        return first, second

    if method == "euler":
        return (grad * scale).contiguous()
    half = velocity * (scale / 2)
    if method == "midpoint":
        total, slope = unsample(grad * scale, half)
        return total.add_(slope, alpha=scale / 2)
    second = at(half)
    third = at(second * (scale / 2))
    total, slope = unsample(grad * (scale / 6), third * scale)
    grad_third = slope * scale + grad * (scale / 3)
    share, slope = unsample(grad_third, second * (scale / 2))
    total.add_(share)
    grad_second = slope * (scale / 2) + grad * (scale / 3)
    share, slope = unsample(grad_second, half)
    return total.add_(share).add_(slope, alpha=scale / 2).add_(grad, alpha=scale / 6)
