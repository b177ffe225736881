"""One deformation for the slices of a volume, and volumes translated in slabs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from small_models import images, untrained

import plasticine
from plasticine.io import read_volume, translate_volume
from plasticine.io.translate import SLICE_SMOOTHING
from plasticine.io.volume import Volume
from plasticine.ops.folding import folding
from plasticine.registration import Deformation, VelocityNetwork, affine_exponential
from plasticine.registration.stack import stack_deformation, stack_folding

SIZE = (12, 14)


def _parts(inverse_from: str = "negation", affine: bool = True) -> list[Deformation]:
    """What a stirred network makes of 5 and of 2 unlike slices."""
    torch.manual_seed(0)
    network = VelocityNetwork(2, channels=(4, 4), affine=affine, inverse_from=inverse_from)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        return [network(torch.rand(n, 1, *SIZE)) for n in (5, 2)]


def _smooth(velocity: torch.Tensor) -> torch.Tensor:
    """Across slices alone."""
    stack = velocity.movedim(0, 1)[None]
    return plasticine.gaussian_smooth(stack, (1.5, 0, 0), backend="reference")[0].movedim(1, 0)


class TestDeformation:
    @pytest.mark.parametrize("inverse_from", ["negation", "head"])
    def test_slices_share_a_smooth_velocity_and_one_affine(self, inverse_from: str) -> None:
        parts = _parts(inverse_from)
        body = torch.tensor([0, 10, 20, 40, 20, 10, 0])
        stack = stack_deformation(parts, body, 1.5)
        velocity = torch.cat([part.velocity for part in parts])
        assert stack.velocity.shape == velocity.shape
        assert stack.velocity.diff(dim=0).abs().mean() < 0.5 * velocity.diff(dim=0).abs().mean()
        torch.testing.assert_close(stack.velocity, _smooth(velocity))
        if inverse_from == "head":
            inverse = torch.cat([part.inverse_velocity for part in parts])
            torch.testing.assert_close(stack.inverse_velocity, _smooth(inverse))
        log_affines = torch.cat([part.log_affine for part in parts])
        mean = (log_affines * body[:, None, None]).sum(0) / 100
        torch.testing.assert_close(stack.log_affine, mean.expand(7, 2, 3))
        for got, expected in zip(
            (stack.affine, stack.inverse_affine),
            affine_exponential(mean[None], SIZE),
            strict=True,
        ):
            torch.testing.assert_close(got, expected.expand(7, 2, 3))

    def test_empty_slices_count_alike(self) -> None:
        parts = _parts()
        stack = stack_deformation(parts, torch.zeros(7, dtype=torch.int64), 0)
        log_affines = torch.cat([part.log_affine for part in parts])
        torch.testing.assert_close(stack.log_affine[0], log_affines.mean(0))
        assert torch.equal(stack.velocity, torch.cat([part.velocity for part in parts]))

    def test_a_network_without_an_affine_part(self) -> None:
        stack = stack_deformation(_parts(affine=False), torch.ones(7), 1.0)
        assert stack.affine is None
        assert stack.displacement().shape == (7, 2, *SIZE)

    @pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf")])
    def test_a_width_that_is_none_is_refused(self, sigma: float) -> None:
        with pytest.raises(ValueError, match="sigma must be from 0 to"):
            stack_deformation(_parts(), torch.ones(7), sigma)


def test_folding_of_a_stack_is_that_of_its_volume() -> None:
    displacement = 1.5 * torch.randn(4, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    volume, planes = stack_folding(displacement), folding(displacement)
    assert volume.folds.shape == (1,)
    assert volume.folds.item() == planes.folds.sum().item() > 0
    torch.testing.assert_close(volume.minimum, planes.minimum.min()[None])
    assert volume.non_diffeomorphic_volume > 0
    assert stack_folding(displacement[:1]).folds.item() == planes.folds[0].item()


OWN_WAYS = {"deviation": 0.08, "schedule_steps": 50, "steps": 2}
"""A velocity that moves each slice its own way."""


class TestTranslation:
    def test_a_volume_has_one_deformation(self) -> None:
        translator, slices = untrained(**OWN_WAYS), images(5, 1, 16, 18)
        apart = translator.translate(slices)
        volume = translator.translate(slices, slice_smoothing=2.0, batch=2)
        assert volume.arguments["slice_smoothing"] == 2.0
        assert apart.arguments["slice_smoothing"] is None
        roughness = [t.displacement.diff(dim=0).abs().mean() for t in (volume, apart)]
        assert roughness[0] < 0.3 * roughness[1]
        assert volume.folding.folds.shape == (1,)
        assert apart.folding.folds.shape == (5,)
        torch.testing.assert_close(
            volume.warped, plasticine.warp(slices, volume.displacement), atol=1e-5, rtol=0
        )
        whole = translator.translate(slices, slice_smoothing=2.0, batch=5)
        torch.testing.assert_close(volume.displacement, whole.displacement)
        torch.testing.assert_close(volume.translated, whole.translated, atol=1e-4, rtol=0)
        still = translator.translate(slices, slice_smoothing=2.0, deform=False)
        assert not still.displacement.any()

    def test_a_reference_steers_a_volume_too(self) -> None:
        translator, slices = untrained(**OWN_WAYS), images(3, 1, 16, 18)
        steered = translator.translate(slices, reference=slices.flip(3), slice_smoothing=1.0)
        alone = translator.translate(slices, slice_smoothing=1.0)
        assert not torch.allclose(steered.displacement, alone.displacement)

    def test_slabs(self) -> None:
        """They are the model's default or asked for; the noise is that of the whole."""
        volume = images(1, 1, 6, 40, 8)
        translator = untrained(3, **OWN_WAYS)
        whole = translator.translate(volume)
        in_slabs = translator.translate(volume, slab=24, overlap=16)
        assert (in_slabs.arguments["slab"], in_slabs.arguments["overlap"]) == (24, 16)
        assert torch.equal(whole.displacement, in_slabs.displacement)
        difference = (whole.translated - in_slabs.translated).abs()
        assert 0 < difference.mean() < 0.05 * whole.translated.std()
        default = untrained(3, **OWN_WAYS, slab=24, overlap=16)
        assert torch.equal(default.translate(volume).translated, in_slabs.translated)
        assert torch.equal(default.translate(volume, slab=0).translated, whole.translated)
        reference = volume.flip(3)
        steered = [
            translator.translate(volume, reference=reference, slab=slab).displacement
            for slab in (None, 24)
        ]
        assert 0 < (steered[0] - steered[1]).abs().mean() < 0.1 * steered[0].std()

    def test_arguments_that_do_not_suit_the_model_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"slices are for a 2D model.*3D"):
            untrained(3, **OWN_WAYS).translate(images(1, 1, 8, 8, 8), slice_smoothing=1.0)
        with pytest.raises(ValueError, match="a slab's size must be a multiple of 2"):
            untrained(3, **OWN_WAYS).translate(images(1, 1, 8, 8, 8), slab=5)


