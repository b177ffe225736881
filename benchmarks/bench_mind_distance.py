"""mind_distance: beside the descriptors of all channels in plain PyTorch, by autograd."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from torch import Tensor

import plasticine
from benchmarks.contest import (
    FULL_3D,
    HALF_DTYPES,
    SIZES,
    Case,
    Contender,
    Contest,
    Prepared,
    in_float32,
    ours,
    with_dtypes,
)
from plasticine import reference


def images(case: Case) -> tuple[Tensor, Tensor]:
    """Smoothed noise, and the same half hidden in other noise."""
    pool = F.avg_pool2d if case.ndim == 2 else F.avg_pool3d
    x = pool(case.image(), 3, 1, 1)
    return x, x + x.roll(9, -1)


def floor(ndim: int, backward: bool) -> float:
    return 2 + (4 if backward else 0)


def plain_torch(case: Case, *inputs: Tensor) -> Prepared:
    """The definition: what the registration of single pairs called."""
    return Prepared(reference.mind_distance)


CONTEST = Contest(
    "mind_distance",
    inputs=images,
    expected=reference.mind_distance,
    floor=floor,
    cases=(*SIZES, *with_dtypes(FULL_3D, dtypes=HALF_DTYPES)),
    contenders=(
        Contender("torch", plain_torch, in_float32),
        *ours("mind_distance", plasticine.mind_distance),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_mind_distance(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
