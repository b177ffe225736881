"""splat beside the adjoint that autograd has of ``F.grid_sample`` and torch-interpol's push."""

from __future__ import annotations

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
    SIZES,
    Case,
    Contender,
    Contest,
    Prepared,
    forward_in_float32,
    in_float32,
    ours,
    with_dtypes,
)


def floor(ndim: int, backward: bool) -> float:
    # Image and field read, the result zeroed, read and written; backward, gradient, image and
    # field read, two gradients written.
    return 1 + ndim + 3 + (2 + ndim + 1 + ndim if backward else 0)


def grid_sample_adjoint(case: Case, *inputs: Tensor) -> Prepared:
    """What a project without a splat does; it cannot be differentiated again in 3D."""
    warp = peers.grid_sample_warp()

    def splat(image: Tensor, displacement: Tensor) -> Tensor:
        with torch.enable_grad():
            still = torch.zeros_like(image, requires_grad=True)
            return torch.autograd.grad(warp(still, displacement), still, image)[0]

    return Prepared(splat)


CONTEST = Contest(
    "splat",
    inputs=lambda case: (case.image(), case.field()),
    expected=lambda image, field: plasticine.splat(image, field, backend="reference"),
    floor=floor,
    cases=(*SIZES, *with_dtypes(FULL_3D, dtypes=HALF_DTYPES)),
    contenders=(
        Contender("grid_sample_adjoint", grid_sample_adjoint, forward_in_float32),
        Contender("interpol", peers.interpol_push, in_float32),
        *ours("splat", lambda *inputs, backend: plasticine.splat(*inputs, backend=backend)),
    ),
)


CUBIC = Contest(
    "splat_cubic",
    inputs=CONTEST.inputs,
    expected=lambda image, field: plasticine.splat(image, field, mode="cubic", backend="reference"),
    floor=floor,
    cases=(SINGLE_2D, MEDIUM_3D),
    contenders=(
        *ours(
            "splat",
            lambda *inputs, backend: plasticine.splat(*inputs, mode="cubic", backend=backend),
        ),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_splat(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)


@pytest.mark.parametrize(("case", "direction", "contender"), CUBIC.entries())
def test_splat_cubic(case, direction, contender, run_contest):
    run_contest(CUBIC, case, direction, contender)
