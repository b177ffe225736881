"""compose: beside the warp-and-add of projects that have no composition of their own."""

from __future__ import annotations

import pytest

import plasticine
from benchmarks import peers
from benchmarks.contest import (
    FULL_3D,
    HALF_DTYPES,
    SIZES,
    Contender,
    Contest,
    compiled,
    in_float32,
    ours,
    with_dtypes,
)
from plasticine import reference


def floor(ndim: int, backward: bool) -> float:
    # Backward: the gradient and both fields read, one gradient written, the other scattered.
    return 3 * ndim + (3 * ndim + ndim + 3 * ndim if backward else 0)


CONTEST = Contest(
    "compose",
    inputs=lambda case: (case.field(), -0.5 * case.field()),
    expected=reference.compose,
    floor=floor,
    cases=(*SIZES, *with_dtypes(FULL_3D, dtypes=HALF_DTYPES)),
    contenders=(
        Contender("grid_sample", peers.pipeline_compose(peers.grid_sample("bilinear")), in_float32),
        Contender("monai", peers.pipeline_compose(peers.monai_warp), in_float32),
        compiled(reference.compose),
        *ours("compose", plasticine.compose),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_compose(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
