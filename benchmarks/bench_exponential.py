"""exponential: seven Euler squarings, what is as exact in fewer, the inverse pair, recomputing.

Bytes of a squaring: the field read and written; backward, the gradient and the kept field read and
the next gradient scattered (zeroed, read and written).
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

import plasticine
from benchmarks import peers
from benchmarks.contest import (
    BATCH_2D,
    FULL_3D,
    HALF_DTYPES,
    MEDIUM_3D,
    SIZES,
    Case,
    Contender,
    Contest,
    Prepared,
    in_float32,
    ours,
    with_dtypes,
    without_long_waits,
)
from plasticine.ops._checks import METHODS

STEPS = 7
MIDPOINT_STEPS = 3
COMPARED = (BATCH_2D, MEDIUM_3D, FULL_3D)


def floor_of(passes: int) -> functools.partial[float]:
    return functools.partial(_floor, passes)


def _floor(passes: int, ndim: int, backward: bool) -> float:
    return passes * (2 * ndim + (5 * ndim if backward else 0))


@functools.lru_cache(maxsize=1)
def fine_flow(case: Case) -> Tensor:
    """The flow of the linearly interpolated field by 32 steps of Runge and Kutta's fourth order."""
    velocity = case.field()
    flow = torch.zeros_like(velocity)
    step = 1 / 32
    for _ in range(32):
        first = plasticine.warp(velocity, flow)
        second = plasticine.warp(velocity, flow + first * (step / 2))
        third = plasticine.warp(velocity, flow + second * (step / 2))
        fourth = plasticine.warp(velocity, flow + third * step)
        flow = flow + (first + 2 * second + 2 * third + fourth) * (step / 6)
    return flow


def mean_error(case: Case, result: Tensor) -> float:
    """Voxels."""
    return (result - fine_flow(case)).norm(dim=1).mean().item()


def at_least_as_exact(case: Case, result: Tensor) -> dict[str, float]:
    """As seven Euler squarings, in the mean."""
    euler = mean_error(case, plasticine.exponential(case.field(), steps=STEPS))
    found = mean_error(case, result.float())
    assert found <= euler, f"mean error {found:.3g} voxels, and {euler:.3g} of Euler's squarings"
    return {"mean_error": found, "mean_error_of_euler": euler}


def where_kept(case: Case, direction: str) -> bool:
    """Recomputing is for the backward pass."""
    return case in COMPARED and direction == "forward_and_backward"


EXPONENTIAL = Contest(
    "exponential",
    inputs=lambda case: (case.field(),),
    expected=lambda velocity: plasticine.exponential(velocity, backend="reference"),
    floor=floor_of(STEPS),
    cases=(*SIZES, *with_dtypes(FULL_3D, dtypes=HALF_DTYPES)),
    contenders=(
        Contender("monai", peers.monai_exponential, in_float32),
        Contender("voxelmorph", peers.voxelmorph_exponential, without_long_waits),
        Contender("deepali", peers.deepali_exponential, without_long_waits),
        *ours("exponential", plasticine.exponential),
        *ours(
            "exponential",
            functools.partial(plasticine.exponential, checkpoint="recompute"),
            "_recompute",
            joins=where_kept,
        ),
        *ours(
            "exponential",
            functools.partial(plasticine.exponential, method="midpoint", steps=MIDPOINT_STEPS),
            "_midpoint",
            joins=lambda case, direction: "midpoint" in METHODS and case in COMPARED,
            check=at_least_as_exact,
            floor=floor_of(1 + MIDPOINT_STEPS),
        ),
    ),
)


def both_ways(prepare: peers.Prepare) -> peers.Prepare:
    """A peer's way to exp(v) and exp(-v): twice."""

    def prepare_both(case: Case, velocity: Tensor) -> Prepared:
        one = prepare(case, velocity).call
        return Prepared(lambda velocity: (one(velocity), one(-velocity)))

    return prepare_both


PAIR = Contest(
    "exponential_pair",
    inputs=EXPONENTIAL.inputs,
    expected=functools.partial(plasticine.exponential, inverse=True, backend="reference"),
    floor=lambda ndim, backward: 2 * _floor(STEPS, ndim, backward),
    cases=(BATCH_2D, MEDIUM_3D, FULL_3D),
    contenders=(
        Contender("monai", both_ways(peers.monai_exponential), without_long_waits),
        *ours("exponential", functools.partial(plasticine.exponential, inverse=True)),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), EXPONENTIAL.entries())
def test_exponential(case, direction, contender, run_contest):
    run_contest(EXPONENTIAL, case, direction, contender)


@pytest.mark.parametrize(("case", "direction", "contender"), PAIR.entries())
def test_exponential_pair(case, direction, contender, run_contest):
    run_contest(PAIR, case, direction, contender)
