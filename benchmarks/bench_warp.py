"""warp, linear: beside ``F.grid_sample`` with the grid it needs, the peers, and torch.compile."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

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
    Prepared,
    compiled,
    cotangent,
    forward_of_one,
    ours,
    same,
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
        Contender("fireants", peers.fireants_warp, in_float32_and_smooth),
        compiled(reference.warp, MEDIUM_3D),
        *ours("warp", plasticine.warp),
    ),
)


def backward_to_field(prepare: peers.Prepare) -> peers.Prepare:
    """The backward pass alone, to the field alone: what a registration's step takes."""

    def prepare_backward(case: Case, image: Tensor, displacement: Tensor) -> Prepared:
        prepared = prepare(case, image, displacement)
        kept, field = prepared.inputs or (image, displacement)
        field = field.detach().requires_grad_()
        result = prepared.call(kept, field)
        given = cotangent(result)

        def backward(kept: Tensor, field: Tensor) -> Tensor:
            return torch.autograd.grad(result, leaf, given, retain_graph=True)[0]

        leaf = field
        return Prepared(backward, (kept, field.detach()))

    return prepare_backward


def about_the_gradient(case: Case, found: Tensor) -> dict[str, float]:
    """As a whole: single voxels lie on kinks. The unit of a peer's field is its own."""
    expected = BACKWARD.expectation(case, False)[0]
    if found.shape != expected.shape:
        return {}
    error = ((found.to(expected) - expected).norm() / expected.norm()).item()
    assert error <= 0.02 + 4 * torch.finfo(case.dtype).eps, f"the gradient differs by {error:.3g}"
    return {"gradient_error": error}


BACKWARD = Contest(
    "warp_backward_to_field",
    inputs=CONTEST.inputs,
    expected=lambda image, field: backward_to_field(same(reference.warp))(
        BATCH_2D, image, field
    ).call(image, field),
    # The gradient, the image and the field read, the field's gradient written.
    floor=lambda ndim, backward: 2 + 2 * ndim,
    cases=(BATCH_2D, MEDIUM_3D),
    contenders=tuple(
        replace(x, prepare=backward_to_field(x.prepare), check=about_the_gradient)
        for x in (
            Contender("grid_sample", peers.grid_sample("bilinear"), in_float32_and_smooth),
            Contender("monai", peers.monai_warp, in_float32_and_smooth),
            Contender("fireants", peers.fireants_warp, in_float32_and_smooth),
            compiled(reference.warp),
            *ours("warp", plasticine.warp),
        )
    ),
    directions=("forward",),
)


@pytest.mark.parametrize(("case", "direction", "contender"), BACKWARD.entries())
def test_warp_backward_to_field(case, direction, contender, run_contest):
    run_contest(BACKWARD, case, direction, contender)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_warp(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
