"""smoothness: bending and diffusion beside MONAI's, and VoxelMorph's plain differences."""

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
    SIZES,
    Contender,
    Contest,
    in_float32,
    ours,
    same,
    with_dtypes,
)
from plasticine import reference


def floor(ndim: int, backward: bool) -> float:
    return ndim + (2 * ndim if backward else 0)


def diffusion_by_differences(v: Tensor) -> Tensor:
    """As VoxelMorph's Grad and TransMorph's Grad3d take it, summed over components."""
    squares = [v.diff(dim=axis).square().flatten(2).mean(2).sum(1) for axis in range(2, v.dim())]
    return torch.stack(squares).sum(0)


def bending_by_differences(v: Tensor) -> Tensor:
    """The same of second order: differences of differences."""
    axes = range(2, v.dim())
    first = {axis: v.diff(dim=axis) for axis in axes}
    terms = [
        (1 if j == k else 2) * first[j].diff(dim=k).square().flatten(2).mean(2).sum(1)
        for j in axes
        for k in axes
        if j <= k
    ]
    return torch.stack(terms).sum(0)


def contest(name: str, order: int, scheme: str, other: Contender) -> Contest:
    options = {"order": order, "scheme": scheme}
    return Contest(
        name,
        inputs=lambda case: (case.field(),),
        expected=functools.partial(reference.smoothness, **options),
        floor=floor,
        cases=(*SIZES, *with_dtypes(FULL_3D, dtypes=HALF_DTYPES)),
        contenders=(
            other,
            *ours("smoothness", functools.partial(plasticine.smoothness, **options)),
        ),
    )


CONTESTS = (
    contest("bending", 2, "central", Contender("monai", peers.monai_bending, in_float32)),
    contest(
        "bending_forward",
        2,
        "forward",
        Contender("torch", same(bending_by_differences), in_float32),
    ),
    contest("diffusion", 1, "central", Contender("monai", peers.monai_diffusion, in_float32)),
    contest(
        "diffusion_forward",
        1,
        "forward",
        Contender("torch", same(diffusion_by_differences), in_float32),
    ),
)
ENTRIES = [
    pytest.param(each, *entry.values, id=f"{each.operator}-{entry.id}")
    for each in CONTESTS
    for entry in each.entries()
]


@pytest.mark.parametrize(("contest", "case", "direction", "contender"), ENTRIES)
def test_smoothness(contest, case, direction, contender, run_contest):
    run_contest(contest, case, direction, contender)
