"""The roof: what ``Tensor.copy_`` moves, from buffers that a cache holds to some that none does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.contest import Case, Contender, Contest, Prepared


def torch_copy(case: Case, source: Tensor) -> Prepared:
    target = torch.empty_like(source)
    return Prepared(lambda source: target.copy_(source))


CONTEST = Contest(
    "copy",
    inputs=lambda case: (torch.arange(case.voxels, dtype=torch.float32)[None],),
    expected=lambda source: source,
    floor=lambda ndim, backward: 2,
    cases=tuple(Case((1 << power,)) for power in range(15, 26)),
    gpu_cases=tuple(Case((1 << power,), device="cuda") for power in range(18, 30)),
    contenders=(Contender("copy", torch_copy),),
    directions=("forward",),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_copy(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
