"""``register`` on tensors as users have them."""

from __future__ import annotations

import pytest
import torch
from textures import texture
from torch import Tensor

from plasticine.registration import Landmarks, Similarity, register


def test_what_a_start_must_not_be() -> None:
    fixed = texture((20, 22, 18))
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="initial must not mirror"):
        register(fixed, fixed, initial=mirror)
    points = torch.rand(1, 9, 3, generator=torch.Generator().manual_seed(0)) * 15
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0]) + torch.tensor([19.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="landmarks must not mirror"):
        register(fixed, fixed, landmarks=Landmarks(mirrored, points))
    far = torch.eye(4)
    far[0, 3] = 1000
    with pytest.raises(ValueError, match="nothing of the fixed image lies inside"):
        register(fixed, fixed, initial=far)


def test_arguments_as_arrays_of_files_are() -> None:
    """Neither images nor masks nor a start contiguous; a voxel along an axis."""
    fixed = texture((20, 22, 18))
    moving = fixed.roll(1, 2)

    def turned(image: Tensor) -> Tensor:
        return image.mT.contiguous().mT

    mask = (fixed > -0.5).float()
    expected = register(moving, fixed, budget="fast", fixed_mask=mask, moving_mask=mask)
    found = register(
        turned(moving),
        turned(fixed),
        budget="fast",
        fixed_mask=turned(mask) > 0,
        moving_mask=turned(mask),
    )
    assert torch.equal(found.displacement, expected.displacement)
    start = turned(expected.displacement)
    register(turned(moving), turned(fixed), budget="fast", initial_displacement=start)
    flat = texture((1, 9, 9))
    assert register(flat, flat, budget="fast").folding.folds == 0


def test_several_losses_by_their_names() -> None:
    fixed = texture((24, 22))
    moving = fixed.roll(1, 2)
    by_name = register(moving, fixed, budget="fast", metric=["lncc", Similarity("mind")])
    both = register(moving, fixed, budget="fast", metric=[Similarity("lncc"), Similarity("mind")])
    assert torch.equal(by_name.displacement, both.displacement)
