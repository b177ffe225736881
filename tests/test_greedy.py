"""Greedy registration: known deformations must be found, on any grid, and nothing may fold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from refusal import refuses
from textures import inside, smooth_velocity, texture
from torch import Tensor

from plasticine import exponential, folding, gaussian_smooth, warp
from plasticine.metrics import end_point_error
from plasticine.registration import (
    AffineDisplacement,
    GreedyRegistration,
    Level,
    Similarity,
)
from plasticine.registration.greedy import BUDGETS
from plasticine.registration.unfolding import folds, smallest_jacobian, unfolded

QUICK = GreedyRegistration(levels=(Level(2, 25), Level(1, 15)))


def _error(found: AffineDisplacement, truth: Tensor) -> float:
    """What is left of a deformation's end-point error, as a fraction."""
    mask = inside(tuple(truth.shape[2:]))
    before = end_point_error(torch.zeros_like(truth), truth, mask=mask)
    return end_point_error(found.offset(), truth, mask=mask) / before


@pytest.mark.parametrize("size", [(48, 40), (24, 26, 22)])
@pytest.mark.parametrize(
    ("metric", "window"),
    [("lncc", 5), ("lncc", 3), ("mind", 5), ("mutual_information", 5), ("sum_of_squares", 5)],
)
def test_finds_a_known_deformation(size: tuple[int, ...], metric: str, window: int) -> None:
    fixed = texture(size)
    displacement, inverse = exponential(smooth_velocity(size, 2.0), inverse=True)
    moving = warp(fixed, inverse)  # so that moving∘φ is fixed
    if metric in ("mind", "mutual_information"):
        fixed, moving = 0.5 - fixed.abs(), moving  # not monotone in the moving image's intensities
    calls: list[tuple[int, int]] = []
    settings = replace(QUICK, similarity=Similarity(metric, window))
    found = settings(moving, fixed, progress=lambda done, total: calls.append((done, total)))
    assert _error(found, displacement) < 0.45
    assert not folds(found.displacement)
    assert calls == [(done, 40) for done in range(1, 41)]


def test_several_channels_and_a_pair_alone() -> None:
    size = (40, 44)
    fixed = texture(size, 2, 3)
    fields = [exponential(smooth_velocity(size, 2.0, seed), inverse=True) for seed in (1, 2)]
    moving = warp(fixed, torch.cat([inverse for _, inverse in fields]))
    together = QUICK(moving, fixed)
    alone = QUICK(moving[1:], fixed[1:])
    torch.testing.assert_close(together.displacement[1:], alone.displacement, atol=1e-4, rtol=0)
    for number, (truth, _) in enumerate(fields):
        pair = replace(together, displacement=together.displacement[number : number + 1])
        assert _error(pair, truth) < 0.35
    torch.testing.assert_close(
        QUICK(moving, fixed).displacement, together.displacement, atol=0, rtol=0
    )


@pytest.mark.parametrize("size", [(48, 40), (24, 26, 22)])
def test_the_grids_may_differ(size: tuple[int, ...]) -> None:
    ndim = len(size)
    fixed = texture(size)
    truth, inverse = exponential(smooth_velocity(size, 2.0), inverse=True)
    aligned = warp(fixed, inverse)
    # The moving image: its axes in another order, one of them flipped, finer, and shifted.
    order = [*range(1, ndim), 0]
    other = aligned.permute(0, 1, *(axis + 2 for axis in order)).flip(2)
    other_size = [2 * n + 3 for n in other.shape[2:]]
    to_aligned = torch.zeros(1, ndim, ndim + 1)  # from its voxels to those of other
    to_aligned[0, :, :ndim] = torch.eye(ndim) / 2
    to_aligned[0, :, ndim] = -1.0
    zero = torch.zeros(1, ndim, *other_size)
    moving = warp(other, zero, affine=to_aligned)
    affine = torch.zeros(1, ndim, ndim + 1)
    for axis, source in enumerate(order):
        affine[0, axis, source] = 2.0
        affine[0, axis, ndim] = 2.0
    affine[0, 0, order[0]] = -2.0
    affine[0, 0, ndim] = 2.0 * (other.shape[2] - 1) + 2.0
    whole = replace(QUICK, levels=(Level(2, 20), Level(1, 20)))
    torch.testing.assert_close(  # the start is what it is meant to be
        warp(moving, torch.zeros_like(truth), affine=affine), aligned, atol=1e-5, rtol=0
    )
    found = whole(moving, fixed, affine=affine)
    mask = inside(size)
    before = end_point_error(torch.zeros_like(truth), truth, mask=mask)
    assert end_point_error(found.displacement, truth, mask=mask) < 0.45 * before
    carried = found.warp(moving)
    assert (carried - fixed).square().mean() < 0.2 * (aligned - fixed).square().mean()

    back = found.inverse()
    assert tuple(back.displacement.shape[2:]) == tuple(other_size)
    assert tuple(back.moving_size) == size
    # There and back: at the fixed voxels, of a smooth image.
    smooth = gaussian_smooth(fixed, 2.0)
    returned = found.warp(back.warp(smooth))
    inner = inside(size)
    assert (returned - smooth)[inner].abs().mean() < 0.05 * smooth[inner].abs().mean()


