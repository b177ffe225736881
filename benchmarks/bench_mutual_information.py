"""mutual_information: beside MONAI's loss, with both of its windows."""

from __future__ import annotations

import functools
from typing import Any

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


def check_mattes(case: Case, result: Tensor) -> dict[str, float]:
    """MONAI's bins are a little larger."""
    assert result.isfinite().all()
    return {}


def contest(name: str, kernel: str, *others: Contender) -> Contest:
    options = {"bins": BINS, "kernel": kernel, "value_range": ENDS}
    return Contest(
        name,
        inputs=images,
        expected=functools.partial(define, kernel=kernel),
        floor=floor,
        cases=(*SIZES, *with_dtypes(FULL_3D, dtypes=HALF_DTYPES)),
        contenders=(
            *others,
            *ours("joint_histogram", functools.partial(plasticine.mutual_information, **options)),
        ),
    )


def monai(kernel: str, **options: Any) -> Contender:
    call = functools.partial(peers.monai_information, kernel=kernel, bins=BINS)
    return Contender("monai", call, in_float32, **options)


CONTESTS = (
    contest("mutual_information", "bspline"),
    contest("mutual_information_gaussian", "gaussian", monai("gaussian")),
    contest("mutual_information_mattes", "mattes", monai("b-spline", check=check_mattes)),
)
ENTRIES = [
    pytest.param(each, *entry.values, id=f"{each.operator}-{entry.id}")
    for each in CONTESTS
    for entry in each.entries()
]


@pytest.mark.parametrize(("contest", "case", "direction", "contender"), ENTRIES)
def test_mutual_information(contest, case, direction, contender, run_contest):
    run_contest(contest, case, direction, contender)
