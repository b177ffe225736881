"""warp, linear: beside ``F.grid_sample`` with the grid it needs, the peers, and torch.compile."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import plasticine
from benchmarks import peers
from benchmarks.contest import (
    BATCH_2D,
    FULL_3D,
    HALF_DTYPES,
    MEDIUM_3D,
    SIZES,
    Case,
    Contender,
    Contest,
    compiled,
    forward_of_one,
    ours,
    with_dtypes,
    without_long_waits,
)
from plasticine import reference

SMALL_DISPLACEMENT = tuple(replace(case, displacement="small") for case in (BATCH_2D, FULL_3D))
CASES = (
    *SIZES,
    *SMALL_DISPLACEMENT,
    *with_dtypes(BATCH_2D, FULL_3D, dtypes=HALF_DTYPES),
    replace(MEDIUM_3D, dtype=torch.bfloat16),
    replace(MEDIUM_3D, dtype=torch.float64),
)


def floor(ndim: int, backward: bool) -> float:
    forward = 2 + ndim
    # Gradient, image and field read, the field's gradient written, the image's scattered.
    return forward + (2 + ndim + ndim + 3 if backward else 0)


def in_full_precision(case: Case, direction: str) -> bool:
    return case.dtype.itemsize >= 4


def in_bfloat16_once(case: Case, direction: str) -> bool:
    """It is slow in half types: one size shows it."""
    return case == replace(MEDIUM_3D, dtype=torch.bfloat16)


def in_float32_and_smooth(case: Case, direction: str) -> bool:
    """Small displacements are for the share of the floor: one peer beside them is enough."""
    return case.dtype == torch.float32 and case.displacement == "smooth"


CONTEST = Contest(
    "warp",
    inputs=lambda case: (case.image(), case.field()),
    expected=reference.warp,
    floor=floor,
    cases=CASES,
    contenders=(
        Contender("grid_sample", peers.grid_sample("bilinear"), in_full_precision),
        # It computes the coordinates in bfloat16 too, and is off by tenths.
        Contender("grid_sample", peers.grid_sample("bilinear"), in_bfloat16_once, tolerance=1.0),
        Contender("monai", peers.monai_warp, in_float32_and_smooth),
        Contender("voxelmorph", peers.voxelmorph_transform, without_long_waits),
        Contender("deepali", peers.deepali_warp, without_long_waits),
        Contender("interpol", peers.interpol_pull, without_long_waits),
        Contender("SimpleITK", peers.sitk_warp, forward_of_one),
        Contender("scipy", peers.scipy_map_coordinates, forward_of_one),
        compiled(reference.warp, MEDIUM_3D, ("forward", "forward_and_backward")),
        *ours("warp", plasticine.warp),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_warp(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