class TestFiles:
    @pytest.fixture
    def volume(self, tmp_path: Path) -> Callable[[float], Volume]:
        """Builds a volume of five slices, read from its file."""

        def build(spacing: float) -> Volume:
            path = tmp_path / "head.nii.gz"
            affine = np.diag([2.0, 2.0, spacing, 1.0])
            nibabel.save(nibabel.Nifti1Image(images(14, 16, 5).numpy(), affine), path)
            return read_volume(path)

        return build

    def test_a_volume_of_slices_has_one_deformation_smooth_in_millimetres(
        self, volume: Callable[[float], Volume]
    ) -> None:
        result = translate_volume(untrained(**OWN_WAYS), volume(5.0))
        assert result.trace.one_deformation
        assert result.trace.arguments["slice_smoothing"] == pytest.approx(SLICE_SMOOTHING / 5)
        assert result.displacement.shape == (5, 2, 16, 14)
        assert result.folding.folds.shape == (1,)
        assert result.folding.folds.sum() == (result.jacobian <= 0).sum()

    def test_a_3d_model_sees_the_volume_whole(self, volume: Callable[[float], Volume]) -> None:
        result = translate_volume(untrained(3, **OWN_WAYS), volume(2.0))
        assert result.trace.one_deformation
        assert result.displacement.shape == (1, 3, 5, 16, 14)

    def test_pictures_without_spacing_have_a_deformation_each(self, tmp_path: Path) -> None:
        np.save(tmp_path / "stack.npy", images(3, 16, 14).numpy())
        result = translate_volume(untrained(**OWN_WAYS), read_volume(tmp_path / "stack.npy"))
        assert not result.trace.one_deformation
        assert result.trace.arguments["slice_smoothing"] is None
        assert result.folding.folds.shape == (3,)