def test_thick_slices_are_shrunk_last() -> None:
    size = (48, 44, 48)
    texture_of = texture(size)
    truth, inverse = exponential(smooth_velocity(size, 2.5), inverse=True)

    def slices(image: Tensor) -> Tensor:
        return image.unflatten(4, (12, 4)).mean(5)

    fixed, moving = slices(texture_of), slices(warp(texture_of, inverse))
    # Of all four slices in one.
    truth = slices(truth) / torch.tensor([1.0, 1.0, 4.0]).view(1, 3, 1, 1, 1)
    settings = GreedyRegistration(levels=(Level(4, 20), Level(2, 20)))
    error = {
        spacing: _error(settings(moving, fixed, spacing=spacing), truth)
        for spacing in (None, (1.0, 1.0, 1.0), (0.5, 0.5, 2.0))
    }
    assert error[(1.0, 1.0, 1.0)] == error[None]
    assert error[(0.5, 0.5, 2.0)] < 0.9 * error[None], error
    assert error[(0.5, 0.5, 2.0)] < 0.6


def test_images_need_not_be_contiguous() -> None:
    """As arrays of NIfTI files are not."""
    size = (26, 24, 22)
    fixed = texture(size)
    moving = warp(fixed, exponential(-smooth_velocity(size, 2.0)))
    turned = [image.mT.contiguous().mT for image in (moving, fixed)]
    assert not turned[0].is_contiguous()
    expected = QUICK(moving, fixed).displacement
    torch.testing.assert_close(QUICK(*turned).displacement, expected, atol=0, rtol=0)


def test_starts_from_an_affine_map_and_a_displacement() -> None:
    size = (40, 36)
    fixed = texture(size)
    truth, inverse = exponential(smooth_velocity(size, 2.0), inverse=True)
    moving = warp(fixed, inverse)
    still = replace(QUICK, levels=(Level(1, 0),))
    torch.testing.assert_close(still(moving, fixed, initial=truth).displacement, truth)
    shifted = torch.tensor([[[1.0, 0.0, 3.0], [0.0, 1.0, -2.0]]])
    far = torch.roll(moving, (3, -2), (2, 3))
    found = QUICK(far, fixed, affine=shifted)
    mask = inside(size)
    assert end_point_error(found.displacement, truth, mask=mask) < 0.4 * end_point_error(
        torch.zeros_like(truth), truth, mask=mask
    )


def test_what_a_mask_leaves_out_is_not_looked_at() -> None:
    size = (48, 40)
    fixed = texture(size)
    truth, inverse = exponential(smooth_velocity(size, 1.5), inverse=True)
    moving = warp(fixed, inverse)
    fixed_mask, moving_mask = torch.ones(1, 1, *size), torch.ones(1, 1, *size, dtype=torch.bool)
    fixed_mask[:, :, 30:40, 20:30] = 0
    moving_mask[:, :, 8:16, 8:16] = False
    spoilt_fixed = torch.where(fixed_mask > 0, fixed, 5.0)
    spoilt_moving = torch.where(moving_mask, moving, -5.0)
    masks = {"fixed_mask": fixed_mask, "moving_mask": moving_mask}
    settings = replace(QUICK, levels=(Level(1, 40),))
    with_masks = settings(spoilt_moving, spoilt_fixed, **masks)
    assert _error(with_masks, truth) < 0.45
    for metric in ("lncc", "mind", "mutual_information", "sum_of_squares"):
        other = replace(QUICK, similarity=Similarity(metric))
        found = [
            other(image, spoilt_fixed, **masks).displacement for image in (moving, spoilt_moving)
        ]
        torch.testing.assert_close(*found, atol=0, rtol=0)


def test_equal_and_flat_images_stay_where_they_are() -> None:
    image = texture((32, 30))
    length = QUICK(image, image).displacement.norm(dim=1)
    assert length.max() < 0.5
    assert length.mean() < 0.05
    flat = torch.full_like(image, 3.0)
    for metric in ("lncc", "mind", "mutual_information", "sum_of_squares"):
        settings = replace(QUICK, similarity=Similarity(metric))
        assert settings(flat, flat).displacement.abs().max() < 0.02


def test_float64_and_the_caller_s_modes() -> None:
    fixed = texture((32, 30)).double()
    moving = warp(fixed, smooth_velocity((32, 30), 1.0).double())
    found = QUICK(moving.requires_grad_(), fixed)
    assert found.displacement.dtype == torch.float64
    assert not found.displacement.requires_grad
    with torch.inference_mode(), torch.autocast("cpu"):
        again = QUICK(moving, fixed)
    torch.testing.assert_close(again.displacement, found.displacement)


