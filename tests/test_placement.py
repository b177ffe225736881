"""Where a deformation begins: at the affine map, or where the headers put the images."""

from __future__ import annotations

import pytest
import torch
from textures import smooth_velocity, texture
from torch import Tensor

from plasticine import exponential, warp
from plasticine.registration import GreedyRegistration
from plasticine.registration.affine_registration import AffineMap, nearest_map
from plasticine.registration.placement import affine_or_placed

SIZE = (64, 56)
UNIT = torch.eye(3, dtype=torch.float64)


def _shifted(voxels: float) -> AffineMap:
    """The map that moves by so many voxels along the first axis."""
    field = torch.zeros(1, 2, *SIZE)
    field[:, 0] = voxels
    return nearest_map(field, UNIT, UNIT)


def _chosen(moving: Tensor, fixed: Tensor, found: AffineMap) -> AffineMap:
    return affine_or_placed(
        found,
        GreedyRegistration(),
        moving,
        fixed,
        UNIT,
        UNIT,
        moving_mask=None,
        fixed_mask=None,
    )


@pytest.fixture
def deformed() -> tuple[Tensor, Tensor]:
    fixed = texture(SIZE)
    return warp(fixed, exponential(-smooth_velocity(SIZE, 1.5))), fixed


def test_a_map_that_leads_away_is_not_taken(deformed: tuple[Tensor, Tensor]) -> None:
    chosen = _chosen(*deformed, _shifted(20.0))
    assert chosen.start == "header"
    torch.testing.assert_close(chosen.physical, UNIT)


def test_a_map_that_is_needed_is_taken(deformed: tuple[Tensor, Tensor]) -> None:
    moving, fixed = deformed
    away = torch.zeros(1, 2, *SIZE)
    away[:, 0] = -20.0
    found = _shifted(20.0)
    assert _chosen(warp(moving, away), fixed, found) is found


def test_the_map_remains_where_both_are_as_good(deformed: tuple[Tensor, Tensor]) -> None:
    found = _shifted(0.25)
    assert _chosen(*deformed, found) is found
