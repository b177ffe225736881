"""jacobian_penalty: beside the determinant as an image and what PyTorch makes of it."""

from __future__ import annotations

import functools

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
    same,
    with_dtypes,
)
from plasticine import reference
from plasticine.reference.jacobian_penalty import penalty

THRESHOLD = 0.5


def field(case: Case) -> tuple[Tensor]:
    """Steep enough to fall below the threshold in places."""
    return (1.5 * case.field(),)


def floor(ndim: int, backward: bool) -> float:
    return ndim + (2 * ndim if backward else 0)


def from_image(kind: str, u: Tensor) -> Tensor:
    """Of our determinant, an image, its penalty by PyTorch's operators."""
    return penalty(plasticine.jacobian_determinant(u), THRESHOLD, kind).flatten(1).mean(1)


def from_gradient(kind: str, u: Tensor) -> Tensor:
    """The same of torch.gradient."""
    return penalty(peers.gradient_determinant(u), THRESHOLD, kind).flatten(1).mean(1)


def contest(name: str, kind: str) -> Contest:
    options = {"threshold": THRESHOLD, "kind": kind}
    return Contest(
        name,
        inputs=field,
        expected=functools.partial(reference.jacobian_penalty, **options),
        floor=floor,
        cases=(*SIZES, *with_dtypes(FULL_3D, dtypes=HALF_DTYPES)),
        contenders=(
            Contender("torch_gradient", same(functools.partial(from_gradient, kind)), in_float32),
            Contender("own_determinant", same(functools.partial(from_image, kind)), in_float32),
            *ours("jacobian_penalty", functools.partial(plasticine.jacobian_penalty, **options)),
        ),
    )


ENTRIES = [
    pytest.param(each, *entry.values, id=f"{each.operator}-{entry.id}")
    for each in (contest("jacobian_penalty", "hinge"), contest("jacobian_penalty_log", "log"))
    for entry in each.entries()
]


@pytest.mark.parametrize(("contest", "case", "direction", "contender"), ENTRIES)
def test_jacobian_penalty(contest, case, direction, contender, run_contest):
    run_contest(contest, case, direction, contender)
