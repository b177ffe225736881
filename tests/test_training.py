"""Recipes, data, random deformations, and the resumable loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recipe_file import linear_stage, small_recipe, stop_at
from refusal import refuses

import plasticine
from plasticine.nn.tensor_file import load_tensors, save_tensors
from plasticine.training import load_recipe, shipped_recipes, train
from plasticine.training.data import RandomDeformation
from plasticine.training.draws import Draws
from plasticine.training.reading import load_domains
from plasticine.training.recipe import Recipe
from plasticine.training.stage import Stage, ema_update
from plasticine.translation import Translator, load_model


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A recipe so small that both of its stages take seconds, with its data in ``tmp_path``."""
    generator = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(16), np.arange(20)) * 6
    source = (ramp + generator.integers(0, 30, (6, 16, 20))).astype(np.uint8)
    np.savez(tmp_path / "images.npz", a=source[:3], b=source[3:], c=255 - source)
    return small_recipe(
        data={"source": ["a", "b"], "target": ["c"]}, stage={"steps": 4, "checkpoint_every": 2}
    )


def _draws(batch: int, samples: slice | None = None) -> Draws:
    return Draws(torch.Generator().manual_seed(0), batch, samples)


def test_shipped_recipes_can_be_read() -> None:
    names = shipped_recipes()
    assert "brain-t1-t2" in names
    for name in names:
        assert load_recipe(name).name == name


@pytest.mark.parametrize(
    "name", ["abdomen-mr-ct", "cardiac-population", "head-mr-ct", "oct-vendor"]
)
def test_a_shipped_recipe_trains_on_its_data(name: str, data_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    slices = {"source_slices": [60, 80], "target_slices": [60, 80]}
    smaller: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "head-mr-ct": (slices | {"source_slices": [58, 62]}, {}),  # of its 1200 MR slices
        "abdomen-mr-ct": ({"size": [20, 24, 32]}, {"patch": [8, 16, 16]}),
        "cardiac-population": (slices | {"held_out": ["SC-HF-I-06"]}, {}),
        "oct-vendor": ({"size": [256, 64]}, {"patch": [64, 32]}),
    }
    data, patch = smaller[name]
    stage = {"steps": 1, "batch": 2, "precision": "float32"}
    recipe = recipe.changed(
        data=data,
        model={
            "denoiser": {"channels": [8, 8], "blocks": 1, "patch_size": 2},
            "velocity": recipe.model.velocity.model_dump() | {"channels": [4, 4]},
        },
        diffusion=stage | patch,
        registration=stage,
    )
    model, card = load_model(train(recipe, data_folder, tmp_path))
    assert card["title"] == recipe.card.title
    domains = load_domains(recipe, data_folder, 0)
    image = domains.source[:1] / 2 + 0.5
    labels = domains.source_labels if model.structure.needs_labels else None
    trace = Translator(model, card).translate(
        image, labels=None if labels is None else labels[:1], steps=1
    )
    assert trace.translated.shape == image.shape
    assert torch.isfinite(trace.translated).all()


def test_unreadable_recipes_are_refused(tmp_path: Path) -> None:
    refuses(FileNotFoundError, r"'nothing'.*brain-t1-t2", load_recipe, "nothing")
    path = tmp_path / "bad.toml"
    path.write_text("name = [")
    refuses(ValueError, r"bad\.toml is not a TOML recipe", load_recipe, path)
    path.write_text("name = 'x'\n[data]\n[cards]\n")
    refuses(ValueError, r"bad\.toml: .*model: missing; .*\[cards\]: unknown key", load_recipe, path)


def test_domains_are_scaled_and_shuffled_apart(recipe: Recipe, tmp_path: Path) -> None:
    domains = load_domains(recipe, tmp_path, seed=0)
    assert domains.source.shape == domains.target.shape == (6, 1, 16, 20)
    assert domains.source.min() >= -1
    assert domains.target.max() <= 1
    # The target is the source inverted: sorted they agree, in the order given they do not.
    inverted = -domains.target.flatten(1)
    assert not torch.allclose(domains.source.flatten(1), inverted, atol=1e-5)
    torch.testing.assert_close(
        domains.source.flatten(1).sum(1).sort().values, inverted.sum(1).sort().values
    )
    again = load_domains(recipe, tmp_path, seed=0)
    assert torch.equal(domains.source, again.source)


def test_a_crop_is_cut_from_the_middle(recipe: Recipe, tmp_path: Path) -> None:
    whole = load_domains(recipe, tmp_path, seed=0).source
    cut = load_domains(recipe.changed(data={"crop": [10, 20]}), tmp_path, seed=0).source
    assert torch.equal(cut, whole[:, :, 3:13])
    with pytest.raises(ValueError, match=r"does not fit images of \(16, 20\)"):
        load_domains(recipe.changed(data={"crop": [17, 20]}), tmp_path, seed=0)
    for crop, message in (([10], "at least 2 values"), ([0, 5], "greater than or equal to 1")):
        refuses(ValueError, rf"\[data\] crop.*{message}", recipe.changed, data={"crop": crop})


