"""Definition of ``exponential``: scaling and squaring of a stationary velocity field."""

from __future__ import annotations

from torch import Tensor

from plasticine.reference.compose import compose


def exponential(
    velocity: Tensor, scale: float, steps: int, padding: str = "border"
) -> tuple[Tensor, list[Tensor]]:
    """``u_0 = scale * velocity``, then ``steps`` times ``u <- u o (id + u) + u``.

    Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006.

    Args:
        velocity: ``(N, d, *spatial)`` in voxels.
        scale: ``2**-steps``, or its negative for the inverse.
        steps: number of squarings.
        padding: how the field continues outside its grid.

    Returns:
        The displacement ``(N, d, *spatial)``, and the ``steps`` fields that were squared.
    """
    field = velocity * scale
    stages = []
    for _ in range(steps):
        stages.append(field)
        field = compose(field, field, padding)
    return field, stages