@pytest.mark.parametrize("size", [(40, 36), (20, 22, 18)])
def test_unfolds(size: tuple[int, ...]) -> None:
    smooth = exponential(smooth_velocity(size, 2.0))
    assert unfolded(smooth) is smooth
    folded = smooth.clone()
    centre = tuple(n // 2 for n in size)
    folded[(0, 0, *centre)] += 3.0
    folded[(0, 1, *(n // 4 for n in size))] -= 4.0
    assert folds(folded)
    mended = unfolded(folded)
    assert not folds(mended)
    assert smallest_jacobian(mended).min() > 0
    far = torch.ones(size, dtype=torch.bool)
    for place in (centre, tuple(n // 4 for n in size)):
        far[tuple(slice(max(0, i - 8), i + 9) for i in place)] = False
    torch.testing.assert_close(mended[..., far], folded[..., far], atol=0, rtol=0)


@pytest.mark.parametrize("budget", BUDGETS)
def test_two_brain_slices(data_folder: Path, budget: str) -> None:
    image = pytest.importorskip("PIL.Image")
    moving, fixed = (
        torch.from_numpy(
            np.array(image.open(data_folder / "brain_2d" / f"{name}slice.jpg").convert("L"))
        ).float()[None, None]
        for name in ("r16", "r64")
    )

    def correlation(x: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([x.flatten(), fixed.flatten()]))[0, 1])

    found = BUDGETS[budget](moving, fixed)
    assert correlation(moving) < 0.6
    assert correlation(found.warp(moving)) > 0.85
    assert int(folding(found.displacement).folds) == 0
    assert float(folding(found.displacement).non_diffeomorphic_volume) == 0


def test_a_head_known_to_be_deformed(data_folder: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    stored = nibabel.load(data_folder / "brain_t1_labels" / "IXI012_t1.nii.gz").get_fdata()
    fixed = torch.from_numpy(stored)[None, None, ::2, ::2, ::2].float().contiguous()
    size = tuple(fixed.shape[2:])
    truth, inverse = exponential(smooth_velocity(size, 2.0), inverse=True)
    moving = warp(fixed, inverse)
    noise = torch.randn(fixed.shape, generator=torch.Generator().manual_seed(3))
    found = QUICK(0.7 * moving + 10 + noise, fixed)
    head = gaussian_smooth(fixed, 2.0) > 20
    before = end_point_error(torch.zeros_like(truth), truth, mask=head)
    assert end_point_error(found.offset(), truth, mask=head) < 0.35 * before
    assert not folds(found.displacement)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": ()}, "needs a level"),
        ({"step": 0.0}, "step must be positive"),
        ({"momentum": 1.0}, "momentum must be from 0"),
        ({"memory": -0.1}, "memory must be from 0"),
        ({"relative": -1.0}, "relative must be at least 0"),
        ({"decay": 0.0}, "decay must be above 0"),
        ({"total_sigma": float("inf")}, "total_sigma must be at least 0"),
    ],
)
def test_refuses_settings(change: dict, message: str) -> None:
    refuses(ValueError, message, replace, QUICK, **change)


def test_refuses() -> None:
    image = texture((20, 18))
    refuses(ValueError, "factor of at least 1", Level, 0, 1)
    refuses(ValueError, "update_sigma of at least 0", Level, 1, 1, float("nan"))
    refuses(ValueError, "metric must be one of", Similarity, "ncc")
    refuses(ValueError, "window must be odd", Similarity, "lncc", 4)
    refuses(ValueError, "dilations must be", Similarity, "mind", 5, ())
    refuses(TypeError, "float16", QUICK, image.half(), image.half())
    refuses(TypeError, "moving must be", QUICK, image.numpy(), image)
    refuses(
        ValueError, r"\(1, 1, 20, 18\) and \(1, 2, 20, 18\)", QUICK, image, image.repeat(1, 2, 1, 1)
    )
    refuses(ValueError, "moving and fixed must be", QUICK, image[..., None], image)
    refuses(ValueError, "affine must be", QUICK, image, image, affine=torch.eye(3)[None])
    refuses(ValueError, "initial must be", QUICK, image, image, initial=torch.zeros(1, 2, 4, 4))
    for name in ("fixed_mask", "moving_mask"):
        refuses(ValueError, f"{name} must be", QUICK, image, image, **{name: image[..., 1:]})
    broken = image.clone()
    broken[0, 0, 3, 4] = float("nan")
    refuses(ValueError, r"moving must be finite; 1 of 360 .*\(0, 0, 3, 4\)", QUICK, broken, image)
    refuses(ValueError, "fixed must be finite", QUICK, image, broken)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, float("nan"))])
def test_refuses_a_spacing(spacing: tuple[float, ...]) -> None:
    image = texture((12, 10, 9))
    with pytest.raises(ValueError, match="spacing must be 3 positive"):
        QUICK(image, image, spacing=spacing)


def test_autocast_does_not_round_where_a_map_points() -> None:
    affine = torch.tensor([[[1.1, 0.2, 3.0], [-0.1, 0.9, 2.0]]])
    mapping = AffineDisplacement(smooth_velocity((20, 24), 3.0), affine, (22, 18))
    expected = mapping.offset(), mapping.inverse().displacement
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(mapping.offset(), expected[0])
        assert torch.equal(mapping.inverse().displacement, expected[1])
