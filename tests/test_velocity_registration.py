"""Registration by a velocity: the same in both directions, and what is known must be found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from refusal import refuses
from textures import inside, smooth_velocity, texture
from torch import Tensor

from plasticine import compose, exponential, folding, gaussian_smooth, warp
from plasticine.metrics import end_point_error, inverse_consistency_error
from plasticine.nn.points import move_points
from plasticine.registration import (
    AffineDisplacement,
    Landmarks,
    Level,
    Similarity,
    VelocityNetwork,
    VelocityRegistration,
    register,
)
from plasticine.registration.unfolding import folds
from plasticine.registration.velocity import BUDGETS

QUICK = VelocityRegistration((Level(2, 25, 1.5), Level(1, 15, 1.5)))
METRICS = ("lncc", "mind", "mutual_information", "sum_of_squares")


def known(size: tuple[int, ...], voxels: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Moving and fixed image, and u with moving∘(id + u) = fixed."""
    fixed = texture(size)
    truth, inverse = exponential(smooth_velocity(size, voxels), inverse=True)
    return warp(fixed, inverse), fixed, truth


def error(found: AffineDisplacement, truth: Tensor) -> float:
    """What is left of a deformation's end-point error, as a fraction."""
    mask = inside(tuple(truth.shape[2:]))
    before = end_point_error(torch.zeros_like(truth), truth, mask=mask)
    return end_point_error(found.displacement, truth, mask=mask) / before


def apart(first: AffineDisplacement, second: AffineDisplacement) -> Tensor:
    """How far the second is from the inverse of the first, voxels, where both lead inside."""
    left = compose(second.displacement, first.displacement).norm(dim=1, keepdim=True)
    return left[inside(tuple(left.shape[2:]))]


@pytest.mark.parametrize("size", [(48, 40), (26, 24, 28)])
@pytest.mark.parametrize("metric", METRICS)
def test_finds_a_known_deformation(size: tuple[int, ...], metric: str) -> None:
    moving, fixed, truth = known(size)
    if metric in ("mind", "mutual_information"):
        moving, fixed = moving.abs() - 0.5, 0.5 - fixed.abs()  # another contrast, not monotone
    calls: list[tuple[int, int]] = []
    settings = replace(QUICK, similarity=Similarity(metric))
    found = settings(moving, fixed, progress=lambda *done: calls.append(done))
    assert error(found, truth) < 0.45
    assert not folds(found.displacement)
    assert found.velocity is not None
    back = exponential(-found.velocity)
    assert not folds(back)
    assert calls == [(done, 40) for done in range(1, 41)]


@pytest.mark.parametrize("size", [(48, 40), (50, 26, 24)])
def test_the_images_may_change_places(size: tuple[int, ...]) -> None:
    moving, fixed, truth = known(size)
    there, back = QUICK(moving, fixed), QUICK(fixed, moving)
    moved = truth[inside(size).expand_as(truth)].abs().mean()
    # The very negative but for rounding, which 40 steps carry on.
    torch.testing.assert_close(back.velocity, -there.velocity, atol=1e-2, rtol=0)
    assert apart(there, back).mean() < 0.02 * moved
    assert apart(back, there).mean() < 0.02 * moved


@pytest.mark.parametrize("size", [(48, 40), (26, 24, 28)])
def test_both_ways_lead_back(size: tuple[int, ...]) -> None:
    moving, fixed, _ = known(size)
    found = QUICK(moving, fixed)
    inverse = found.inverse()
    for mapping, other in ((found, inverse), (inverse, found)):
        assert apart(mapping, other).mean() < 0.01
    mask = inside(size)
    assert found.velocity is not None
    by_velocity = exponential(-found.velocity)
    assert end_point_error(inverse.displacement, by_velocity, mask=mask) < 0.02
    assert inverse_consistency_error(found.displacement, by_velocity, mask=mask) < 0.02


