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
    GPU_SMALLEST_2D,
    HALF_DTYPES,
    MEDIUM_3D,
    SIZES,
    Case,
    Contender,
    Contest,
    Prepared,
    compiled,
    in_float32,
    ours,
    with_dtypes,
    without_long_waits,
)
from plasticine import reference

STEPS = 7
COMPARED = (BATCH_2D, MEDIUM_3D, FULL_3D)


def floor_of(passes: int) -> functools.partial[float]:
    return functools.partial(_floor, passes)


def _floor(passes: int, ndim: int, backward: bool) -> float:
    return passes * (2 * ndim + (5 * ndim if backward else 0))


@functools.lru_cache(maxsize=2)
def fine_flow(case: Case) -> Tensor:
    """The flow of the linearly interpolated field by 32 steps of Runge and Kutta's fourth order."""
    velocity = case.field().to(case.place)
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
    return (result.to(case.place) - fine_flow(case)).norm(dim=1).mean().item()


@functools.cache
def error_of_euler(case: Case) -> float:
    velocity = case.field().to(case.place)
    return mean_error(case, plasticine.exponential(velocity, steps=STEPS))


@functools.cache
def midpoint_steps(case: Case) -> int:
    """The fewest squarings by which midpoint is as exact as Euler's seven, for this very field."""
    velocity = case.field().to(case.place)
    for steps in range(STEPS):
        flow = plasticine.exponential(velocity, method="midpoint", steps=steps)
        if mean_error(case, flow) <= error_of_euler(case):
            return steps
    return STEPS


def at_least_as_exact(case: Case, result: Tensor) -> dict[str, float]:
    """As seven Euler squarings, in the mean."""
    euler, found = error_of_euler(case), mean_error(case, result.float())
    assert found <= euler, f"mean error {found:.3g} voxels, and {euler:.3g} of Euler's squarings"
    return {"mean_error": found, "mean_error_of_euler": euler, "squarings": midpoint_steps(case)}


def where_compared(case: Case, direction: str) -> bool:
    return case in COMPARED or (case.on_gpu and case != GPU_SMALLEST_2D)


def where_kept(case: Case, direction: str) -> bool:
    """Recomputing is for the backward pass."""
    return where_compared(case, direction) and direction == "forward_and_backward"


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
        compiled(reference.exponential),
        *ours("exponential", plasticine.exponential),
        *ours(
            "exponential",
            functools.partial(plasticine.exponential, checkpoint="recompute"),
            "_recompute",
            joins=where_kept,
        ),
        *ours(
            "exponential",
            functools.partial(plasticine.exponential, method="midpoint"),
            "_midpoint",
            for_case=lambda case: {"steps": midpoint_steps(case)},
            joins=where_compared,
            check=at_least_as_exact,
            # The first step samples the field too.
            floor=lambda case, backward: _floor(1 + midpoint_steps(case), case.ndim, backward),
        ),
    ),
)


# As MONAI's own default has it.
ZEROS = Contest(
    "exponential_zeros",
    inputs=EXPONENTIAL.inputs,
    expected=functools.partial(plasticine.exponential, padding="zeros", backend="reference"),
    floor=floor_of(STEPS),
    cases=(BATCH_2D, FULL_3D),
    contenders=(
        Contender("monai", functools.partial(peers.monai_exponential, padding="zeros"), in_float32),
        Contender("fireants", peers.fireants_exponential, in_float32),
        *ours("exponential", functools.partial(plasticine.exponential, padding="zeros")),
        *ours(
            "exponential",
            functools.partial(plasticine.exponential, padding="zeros", checkpoint="recompute"),
            "_recompute",
            joins=where_kept,
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
        Contender(
            "monai",
            both_ways(peers.monai_exponential),
            lambda case, direction: (
                case == MEDIUM_3D or case.on_gpu or (case == BATCH_2D and direction == "forward")
            ),
        ),
        *ours("exponential", functools.partial(plasticine.exponential, inverse=True)),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), EXPONENTIAL.entries())
def test_exponential(case, direction, contender, run_contest):
    run_contest(EXPONENTIAL, case, direction, contender)


@pytest.mark.parametrize(("case", "direction", "contender"), ZEROS.entries())
def test_exponential_zeros(case, direction, contender, run_contest):
    run_contest(ZEROS, case, direction, contender)


@pytest.mark.parametrize(("case", "direction", "contender"), PAIR.entries())
def test_exponential_pair(case, direction, contender, run_contest):
    run_contest(PAIR, case, direction, contender)
