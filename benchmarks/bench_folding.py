"""folding: all six statistics of a field, beside peers that only count the folds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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
    Prepared,
    forward_in_float32,
    ours,
    same,
    with_dtypes,
)


def rough_field(case: Case) -> Tensor:
    """Smooth, with noise that folds a part of it."""
    noise = torch.randn(case.batch, case.ndim, *case.spatial, generator=case.generator())
    return case.field() + 0.3 * noise


def count_by_torch(displacement: Tensor) -> Tensor:
    return (peers.gradient_determinant(displacement) <= 0).flatten(1).sum(1)


def count_by_voxelmorph(case: Case, displacement: Tensor) -> Prepared:
    prepared = peers.voxelmorph_determinant(case, displacement)

    def count(*fields: np.ndarray) -> np.ndarray:
        return (prepared.call(*fields) <= 0).reshape(len(fields), -1).sum(1)

    return Prepared(count, prepared.inputs, torch.from_numpy)


CONTEST = Contest(
    "folding",
    inputs=lambda case: (rough_field(case),),
    expected=lambda field: plasticine.folding(field, backend="reference").folds.double(),
    floor=lambda ndim, backward: ndim,
    cases=(*SIZES, *with_dtypes(FULL_3D, dtypes=HALF_DTYPES)),
    contenders=(
        Contender("torch_gradient", same(count_by_torch), forward_in_float32),
        Contender("voxelmorph", count_by_voxelmorph, forward_in_float32, device="cpu"),
        *ours("folding", lambda field, backend: plasticine.folding(field, backend=backend).folds),
    ),
    directions=("forward",),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_folding(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
