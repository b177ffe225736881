"""mutual_information: beside MONAI's loss, with both of its windows."""

from __future__ import annotations

import functools

import pytest
from torch import Tensor

import plasticine
from benchmarks import peers
from benchmarks.contest import (
    FULL_3D,
    HALF_DTYPES,
    SIZES,
    Case,
    Contender,
    Contest,
    in_float32,
    ours,
    with_dtypes,
)
from plasticine import reference
from plasticine.ops._mutual_information import information

BINS = 32
# Beyond which no value lies: MONAI's Gaussian is for images in it.
ENDS = (0.0, 1.0)


def images(case: Case) -> tuple[Tensor, Tensor]:
    """Noise, and the same half hidden in other noise."""
    x = case.image()
    return x, (x + x.roll(9, -1)) / 2


def define(x: Tensor, y: Tensor, kernel: str = "bspline") -> Tensor:
    ends = x.new_tensor([[ENDS] * 2]).expand(len(x), 2, 2)
    return information(reference.joint_histogram(x, y, value_range=ends, bins=BINS, kernel=kernel))


def floor(ndim: int, backward: bool) -> float:
    return 2 + (4 if backward else 0)


def check_window(kernel: str, case: Case, result: Tensor) -> dict[str, float]:
    """Of another window than the contest's: against its own definition."""
    expected = define(*images(case), kernel).to(result)
    difference = (result - expected).abs().max().item()
    assert difference <= 1e-3, f"it differs from the definition by {difference}"
    return {"largest_difference": difference}


def check_mattes(case: Case, result: Tensor) -> dict[str, float]:
    """MONAI's bins are a little larger."""
    assert result.isfinite().all()
    return {}


CONTEST = Contest(
    "mutual_information",
    inputs=images,
    expected=define,
    floor=floor,
    cases=(*SIZES, *with_dtypes(FULL_3D, dtypes=HALF_DTYPES)),
    contenders=(
        Contender(
            "monai_gaussian",
            functools.partial(peers.monai_information, kernel="gaussian", bins=BINS),
            in_float32,
            check=functools.partial(check_window, "gaussian"),
        ),
        Contender(
            "monai_b_spline",
            functools.partial(peers.monai_information, kernel="b-spline", bins=BINS),
            in_float32,
            check=check_mattes,
        ),
        *ours(
            "joint_histogram",
            functools.partial(plasticine.mutual_information, bins=BINS, value_range=ENDS),
        ),
        *ours(
            "joint_histogram",
            functools.partial(plasticine.mutual_information, bins=BINS),
            "_own_range",
            joins=in_float32,
            check=check_mattes,
        ),
        *ours(
            "joint_histogram",
            functools.partial(
                plasticine.mutual_information, bins=BINS, kernel="gaussian", value_range=ENDS
            ),
            "_gaussian",
            joins=in_float32,
            check=functools.partial(check_window, "gaussian"),
        ),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_mutual_information(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
