"""A registration that begins from what a trained network says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_head import bent, centred, grid, head, moved, turned, volume
from image_files import oblique

from plasticine.io import Volume, register_volumes, translate_volume, write_image
from plasticine.io.network_start import network_start
from plasticine.io.pair_inputs import PairInputs
from plasticine.io.pair_space import PairSpace
from plasticine.registration import register
from plasticine.registration.affine_registration import nearest_map
from plasticine.translation import Translator

SHAPE = (24, 30, 26)


@pytest.fixture(scope="module")
def translator(model_file: Path) -> Translator:
    return Translator.load(str(model_file))


def _pair(affine: np.ndarray) -> tuple[Volume, Volume]:
    places = grid(SHAPE, affine)
    moving, fixed = head(places), head(bent(places))
    return volume(moving, affine, "moving.nii.gz"), volume(fixed, affine, "fixed.nii.gz")


def _inputs(moving: Volume, fixed: Volume) -> PairInputs:
    space = PairSpace.of(moving, fixed)
    return PairInputs(
        moving=moving,
        fixed=fixed,
        space=space,
        source=space.to_tensor(moving.data, moving=True),
        target=space.to_tensor(fixed.data, moving=False),
    )


@pytest.mark.parametrize("codes", ["RAS", "SPR", "PLI"])
def test_it_is_what_a_translation_to_the_fixed_image_does(
    tmp_path: Path, translator: Translator, codes: str
) -> None:
    """Where the affine map is the identity; on any axes of the files."""
    moving, fixed = _pair(centred(oblique((5.0, 5.0, 5.0), codes), SHAPE))
    write_image(tmp_path / "fixed.nii.gz", fixed.data, fixed.affine)
    trace = translate_volume(translator, moving, reference=tmp_path / "fixed.nii.gz")
    expected = trace.grid.displacement_to_file(trace.displacement)
    assert np.abs(expected).max() > 0.5
    inputs = _inputs(moving, fixed)
    still = torch.zeros(1, 3, *SHAPE)
    matrices = inputs.space.moving_affine, inputs.space.fixed_affine
    affine = register(
        inputs.source, inputs.target, *matrices, transform="affine", initial=torch.eye(4)
    )
    exact = nearest_map(still, *matrices)
    mapping = replace(affine.mapping, affine=exact.voxels[None].float())
    affine = replace(affine, affine=exact, mapping=mapping)
    found = network_start(translator, affine, inputs)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-3)


def test_the_deformation_begins_there(translator: Translator) -> None:
    affine = centred(np.diag([5.0, 5.0, 5.0, 1.0]), SHAPE)
    fixed = volume(head(bent(moved(grid(SHAPE, affine), turned(10, (5, -6, 8))))), affine, "f.nii")
    moving = volume(head(grid(SHAPE, affine)), affine, "m.nii")
    alone = register_volumes(moving, fixed, budget="fast")
    begun = register_volumes(moving, fixed, budget="fast", network=translator)
    assert (alone.displacement != begun.displacement).any()
    assert begun.arguments["network"] == "small"
    assert alone.arguments["network"] is None
    assert begun.pair.folding.folds == 0
    # A network that was never trained does no lasting harm.
    assert begun.similarity["after"]["lncc"] > 0.8 * alone.similarity["after"]["lncc"]


def test_slices_and_what_does_not_go_together(translator: Translator) -> None:
    moving, fixed = _pair(centred(np.diag([5.0, 5.0, 5.0, 1.0]), SHAPE))

    def cut(whole: Volume) -> Volume:
        return volume(whole.data[:, :, 12:13].copy(), whole.affine, "slice.nii.gz")

    found = register_volumes(cut(moving), cut(fixed), budget="fast", network=translator)
    assert found.displacement.shape == (3, 24, 30, 1)
    both = register_volumes(moving, fixed, budget="fast", network=translator, method="velocity")
    assert both.pair.folding.folds == 0
    with pytest.raises(ValueError, match="begin"):
        register_volumes(moving, fixed, network=translator, transform="affine")
