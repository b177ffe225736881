"""Definition of ``exponential``: scaling and squaring of a stationary velocity field."""

from __future__ import annotations

from torch import Tensor

from plasticine.reference.compose import compose
from plasticine.reference.warp import warp


def exponential(
    velocity: Tensor, steps: int, method: str = "euler", padding: str = "border"
) -> Tensor:
    """The flow of ``velocity`` over unit time; of ``-velocity`` it is the inverse.

    ``u_0`` is one step of a Runge-Kutta method over ``2**-steps`` of the time, then ``steps`` times
    ``u <- u o (id + u) + u``: Arsigny et al., "A log-Euclidean framework for statistics on
    diffeomorphisms", MICCAI 2006.

    Args:
        velocity: ``(N, d, *spatial)`` in voxels.
        steps: number of squarings.
        method: how ``u_0`` is formed: "euler", "midpoint" or "rk4".
        padding: how the field continues outside its grid.

    Returns:
        The displacement ``(N, d, *spatial)``.
    """
    u = first_displacement(velocity, 0.5**steps, method, padding)
    for _ in range(steps):
        u = compose(u, u, padding)
    return u


def first_displacement(
    velocity: Tensor, scale: float, method: str = "euler", padding: str = "border"
) -> Tensor:
    """One step of the method over the time ``scale``, negative for the inverse.

    The velocity between voxels is interpolated linearly. "midpoint" is the explicit midpoint rule,
    "rk4" the classical Runge-Kutta method.
    """

    def at(displacement: Tensor) -> Tensor:
        return warp(velocity, displacement, None, "linear", padding)

    if method == "euler":
        return velocity * scale
    second = at(velocity * (scale / 2))
    if method == "midpoint":
        return second * scale
    third = at(second * (scale / 2))
    fourth = at(third * scale)
    return (velocity + 2 * second + 2 * third + fourth) * (scale / 6)
