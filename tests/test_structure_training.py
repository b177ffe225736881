"""Training the learned structure map by back-translation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_file import small_recipe, stop_at

from plasticine.nn.tensor_file import load_tensors
from plasticine.structure.interior import depth_in_body, interior_curve, match_interior
from plasticine.training import load_recipe, train
from plasticine.training.draws import Draws
from plasticine.training.intensity import RandomIntensity, increasing_curves, through
from plasticine.training.recipe import Recipe, StageSettings
from plasticine.training.train import model_card
from plasticine.translation import Translator, load_model

NETWORKS = ["base", "1-target", "1-source", "2-target", "2-source"]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """The source: dark discs on grey. The target: other discs, bright on black."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]

    def discs(count: int, inside: int, outside: int) -> np.ndarray:
        centres, radii = generator.uniform(5, 11, (count, 2, 1, 1)), generator.uniform(2, 5, count)
        distance = np.hypot(rows - centres[:, 0], columns - centres[:, 1])
        return np.where(distance < radii[:, None, None], inside, outside).astype(np.uint8)

    np.savez(tmp_path / "images.npz", a=discs(6, 60, 130), b=discs(6, 220, 20))
    stages = load_recipe("brain-t1-t2").diffusion.model_dump(include={*StageSettings.model_fields})
    once = {"steps": 1, "batch": 2, "precision": "float32", "checkpoint_every": 1}
    rounds = {"rounds": 2, "jitter": {}, "base_steps": 3, "steps": 2, "accept": None}
    return small_recipe(
        structure={"name": "back-translation", "channels": [8, 8], "blocks": 1, "patch_size": 1},
        stages=stages | once | {"base": {"name": "mind", "dilations": [1]}} | rounds,
        stage={"steps": 1},
    )


def test_a_resumed_training_gives_the_same_model(recipe: Recipe, tmp_path: Path) -> None:
    path = train(recipe, tmp_path, tmp_path / "whole")
    logs = sorted(path.stem for path in (tmp_path / "whole").glob("structure-*.csv"))
    assert logs == sorted(f"structure-{name}" for name in NETWORKS)

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, tmp_path / "stopped", progress=stop_at("structure-1-source", 2))
    again = train(recipe, tmp_path, tmp_path / "stopped", resume=True)
    expected, found = load_tensors(path)[0], load_tensors(again)[0]
    assert any(name.startswith("structure.network.") for name in expected)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    model, card = load_model(again)
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    trace = Translator(model, card).translate(image, steps=1, reference=image)
    assert torch.isfinite(trace.translated).all()


def test_the_target_takes_the_sources_look(recipe: Recipe, tmp_path: Path) -> None:
    steps = {"base_steps": 40, "steps": 50, "rounds": 1, "batch": 4, "learning_rate": 2e-2}
    recipe = recipe.changed(structure=steps)
    model, _ = load_model(train(recipe, tmp_path, tmp_path / "run"))
    with np.load(tmp_path / "images.npz") as archive:
        target = torch.from_numpy(archive["b"])[:, None] / 255
    look = model.structure(2 * target - 1, "target")
    inside, outside = look[target > 0.5].median(), look[target < 0.5].median()
    # 60 and 130 of 255 are the source's: its contrast is the other way round.
    assert inside < outside - 0.1
    assert outside == pytest.approx(130 / 255, abs=0.1)


def test_the_table_belongs_to_a_learned_map_and_to_no_other(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=r"\[structure\].*'back-translation'"):
        recipe.changed(structure=None)
    with pytest.raises(ValueError, match=r"\[structure\].*'mind'"):
        recipe.changed(model={"structure": {"name": "mind"}})


def test_a_map_that_does_not_agree_with_its_beginning_is_not_used(
    recipe: Recipe, tmp_path: Path
) -> None:
    recipe = recipe.changed(structure={"accept": 1.0})
    with pytest.warns(RuntimeWarning, match=r"rejected.*1 is asked for.*'mind' instead"):
        path = train(recipe, tmp_path, tmp_path / "run")
    model, card = load_model(path)
    assert type(model.structure).__name__ == "MIND"
    assert card["structure"].startswith("back-translation is rejected")
    assert not card["back_translation_agreement"] >= 1.0
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(Translator(model, card).translate(image, steps=1).translated).all()


