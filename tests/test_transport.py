"""Pairing two populations by the optimal transport of labelled shapes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from plasticine.registration.transport import (
    centroid,
    moved_by,
    shape_distance,
    transport_plan,
)
from plasticine.structure import create
from plasticine.training.data import Domains
from plasticine.training.draws import Draws
from plasticine.training.pairs import TransportedPairs


def blocks(sizes: list[int], corner: tuple[int, ...] = (2, 3)) -> torch.Tensor:
    """Bool label channels (n, 1, ...) with one square, or cube, each."""
    masks = torch.zeros(len(sizes), 1, *[20] * len(corner), dtype=torch.bool)
    for mask, size in zip(masks, sizes, strict=True):
        mask[(0, *(slice(start, start + size) for start in corner))] = True
    return masks


@pytest.mark.parametrize("corner", [(2, 3), (1, 4, 6)])
def test_the_centroid_is_the_mean_of_the_voxels(corner: tuple[int, ...]) -> None:
    masks = blocks([3, 6], corner)
    expected = [mask[0].nonzero().double().mean(0) for mask in masks]
    torch.testing.assert_close(centroid(masks).double(), torch.stack(expected))
    masks[0] = False
    with pytest.raises(ValueError, match="nothing is labelled in 1 of 2 images"):
        centroid(masks)


def test_moving_by_whole_voxels_changes_no_value() -> None:
    image = torch.rand(2, 1, 9, 7, generator=torch.Generator().manual_seed(0))
    moved = moved_by(image, torch.tensor([[2.0, 0.0], [0.0, -1.0]]))
    assert torch.equal(moved[0, :, :7], image[0, :, 2:])
    assert torch.equal(moved[1, :, :, 1:], image[1, :, :, :6])
    assert torch.equal(moved[1, :, :, 0], image[1, :, :, 0])


@pytest.mark.parametrize("other", [(2, 3), (9, 5)])
def test_shapes_are_compared_over_one_another(other: tuple[int, int]) -> None:
    """Squares that hold one another differ by their areas, wherever they lie."""
    distance = shape_distance(blocks([3, 7]), blocks([3, 5, 9], other))
    areas = torch.tensor([[9.0], [49.0]]), torch.tensor([9.0, 25.0, 81.0])
    torch.testing.assert_close(distance, (areas[0] - areas[1]).abs())
    with pytest.raises(ValueError, match=r"\(1, 1, 20, 20\) and \(1, 1, 20, 20, 20\)"):
        shape_distance(blocks([3]), blocks([3], (1, 1, 1)))


def test_with_little_entropy_the_plan_is_the_best_assignment() -> None:
    distance = torch.rand(12, 12, generator=torch.Generator().manual_seed(1))
    plan = transport_plan(distance, 1e-3)
    rows, columns = linear_sum_assignment(distance.double().square().numpy())
    assert np.array_equal(plan.argmax(1).numpy()[rows], columns)


def test_every_target_is_met_alike_and_the_order_is_kept() -> None:
    """Sources all larger than the targets: the nearest target of each is the largest one."""
    source, target = torch.arange(20.0, 40.0), torch.arange(0.0, 15.0)
    plan = transport_plan((source[:, None] - target).abs(), 0.01)
    torch.testing.assert_close(plan.sum(1), torch.ones(20))
    torch.testing.assert_close(plan.sum(0), torch.full((15,), 20 / 15), rtol=0, atol=0.02)
    assert ((plan @ target).diff() > 0).all()
    wide = transport_plan((source[:, None] - target).abs(), 1.0)
    entropy = [-(p * p.clamp_min(1e-30).log()).sum() for p in (plan, wide)]
    assert entropy[0] < entropy[1]


def test_pairs_that_are_not_allowed_have_no_share() -> None:
    distance = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    allowed = torch.ones(4, 6, dtype=torch.bool)
    allowed[:2, :3] = False
    plan = transport_plan(distance, 0.1, allowed=allowed)
    assert (plan[~allowed] == 0).all()
    torch.testing.assert_close(plan.sum(1), torch.ones(4))
    allowed[2:, 1] = False
    with pytest.raises(ValueError, match="paired with none"):
        transport_plan(distance, 0.1, allowed=allowed)


@pytest.mark.parametrize(
    ("distance", "entropy", "message"),
    [
        (torch.zeros(2, 2), 0.0, "entropy must be positive"),
        (torch.zeros(0, 2), 0.1, r"not empty; got \(0, 2\)"),
        (torch.zeros(2), 0.1, r"got \(2,\)"),
    ],
)
def test_a_plan_of_nothing_is_refused(distance: torch.Tensor, entropy: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transport_plan(distance, entropy)


def test_equal_shapes_share_alike() -> None:
    torch.testing.assert_close(transport_plan(torch.zeros(2, 4), 0.1), torch.full((2, 4), 0.25))


def test_pairs_are_drawn_from_the_plan_and_laid_over_one_another() -> None:
    source, target = blocks([9, 7, 5]), blocks([6, 4, 2], (10, 8))
    domains = Domains(
        source.float() * 2 - 1,
        target.float() * 2 - 1,
        source_labels=source.int(),
        target_labels=target.int(),
    )
    pairs = TransportedPairs(domains, create("labels", 2, labels=[1]), entropy=1e-3)
    index, choice = pairs(Draws(torch.Generator().manual_seed(0), 64))
    assert set(index.tolist()) == {0, 1, 2}
    assert torch.equal(index, choice)  # the largest with the largest
    offset = pairs.offset(index, choice)
    assert offset is not None
    moved = moved_by(target[choice].float(), offset)
    assert ((centroid(moved) - centroid(source[index])).abs() <= 0.5).all()
    blank = dataclasses.replace(domains, source_labels=torch.zeros_like(source).int())
    with pytest.raises(ValueError, match="nothing is labelled in 3 of 3"):
        TransportedPairs(blank, create("labels", 2, labels=[1]), entropy=0.1)