def test_the_grids_may_differ() -> None:
    size = (48, 40)
    moving, fixed, truth = known(size)
    # The moving image on a grid of its own: transposed, flipped, finer and shifted.
    to_known = torch.tensor([[[0.0, 0.5, -1.0], [-0.5, 0.0, 41.0]]])  # its voxels to those of known
    other_size = (92, 104)
    other = warp(moving, torch.zeros(1, 2, *other_size), affine=to_known)
    linear = torch.linalg.inv(to_known[:, :, :2])
    affine = torch.cat([linear, -linear @ to_known[:, :, 2:]], 2)
    torch.testing.assert_close(  # the start is what it is meant to be
        warp(other, torch.zeros_like(truth), affine=affine)[..., 2:-2, 2:-2],
        moving[..., 2:-2, 2:-2],
        atol=1e-4,
        rtol=0,
    )
    found = QUICK(other, fixed, affine=affine)
    assert error(found, truth) < 0.45
    inverse = found.inverse()
    assert tuple(inverse.displacement.shape[2:]) == other_size
    assert tuple(inverse.moving_size) == size
    smooth = gaussian_smooth(fixed, 2.0)
    returned = found.warp(inverse.warp(smooth))
    inner = inside(size)
    assert (returned - smooth)[inner].abs().mean() < 0.05 * smooth[inner].abs().mean()
    # The other way round: from a coarse moving image to a fine fixed one.
    back = QUICK(fixed, other, affine=to_known)
    there_and_back = found.warp(back.warp(smooth))
    assert (there_and_back - smooth)[inner].abs().mean() < 0.1 * smooth[inner].abs().mean()


def test_what_a_mask_leaves_out_is_not_looked_at() -> None:
    moving, fixed, truth = known((48, 40), 1.5)
    fixed_mask, moving_mask = torch.ones(1, 1, 48, 40), torch.ones(1, 1, 48, 40, dtype=torch.bool)
    fixed_mask[:, :, 30:40, 20:30] = 0
    moving_mask[:, :, 8:16, 8:16] = False
    spoilt_fixed = torch.where(fixed_mask > 0, fixed, 5.0)
    spoilt_moving = torch.where(moving_mask, moving, -5.0)
    masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    for metric in METRICS:
        settings = replace(QUICK, similarity=Similarity(metric))
        found = [
            settings(image, other, **masks)
            for image, other in ((moving, fixed), (spoilt_moving, spoilt_fixed))
        ]
        torch.testing.assert_close(found[0].velocity, found[1].velocity, atol=0, rtol=0)
    assert error(QUICK(spoilt_moving, spoilt_fixed, **masks), truth) < 0.5


def test_pairs_do_not_see_each_other_and_bits_repeat() -> None:
    moving, fixed = texture((32, 28), 2), texture((32, 28), 2, seed=3)
    together = QUICK(moving, fixed).displacement
    assert torch.equal(QUICK(moving, fixed).displacement, together)
    alone = QUICK(moving[1:], fixed[1:]).displacement
    torch.testing.assert_close(together[1:], alone, atol=1e-3, rtol=0)


def test_starts_from_a_networks_answer() -> None:
    size = (28, 32)
    moving, fixed, truth = known(size)
    still = VelocityRegistration((Level(1, 1),), step=1e-6, total_sigma=0.0)
    velocity = smooth_velocity(size, 2.0)
    found = still(moving, fixed, initial=velocity)
    torch.testing.assert_close(found.velocity, velocity, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.displacement, truth, atol=2e-2, rtol=0)
    answer = VelocityNetwork(2, channels=(4, 8)).eval()(moving, fixed)
    started = QUICK(moving, fixed, affine=answer.affine, initial=answer.velocity)
    assert error(started, truth) < 0.6
    assert not started.displacement.requires_grad


def test_several_similarities_and_landmarks() -> None:
    moving, fixed, truth = known((48, 40))
    both = replace(QUICK, similarity=(Similarity(), Similarity("mind", weight=0.5)))
    assert error(both(moving, fixed), truth) < 0.45
    flat = torch.zeros_like(fixed)
    places = torch.tensor([[[12.0, 14.0], [30.0, 20.0]]])
    points = Landmarks(moving=places + torch.tensor([3.0, -2.0]), fixed=places)
    u = replace(QUICK, levels=(Level(1, 40, 3.0),))(flat, flat, landmarks=points).displacement
    for row, column in places[0].long().tolist():
        torch.testing.assert_close(
            u[0, :, row, column], torch.tensor([3.0, -2.0]), atol=0.6, rtol=0
        )


