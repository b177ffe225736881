"""Refinement of single pairs: known deformations must be found, across contrasts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from refusal import refuses
from textures import inside, smooth_velocity, texture

from plasticine import exponential, folding, warp
from plasticine.metrics import end_point_error
from plasticine.registration import (
    Deformation,
    InstanceOptimisation,
    Level,
    VelocityNetwork,
    affine_exponential,
)
from plasticine.registration.instance import resized

QUICK = InstanceOptimisation(levels=(Level(2, 8, 20), Level(1, 8, 10)))


@pytest.mark.parametrize("size", [(36, 32), (16, 16, 14)])
def test_finds_a_known_deformation_across_contrasts(size: tuple[int, ...]) -> None:
    fixed = texture(size, 1)
    displacement, inverse = exponential(smooth_velocity(size, 2.0), inverse=True)
    moving = warp(fixed, inverse)  # so that moving∘φ is fixed
    remapped = 0.5 - fixed.abs()  # not monotone in the moving image's intensities
    settings = (
        QUICK if len(size) == 2 else replace(QUICK, levels=(Level(1, 8, 12),), dilations=(1,))
    )
    calls: list[tuple[int, int]] = []
    with torch.no_grad():  # as a translation calls it
        found = settings(
            moving.abs() - 0.5, remapped, progress=lambda done, total: calls.append((done, total))
        )
    before = end_point_error(torch.zeros_like(displacement), displacement, mask=inside(size))
    after = end_point_error(found.displacement(), displacement, mask=inside(size))
    assert after < 0.4 * before
    assert int(folding(found.displacement()).folds) == 0
    assert not found.velocity.requires_grad
    total = sum(level.iterations for level in settings.levels)
    assert calls == [(done, total) for done in range(1, total + 1)]


def test_pairs_do_not_see_each_other() -> None:
    moving, fixed = texture((24, 20), 2), texture((24, 20), 2, seed=3)
    settings = InstanceOptimisation(levels=(Level(1, 8, 5),))
    together = settings(moving, fixed).velocity
    alone = settings(moving[1:], fixed[1:]).velocity
    torch.testing.assert_close(together[1:], alone, atol=1e-3, rtol=0)


def test_keeps_the_affine_part_and_starts_from_the_velocity() -> None:
    size = (28, 32)
    log_affine = torch.tensor([[[0.05, -0.2, 2.0], [0.2, 0.0, -1.0]]])
    affine, inverse_affine = affine_exponential(log_affine, size)
    velocity = smooth_velocity(size, 1.5)
    truth = Deformation(velocity, affine, inverse_affine)
    fixed = texture(size, 1)
    moving = warp(fixed, truth.inverse_displacement())
    initial = Deformation(torch.zeros_like(velocity), affine, inverse_affine, log_affine=log_affine)
    found = QUICK(moving, fixed, initial)
    assert found.affine is affine
    mask = inside(size)
    before = end_point_error(initial.displacement(), truth.displacement(), mask=mask)
    after = end_point_error(found.displacement(), truth.displacement(), mask=mask)
    assert after < 0.4 * before
    still = InstanceOptimisation(levels=(Level(1, 8, 1),), learning_rate=1e-6)
    torch.testing.assert_close(still(moving, fixed, truth).velocity, velocity, atol=1e-4, rtol=0)


def test_refines_a_networks_answer() -> None:
    network = VelocityNetwork(2, channels=(4, 8), inverse_from="head").eval()
    image = texture((20, 24), 1)
    found = InstanceOptimisation(levels=(Level(1, 8, 1),))(image, image, network(image, image))
    assert found.inverse_from == "negation"
    assert found.inverse_velocity is None
    assert found.inverse_displacement().shape == (1, 2, 20, 24)


def test_resized_is_the_same_map() -> None:
    size, coarse = (41, 33), (21, 17)
    log_affine = torch.tensor([[[0.02, -0.1, 2.0], [0.1, 0.0, -1.0]]])
    affine, inverse_affine = affine_exponential(log_affine, size)
    deformation = Deformation(smooth_velocity(size, 2.0), affine, inverse_affine)
    found = resized(deformation, coarse)
    for name in ("displacement", "inverse_displacement"):
        fine, half = getattr(deformation, name)(), getattr(found, name)()
        # Near the edge the exponential meets what lies beyond, which each grid continues itself.
        difference = (2 * half - fine[:, :, ::2, ::2])[:, :, 4:-4, 4:-4]
        assert difference.abs().max() < 0.1
    still = resized(Deformation(torch.zeros(1, 2, *size), affine, inverse_affine), coarse)
    expected = Deformation(torch.zeros(1, 2, *size), affine, inverse_affine).displacement()
    torch.testing.assert_close(2 * still.displacement(), expected[:, :, ::2, ::2])
    assert resized(deformation, size) is deformation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": ()}, "needs a level"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"smoothness": -1.0}, "smoothness must be at least 0"),
    ],
)
def test_refuses_settings(change: dict, message: str) -> None:
    refuses(ValueError, message, replace, QUICK, **change)


def test_refuses() -> None:
    image = texture((16, 16), 1)
    refuses(ValueError, "spacing of at least", Level, 4, 2, 10)
    refuses(ValueError, r"\(1, 1, 16, 16\) and \(1, 1, 16, 15\)", QUICK, image, image[..., 1:])
    refuses(TypeError, "float16", QUICK, image.half(), image.half())
    with pytest.raises(ValueError, match="initial velocity"):
        QUICK(image, image, Deformation(torch.zeros(1, 2, 8, 8)))
