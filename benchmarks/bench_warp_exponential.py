"""warp_exponential: the last squaring within the warp, beside the two in a row."""

from __future__ import annotations

import pytest
from torch import Tensor

import plasticine
from benchmarks import peers
from benchmarks.contest import (
    BATCH_2D,
    FULL_3D,
    HALF_DTYPES,
    MEDIUM_3D,
    SINGLE_2D,
    Case,
    Contender,
    Contest,
    Prepared,
    in_float32,
    ours,
    with_dtypes,
)

STEPS = 7


def floor(ndim: int, backward: bool) -> float:
    squarings = (STEPS - 1) * (2 * ndim + (5 * ndim if backward else 0))
    warp = 2 + ndim + (2 + ndim + 3 * ndim + 3 if backward else 0)
    return squarings + warp


def monai(case: Case, image: Tensor, velocity: Tensor) -> Prepared:
    integrate = peers.monai_exponential(case, velocity, steps=STEPS).call
    warp = peers.monai_warp(case).call
    return Prepared(lambda image, velocity: warp(image, integrate(velocity)))


def where_quick(case: Case, direction: str) -> bool:
    return in_float32(case, direction) and case != FULL_3D


def two_calls(image: Tensor, velocity: Tensor, backend: str) -> Tensor:
    flow = plasticine.exponential(velocity, steps=STEPS, backend=backend)
    return plasticine.warp(image, flow, backend=backend)


def one_call(image: Tensor, velocity: Tensor, backend: str) -> Tensor:
    return plasticine.warp_exponential(
        image, velocity, steps=STEPS, method="euler", backend=backend
    )


CONTEST = Contest(
    "warp_exponential",
    inputs=lambda case: (case.image(), case.field()),
    expected=lambda image, velocity: two_calls(image, velocity, "reference"),
    floor=floor,
    cases=(
        SINGLE_2D,
        BATCH_2D,
        MEDIUM_3D,
        FULL_3D,
        *with_dtypes(MEDIUM_3D, dtypes=HALF_DTYPES),
    ),
    contenders=(
        Contender("monai", monai, where_quick),
        *ours("exponential", two_calls, "_in_two_calls"),
        *ours("exponential", one_call),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_warp_exponential(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