def test_images_of_one_subject_never_meet(recipe: Recipe, tmp_path: Path) -> None:
    """Subject "a" has the first three sources and all of the targets but none may be paired."""
    assert load_domains(recipe, tmp_path, seed=0).pairable is None
    recipe = recipe.changed(data={"source_subjects": ["a", "b"], "target_subjects": ["a"]})
    domains = load_domains(recipe, tmp_path, seed=0)
    assert domains.pairable is not None
    assert domains.pairable.shape == (6, 6)
    with np.load(tmp_path / "images.npz") as archive:
        first = torch.from_numpy(archive["a"]).float() / 255 * 2 - 1
    of_a = [bool((first == image).flatten(1).all(1).any()) for image in domains.source[:, 0]]
    assert sum(of_a) == 3
    assert torch.equal(~domains.pairable, torch.tensor(of_a)[:, None].expand(6, 6))
    with pytest.raises(ValueError, match="source_subjects must name 2 arrays"):
        recipe.changed(data={"source_subjects": ["a"]})


def test_missing_data_is_told(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"images\.npz.*PLASTICINE_DATA"):
        load_domains(recipe, tmp_path / "elsewhere", seed=0)
    with pytest.raises(ValueError, match="no array 'z'; it holds a, b, c"):
        load_domains(recipe.changed(data={"source": ["z"]}), tmp_path, seed=0)


@pytest.mark.parametrize("size", [(15, 20), (9, 12, 10)])
def test_random_deformations_move_a_pair_together_without_folding(size: tuple[int, ...]) -> None:
    deformation = RandomDeformation(10, 0.1, 2.0, True, 1.0, 8)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    grid = torch.stack(axes).expand(4, -1, *size)
    first, twice = deformation([grid, 2 * grid], _draws(4))
    torch.testing.assert_close(twice, 2 * first)
    again = deformation([grid], _draws(4))[0]
    assert torch.equal(first, again)
    assert (first - grid).abs().mean() > 0.5
    assert not torch.allclose(first[0], first[1])
    # Border padding flattens what lands outside; inside, the map has one sign of determinant.
    determinant = plasticine.jacobian_determinant(first - grid)
    inner = determinant[(..., *(slice(4, -4) for _ in size))]
    sign = inner.flatten(1).mean(1).sign().view(-1, *([1] * (inner.ndim - 1)))
    assert (inner * sign > 0).float().mean() > 0.95


def test_no_deformation_changes_nothing() -> None:
    image = torch.rand(2, 1, 9, 11)
    same = RandomDeformation()([image], _draws(2))[0]
    torch.testing.assert_close(same, image)


def test_average_follows_slowly() -> None:
    update = ema_update(0.9)
    average, current = [torch.zeros(1)], [torch.ones(1)]
    update(average, current, 0)
    assert average[0].item() == pytest.approx(0.9)
    update(average, current, 1000)
    assert average[0].item() == pytest.approx(0.9 + 0.1 * 0.1)


def _loss(network: torch.nn.Module, draws: Draws) -> torch.Tensor:
    x = draws.normal(3)
    return (network(x) - x @ torch.tensor([[1.0], [-2.0], [0.5]])).square().mean()


def _stage(folder: Path, steps: int, seed: int = 0) -> Stage:
    rate = {"warmup": 2, "gradient_norm": 10.0, "checkpoint_every": 5}
    return linear_stage(folder, _loss, seed=seed, steps=steps, batch=8, **rate)


def test_a_stage_learns(tmp_path: Path) -> None:
    seen = []
    average = _stage(tmp_path, 200).run(lambda *call: seen.append(call))
    assert [call[1] for call in seen] == list(range(1, 201))
    assert seen[-1][3]["loss"] < 1e-3 < seen[0][3]["loss"]
    torch.testing.assert_close(average.weight, torch.tensor([[1.0, -2.0, 0.5]]), atol=0.05, rtol=0)


def test_a_resumed_stage_gives_the_same_bits(tmp_path: Path) -> None:
    whole = _stage(tmp_path / "whole", 20).run()

    with pytest.raises(KeyboardInterrupt):
        _stage(tmp_path / "stopped", 20).run(stop_at("linear", 13))
    resumed = _stage(tmp_path / "stopped", 20)
    resumed.load()
    assert resumed.step == 10
    assert torch.equal(resumed.run().weight, whole.weight)


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    _stage(tmp_path, 5).run()
    refuses(ValueError, "its seed is 0, this run's is 1", _stage(tmp_path, 5, seed=1).load)
    refuses(ValueError, "settings", _stage(tmp_path, 6).load)
    with pytest.raises(FileNotFoundError):
        _stage(tmp_path / "empty", 5).load()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    stage = _stage(tmp_path, 5)
    stage.loss = lambda draws: (stage.network.weight.sum() * torch.nan, {})
    refuses(RuntimeError, "linear: the loss is nan at step 1", stage.run)