def test_equal_and_flat_images_stay_where_they_are() -> None:
    image = texture((32, 30))
    assert QUICK(image, image).displacement.norm(dim=1).mean() < 0.05
    flat = torch.full_like(image, 3.0)
    for metric in METRICS:
        settings = replace(QUICK, similarity=Similarity(metric))
        assert settings(flat, flat).displacement.abs().max() < 0.02


def test_what_would_fold_is_smoothed() -> None:
    # Without smoothing, in steps of two voxels, after noise.
    wild = VelocityRegistration((Level(1, 20, 0.0),), step=2.0, decay=1.0, total_sigma=0.0)
    found = wild(texture((40, 36)), texture((40, 36), seed=5))
    assert found.velocity is not None
    assert not folds(found.displacement)
    assert not folds(exponential(-found.velocity, steps=3, method="midpoint"))


def test_register_by_velocity(data_folder: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    volumes = [
        torch.from_numpy(
            nibabel.load(data_folder / "brain_t1_labels" / f"IXI{name}_t1.nii.gz").get_fdata()
        )[None, None, ::2, ::2, ::2]
        .float()
        .contiguous()
        for name in ("012", "013")
    ]
    spacing = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0])).double()
    there, back = (
        register(*images, spacing, spacing, method="velocity", budget="fast")
        for images in (volumes, volumes[::-1])
    )
    assert float(there.inverse_consistency().mean()) < 0.05
    assert int(folding(there.mapping.displacement).folds) == 0
    # Each has an affine map of its own: what is found is the other's inverse all the same.
    head = volumes[1] > 30
    difference = (there.displacement - back.inverse_displacement).norm(dim=1, keepdim=True)
    assert (
        difference[head].mean() < 0.25 * there.displacement.norm(dim=1, keepdim=True)[head].mean()
    )


def test_budgets() -> None:
    counts = [BUDGETS[budget].iterations for budget in ("fast", "default", "best")]
    assert counts == sorted(counts)


def test_refuses() -> None:
    image = texture((20, 18))
    refuses(ValueError, "needs a level", replace, QUICK, levels=())
    refuses(ValueError, "step must be positive", replace, QUICK, step=0.0)
    refuses(ValueError, "initial must be", QUICK, image, image, initial=torch.zeros(1, 2, 4, 4))
    refuses(TypeError, "float16", QUICK, image.half(), image.half())
    refuses(ValueError, "method must be one of greedy, velocity", register, image, image, method="")


@pytest.mark.parametrize("size", [(48, 40), (26, 24, 28)])
def test_continues_from_a_displacement(size: tuple[int, ...]) -> None:
    """Half of the way is known: what is left is found, with masks and landmarks in their places."""
    moving, fixed, truth = known(size, 4.0)
    matrix = torch.eye(len(size) + 1)
    matrix[:-1, -1] = 2.0  # a shift that the moving image's header undoes
    places = torch.tensor([[[n * part for n in size] for part in (0.3, 0.45, 0.6)]])
    ends = move_points(places, truth)
    counts = torch.ones(1, 1, *size)
    given = {
        "method": "velocity",
        "metric": Similarity("sum_of_squares"),
        "initial_displacement": 0.5 * truth + 2.0,
        "moving_mask": counts,
        "fixed_mask": counts,
        "landmarks": Landmarks(ends + 2.0, places),
    }
    found = register(moving, fixed, matrix, torch.eye(len(size) + 1), **given)  # type: ignore[arg-type]
    whole = AffineDisplacement(found.displacement - 2.0, None, size)
    assert error(whole, truth) < 0.25
    assert not folds(found.displacement)
    assert found.mapping.velocity is None
    errors = found.landmark_errors(given["landmarks"])  # type: ignore[arg-type]
    assert errors["after"].mean() < 0.5 * errors["affine"].mean()
    assert found.inverse_consistency().mean() < 0.1


def test_continues_from_a_displacement_that_folds() -> None:
    moving, fixed, truth = known((40, 36), 1.0)
    start = truth.clone()
    start[0, 0, 18:20] += torch.tensor([6.0, -6.0])[:, None]
    assert folds(start)
    found = register(moving, fixed, method="velocity", initial_displacement=start)
    assert not folds(found.displacement)
