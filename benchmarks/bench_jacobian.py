"""jacobian_determinant: beside torch.gradient, VoxelMorph's NumPy, deepali and SimpleITK."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import plasticine
from benchmarks import peers
from benchmarks.contest import (
    FULL_3D,
    HALF_DTYPES,
    MEDIUM_3D,
    SIZES,
    Contender,
    Contest,
    compiled,
    forward_in_float32,
    forward_of_one,
    in_float32,
    ours,
    same,
    with_dtypes,
)
from plasticine import reference


def floor(ndim: int, backward: bool) -> float:
    return ndim + 1 + (1 + ndim + ndim if backward else 0)


CONTEST = Contest(
    "jacobian_determinant",
    inputs=lambda case: (case.field(),),
    expected=reference.jacobian_determinant,
    floor=floor,
    cases=(
        *SIZES,
        *with_dtypes(FULL_3D, dtypes=HALF_DTYPES),
        replace(MEDIUM_3D, dtype=torch.float64),
    ),
    contenders=(
        Contender("torch_gradient", same(peers.gradient_determinant), in_float32),
        Contender("voxelmorph", peers.voxelmorph_determinant, forward_in_float32, device="cpu"),
        Contender("deepali", peers.deepali_determinant, in_float32, margin=1),
        Contender("SimpleITK", peers.sitk_determinant, forward_of_one, margin=1),
        compiled(reference.jacobian_determinant, FULL_3D, ("forward",)),
        *ours("jacobian", plasticine.jacobian_determinant),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_jacobian_determinant(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