def test_training_writes_a_model_and_resumes_to_the_same_bits(
    recipe: Recipe, tmp_path: Path
) -> None:
    seen: list[str] = []
    recipe = recipe.changed(card={"ndim": None})
    path = train(
        recipe, tmp_path, tmp_path / "whole", progress=lambda name, *rest: seen.append(name)
    )
    assert seen == ["diffusion"] * 4 + ["registration"] * 4
    model, card = load_model(path)
    assert card["name"] == "brain-t1-t2"
    assert card["ndim"] == 2
    assert card["training_steps"] == {"diffusion": 4, "registration": 4}

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path, tmp_path / "stopped", progress=stop_at("registration", 3))
    refuses(ValueError, "an earlier run: resume it", train, recipe, tmp_path, tmp_path / "stopped")
    resumed = train(recipe, tmp_path, tmp_path / "stopped", resume=True)
    again = load_model(resumed)[0].state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again[name]), name


def test_a_rectified_flow_learns_and_is_saved(recipe: Recipe, tmp_path: Path) -> None:
    """Its loss falls, from 1 + E[y²] at the start, and its file samples by its own solver."""
    recipe = recipe.changed(
        model={
            "schedule": {"kind": "flow", "steps": 1000},
            "sampling": {"solver": "heun", "steps": 3, "guidance": 1.0, "start": 1.0},
        },
        diffusion={
            "steps": 150,
            "batch": 6,
            "warmup": 5,
            "learning_rate": 5e-3,
            "checkpoint_every": 150,
        },
        registration={"steps": 1},
    )
    seen: list[float] = []

    def keep(name: str, step: int, steps: int, values: dict[str, float]) -> None:
        if name == "diffusion":
            seen.append(values["loss"])

    path = train(recipe, tmp_path, tmp_path / "run", progress=keep)
    assert seen[0] > 1
    assert np.mean(seen[-20:]) < 0.7 * np.mean(seen[:5])
    trace = Translator.load(path).translate(torch.rand(1, 1, 16, 20))
    assert trace.arguments["solver"] == "heun"


def test_seeds_differ(recipe: Recipe, tmp_path: Path) -> None:
    weights = [
        load_model(train(recipe, tmp_path, tmp_path / str(seed), seed=seed))[0].state_dict()
        for seed in (0, 1)
    ]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_tensor_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"t": torch.arange(3)}, {"about": {"n": 1}})
    with pytest.raises(TypeError):
        save_tensors(path, {"t": torch.zeros(3)}, {"about": object()})
    tensors, metadata = load_tensors(path)
    assert torch.equal(tensors["t"], torch.arange(3))
    assert metadata == {"about": {"n": 1}}
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    path.write_bytes(b"not tensors")
    refuses(ValueError, r"a\.safetensors is not a safetensors file", load_tensors, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "model": {"structure": {"name": "back-translation", "interior": 1024}},
                "structure": load_recipe("brain-t1-t2").structure.model_dump(mode="json")
                | {"steps": 1, "base_steps": 1},
            },
            "the source does not suit the recipe: no voxel lies 1024 voxels or more inside",
        ),
        (
            {"diffusion": {"patch": [8, 24]}},
            r"\[diffusion\] patch \[8, 24\] does not fit images of",
        ),
        (
            {"data": {"source_subjects": ["x", "x"], "target_subjects": ["x"]}},
            "a source has no target but those of its own subject",
        ),
    ],
)
def test_images_that_a_later_stage_cannot_take_are_refused_before_the_first(
    recipe: Recipe, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with np.load(tmp_path / "images.npz") as archive:
        images = dict(archive)
    for stack in images.values():
        stack[:, 0] = 0  # outside of the body
    np.savez(tmp_path / "images.npz", **images)

    def trained(*call: object) -> None:
        raise AssertionError("a stage has begun")

    recipe = recipe.changed(**changes)
    refuses(ValueError, message, train, recipe, tmp_path, tmp_path / "run", progress=trained)


def test_torchs_modes_do_not_change_a_training(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"seed must lie within 0 … {2**32 - 1}"):
        train(recipe, tmp_path, tmp_path / "none", seed=2**32)
    assert not (tmp_path / "none").exists()
    expected = load_tensors(train(recipe, tmp_path, tmp_path / "plain"))[0]
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            paths = [train(recipe, tmp_path, tmp_path / "modes")]
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    with torch.no_grad():
        paths.append(train(recipe, tmp_path, tmp_path / "no_grad"))
        assert not torch.is_grad_enabled()
    for path in paths:
        found = load_tensors(path)[0]
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name
