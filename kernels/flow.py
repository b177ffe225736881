"""One step of a flow at a block of voxels: from a velocity to a displacement, or a squaring.

``exponential`` stores what each step gives; ``warp_exponential`` uses the last one at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from .gather import added, load_vector, sample_vector, scaled

#: Velocity, scale of the time, squarings, method, padding, and a CPU's threads.
Flow = tuple[Tensor, float, int, str, str, int]
#: A stack of displacements, and which ones they are.
Stages = tuple[Tensor | None, Sequence[int]]


@triton.jit
def intermediate_velocities(
    velocity,
    n,
    first,
    position,
    active,
    scale,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
):
    """The second and third velocity that the classical Runge-Kutta step meets on its way."""
    where = (position, active)
    half = scaled(first, scale / 2)
    second = sample_vector(velocity, n, half, *where, NDIM, PADDING)
    half = scaled(second, scale / 2)
    third = sample_vector(velocity, n, half, *where, NDIM, PADDING)
    return second, third


@triton.jit
def next_displacement(
    field,
    n,
    position,
    active,
    scale,
    STEP: tl.constexpr,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    ACC: tl.constexpr,
):
    """The displacement that one step makes of a field, at the voxels of a position.

    STEP is "square", of ``scale * field``, or what makes ``u_0`` of a velocity: "euler", "midpoint"
    or "rk4" over the time ``scale``.
    """
    scale = tl.cast(scale, ACC)
    where = (position, active)
    value = load_vector(field, n, position, active, NDIM, ACC)
    if STEP == "euler":
        result = scaled(value, scale)
    elif STEP == "square":
        u = scaled(value, scale)
        further = sample_vector(field, n, u, *where, NDIM, PADDING)
        result = scaled(added(further, value), scale)
    elif STEP == "midpoint":
        half = scaled(value, scale / 2)
        further = sample_vector(field, n, half, *where, NDIM, PADDING)
        result = scaled(further, scale)
    else:
        second, third = intermediate_velocities(field, n, value, *where, scale, NDIM, PADDING)
        whole = scaled(third, scale)
        fourth = sample_vector(field, n, whole, *where, NDIM, PADDING)
        inner = scaled(added(second, third), 2)
        result = scaled(added(added(value, inner), fourth), scale / 6)
    return result


def first_stage(steps: int, method: str) -> int:
    """The first displacement that is ever in memory."""
    return 1 if method == "euler" and steps > 0 else 0


def step_of(steps: int, method: str) -> str:
    """What makes the first stage of the velocity; see next_displacement."""
    return "square" if first_stage(steps, method) == 1 else method
