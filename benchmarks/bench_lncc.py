"""lncc: beside MONAI's loss, which counts the zeros outside, and cumulative sums in PyTorch."""

from __future__ import annotations

import pytest
from torch import Tensor

import plasticine
from benchmarks import peers
from benchmarks.contest import (
    FULL_3D,
    HALF_DTYPES,
    MOST_VOXELS_OF_GRADIENTS,
    SIZES,
    TOLERANCE,
    Case,
    Contender,
    Contest,
    in_float32,
    ours,
    with_dtypes,
)
from plasticine import reference

WINDOW = 9


def images(case: Case) -> tuple[Tensor, Tensor]:
    """Noise, and the same half hidden in other noise."""
    x = case.image()
    return x, x + x.roll(WINDOW, -1)


def floor(ndim: int, backward: bool) -> float:
    return 2 + (4 if backward else 0)


def check_monai(case: Case, result: Tensor) -> dict[str, float]:
    """Against the definition with zeros outside."""
    if case.voxels > MOST_VOXELS_OF_GRADIENTS:
        return {}
    expected = reference.lncc(*images(case), None, WINDOW, border="zeros").to(result)
    difference = (result - expected).abs().max().item()
    assert difference <= TOLERANCE[case.dtype], f"MONAI differs from the reference by {difference}"
    return {"largest_difference": difference}


CONTEST = Contest(
    "lncc",
    inputs=images,
    expected=reference.lncc,
    floor=floor,
    cases=(*SIZES, *with_dtypes(FULL_3D, dtypes=HALF_DTYPES)),
    contenders=(
        Contender("monai", peers.monai_correlation, in_float32, check=check_monai),
        Contender("cumulative_sums", peers.cumulative_correlation, in_float32),
        *ours("lncc", plasticine.lncc),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_lncc(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
