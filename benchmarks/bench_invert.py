"""invert: beside SimpleITK's fixed point, both to the same residual."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

import plasticine
from benchmarks import peers
from benchmarks.contest import (
    FULL_3D,
    HALF_DTYPES,
    MEDIUM_3D,
    SINGLE_2D,
    Case,
    Contender,
    Contest,
    Prepared,
    in_float32,
    ours,
    peer,
    with_dtypes,
)

#: The residual |u(p + w(p)) + w(p)| that no voxel may exceed, voxels.
RESIDUAL = 0.01


@functools.lru_cache(maxsize=1)
def invertible_field(case: Case) -> Tensor:
    """Smooth, still at the border, and nowhere steeper than 0.6: its fixed point converges."""
    field = case.field()
    for axis, size in enumerate(case.spatial, 2):
        window = torch.sin(torch.linspace(0, torch.pi, size))
        field = field * window.view([-1 if i == axis else 1 for i in range(field.ndim)])
    derivatives = torch.gradient(field, dim=tuple(range(2, field.ndim)))
    steepest = sum(derivative.abs() for derivative in derivatives).max()
    return field * (0.6 / steepest)


def check_residual(case: Case, inverse: Tensor) -> dict[str, float]:
    field = invertible_field(case).to(inverse).float()
    residual = plasticine.compose(field, inverse.float()).norm(dim=1).max().item()
    # In half types the inverse itself is rounded.
    rounding = torch.finfo(inverse.dtype).eps * inverse.abs().max().item()
    assert residual <= RESIDUAL * 1.05 + rounding, f"the residual is {residual:.3g} voxels"
    return {"residual": residual}


def sitk_invert(case: Case, displacement: Tensor) -> Prepared:
    sitk = peer("SimpleITK")

    def invert(field: object) -> object:
        # It stops at the first of its thresholds: without a mean, at the largest residual.
        return sitk.InvertDisplacementField(
            field,
            maximumNumberOfIterations=100,
            maxErrorToleranceThreshold=RESIDUAL,
            meanErrorToleranceThreshold=0.0,
        )

    return Prepared(
        invert, (peers.sitk_image(displacement),), lambda image: peers.from_sitk(image).float()
    )


def our_invert(displacement: Tensor, backend: str) -> Tensor:
    return plasticine.invert(displacement, tolerance=RESIDUAL, backend=backend).displacement


CONTEST = Contest(
    "invert",
    inputs=lambda case: (invertible_field(case),),
    expected=lambda field: our_invert(field, "reference"),
    floor=lambda ndim, backward: 2 * ndim + (4 * ndim if backward else 0),
    cases=(SINGLE_2D, MEDIUM_3D, FULL_3D, *with_dtypes(MEDIUM_3D, dtypes=HALF_DTYPES)),
    contenders=(
        Contender(
            "SimpleITK",
            sitk_invert,
            lambda case, direction: case.device == "cpu" and in_float32(case, direction),
            device="cpu",
            check=check_residual,
        ),
        *ours("invert", our_invert, check=check_residual),
    ),
    directions=("forward",),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_invert(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