def _draws(batch: int, samples: slice | None = None) -> Draws:
    return Draws(torch.Generator().manual_seed(3), batch, samples)


@pytest.mark.parametrize("shape", [(4, 1, 12, 10), (4, 1, 6, 8, 7)])
def test_random_intensity_is_of_each_sample_and_within_0_and_1(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    images[:, :, :3] = 0
    jitter = RandomIntensity()
    changed = jitter(images, _draws(4))
    assert 0 <= changed.min() < changed.max() <= 1
    assert 0.01 < (changed - images).abs().mean() < 0.2
    assert changed[:, :, 0].max() == 0  # farther from the body than the blur reaches
    part = jitter(images[2:], _draws(4, slice(2, 4)))
    torch.testing.assert_close(part, changed[2:])
    still = RandomIntensity(remap=0, offset=0, field=0, blur=0, noise=0)
    torch.testing.assert_close(still(images, _draws(4)), images)


def test_random_curves_increase_from_0_to_1() -> None:
    curve = increasing_curves(_draws(5))
    assert (curve[:, 0] == 0).all()
    torch.testing.assert_close(curve[:, -1], torch.ones(5))
    assert (curve.diff(dim=1) > 0).all()
    levels = torch.linspace(0, 1, 33).view(1, 1, 33, 1).expand(5, 1, 33, 1)
    sent = through(curve, levels)
    torch.testing.assert_close(sent[:, 0, ::4, 0], curve)
    between = np.interp(0.3, np.linspace(0, 1, curve.shape[1]), curve[2].numpy())
    assert through(curve, torch.full((5, 1, 1, 1), 0.3))[2].item() == pytest.approx(between)


@pytest.mark.parametrize("shape", [(3, 1, 20, 18), (2, 1, 14, 15, 16)])
def test_the_interior_takes_the_greys_of_real_images_and_the_surface_its_own(
    shape: tuple[int, ...],
) -> None:
    generator = torch.Generator().manual_seed(0)
    body = torch.zeros(shape)
    inner = (..., *(slice(2, n - 2) for n in shape[2:]))
    body[inner] = 0.2 + 0.6 * torch.rand(body[inner].shape, generator=generator)
    made, depth = (body * 0.7).clamp(0, 1), 4
    within = depth_in_body(body, depth)
    curve = interior_curve(made, within, body, within, depth)
    matched = match_interior(made, within, curve, depth)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape[2:]), indexing="ij"))
    sizes = np.array(shape[2:]).reshape(-1, *[1] * (len(shape) - 2))
    depths = torch.from_numpy(np.minimum(grid - 1, sizes - 2 - grid).min(0)).expand(shape)
    torch.testing.assert_close(matched[depths >= depth], body[depths >= depth], rtol=0, atol=0.02)
    assert torch.equal(matched[depths <= depth // 2], made[depths <= depth // 2])
    order = made[depths >= depth].argsort()
    assert (matched[depths >= depth][order].diff() >= 0).all()


def test_an_interior_deeper_than_any_body_is_refused() -> None:
    image = torch.full((1, 1, 8, 8), 0.5)
    image[..., 0, :] = 0
    with pytest.raises(ValueError, match=r"no voxel lies 9 voxels.*the deepest lies 7"):
        interior_curve(image, depth_in_body(image, 9), image, depth_in_body(image, 9), 9)


def test_the_curve_is_kept_with_the_model(recipe: Recipe, tmp_path: Path) -> None:
    structure = recipe.model.structure.model_dump() | {"interior": 2}
    recipe = recipe.changed(model={"structure": structure})
    model, _ = load_model(train(recipe, tmp_path, tmp_path / "run"))
    curve = model.structure.curve
    assert curve.shape == (2, 67)
    assert (curve.diff(dim=1) >= 0).all()
    assert not torch.equal(curve[0], curve[1])


def test_the_card_counts_the_steps_of_every_network(recipe: Recipe) -> None:
    recipe = recipe.changed(structure={"base_steps": 7, "steps": 5, "rounds": 3})
    steps = model_card(recipe, 0)["training_steps"]
    assert steps == {
        "structure": 7 + 6 * 5,
        "diffusion": recipe.diffusion.steps,
        "registration": recipe.registration.steps,
    }
