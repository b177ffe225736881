"""A user's label maps as structure: the map, the reading, the training, the translation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recipe_file import small_recipe
from refusal import refuses
from small_models import images, untrained
from typer.testing import CliRunner

import plasticine
from plasticine import cli, structure
from plasticine.io import model_images, read_volume
from plasticine.training import load_domains, train
from plasticine.training.recipe import Recipe
from plasticine.translation import Translator

BRIGHTNESS = {"source": np.array([10, 80, 200]), "target": np.array([20, 220, 90])}
"""Grey level of each label in either domain."""
OF_LABELS = {"name": "labels", "labels": 3}


def _labels(count: int, seed: int) -> NDArray[np.uint8]:
    """Label maps (count, 16, 20) of two blocks in an empty field."""
    generator = np.random.default_rng(seed)
    labels = np.zeros((count, 16, 20), np.uint8)
    for image in labels:
        row, column = generator.integers(1, 4), generator.integers(1, 5)
        image[row : row + 9, column : column + 12] = 1
        image[row + 2 : row + 7, column + 3 : column + 8] = 2
    return labels


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A recipe whose structure is labels, so small that it trains in a second."""
    arrays = {}
    for seed, (domain, grey) in enumerate(BRIGHTNESS.items()):
        labels = _labels(6, seed)
        arrays |= {domain: grey[labels].astype(np.uint8), f"{domain}_labels": labels}
    np.savez(tmp_path / "images.npz", **arrays)
    own = {"source": ["source"], "target": ["target"]}
    labels = {f"{domain}_labels": [f"{domain}_labels"] for domain in BRIGHTNESS}
    return small_recipe(
        data=own | labels, structure=OF_LABELS, stage={"steps": 4, "checkpoint_every": 2}
    )


def _save(path: Path, data: NDArray[Any], spacing: float = 2.0) -> None:
    """A NIfTI file of (rows, columns, slices) that a model of axial slices takes as it is."""
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(data, np.diag([spacing, spacing, 2.0, 1.0])), path)


def test_every_label_has_its_channel() -> None:
    labels = torch.randint(0, 4, (2, 1, 5, 6), generator=torch.Generator().manual_seed(0))
    image = torch.zeros(2, 1, 5, 6, dtype=torch.float64)
    channels = structure.create("labels", 2, labels=4)(image, labels=labels)
    assert channels.dtype == torch.float64
    assert torch.equal(channels.argmax(1, keepdim=True), labels)
    assert torch.equal(channels.sum(1), torch.ones(2, 5, 6))


def test_labels_in_a_list_have_channels_and_others_have_none() -> None:
    labels = torch.tensor([0, 30, 207, 5], dtype=torch.uint8).view(1, 1, 2, 2, 1)
    map_ = structure.create("labels", 3, labels=[207, 30])
    assert map_.channels == 2
    channels = map_(torch.zeros(labels.shape), labels=labels).flatten(2)
    assert channels.tolist() == [[[0, 0, 1, 0], [0, 1, 0, 0]]]


def test_wrong_labels_are_refused() -> None:
    image, labels = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.int32)
    map_ = structure.create("labels", 2, labels=3)
    for value, found in ((3, "0 to 3"), (-1, "-1 to 0")):
        wrong = labels.clone()
        wrong[0, 0, 1, 1] = value
        refuses(ValueError, rf"within 0 … 2; got {found}", map_, image, labels=wrong)
    refuses(ValueError, "made from a label map; got none", map_, image)
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 4\); got \(1, 1, 4, 5\)"):
        map_(image, labels=torch.zeros(1, 1, 4, 5, dtype=torch.int32))
    refuses(TypeError, "float32", map_, image, labels=labels.float())
    refuses(ValueError, "MIND takes no labels", structure.create("mind", 2), image, labels=labels)
    for wrong_count in (0, [], [1, 1]):
        with pytest.raises(ValueError, match="labels must be a positive number"):
            structure.create("labels", 2, labels=wrong_count)


def test_labels_are_cut_turned_and_shuffled_with_their_images(
    recipe: Recipe, tmp_path: Path
) -> None:
    recipe = recipe.changed(
        data={
            "source_slices": [1, 5],
            "source_flip": [1],
            "target_flip": [0],
            "target_body": {"threshold": 0.2, "opening": 1, "margin": 0},
            "foreground": 0.1,
            "crop": [12, 14],
        }
    )
    domains = load_domains(recipe, tmp_path, seed=0)
    assert domains.source_labels is not None
    assert domains.target_labels is not None
    assert domains.source.shape == domains.source_labels.shape == (4, 1, 12, 14)
    grey = (BRIGHTNESS["source"] / 255 * 2 - 1)[domains.source_labels.numpy()]
    np.testing.assert_allclose(domains.source.numpy(), grey, atol=1e-6)
    foreground = domains.target_labels.numpy() > 0  # the background went with the body's mask
    grey = (BRIGHTNESS["target"] / 255 * 2 - 1)[domains.target_labels.numpy()]
    np.testing.assert_allclose(domains.target.numpy()[foreground], grey[foreground], atol=1e-6)


@pytest.mark.parametrize("together", [True, False])
def test_folders_of_labels(recipe: Recipe, tmp_path: Path, together: bool) -> None:
    """Labels beside the images, and in a folder of their own under the images' names."""
    recipe = recipe.changed(data={"size": [14, 12]})
    folders = {}
    for domain, grey in BRIGHTNESS.items():
        images = tmp_path / domain
        maps = images if together else tmp_path / f"{domain}-maps"
        for seed, name in enumerate(("anna", "bert")):
            labels = _labels(3, seed).transpose(1, 2, 0)
            _save(images / f"{name}.nii.gz", grey[labels].astype(np.int16))
            _save(maps / f"{name}{'_labels' if together else ''}.nii.gz", labels)
        folders |= {domain: images, f"{domain}_labels": maps}
    domains = load_domains(recipe, None, 0, **folders)
    assert domains.source_labels is not None
    assert domains.source.shape == domains.source_labels.shape == (6, 1, 14, 12)
    for label, level in enumerate(BRIGHTNESS["source"] / 200):
        inside = domains.source[domains.source_labels == label]
        torch.testing.assert_close(inside, torch.full_like(inside, 2 * level - 1))
    (folders["source_labels"] / f"bert{'_labels' if together else ''}.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"bert.nii.gz needs one label map .* found 0"):
        load_domains(recipe, None, 0, **folders)
    del folders["target_labels"]
    refuses(ValueError, "needed together", load_domains, recipe, None, 0, **folders)


def test_a_training_without_fitting_labels_stops_before_it_begins(
    recipe: Recipe, tmp_path: Path
) -> None:
    fewer = recipe.changed(model={"structure": {"name": "labels", "labels": 2}})
    with pytest.raises(ValueError, match=r"the source does not suit .* within 0 … 1; got 0 to 2"):
        train(fewer, tmp_path, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
    with pytest.raises(ValueError, match=r"source_labels and target_labels are needed together"):
        recipe.changed(data={"target_labels": None})
    with pytest.raises(ValueError, match="source_labels must name 1 arrays"):
        recipe.changed(data={"source_labels": ["a", "b"]})
    without = recipe.changed(data={"source_labels": None, "target_labels": None, "file": "none"})
    with pytest.raises(ValueError, match="needs the images' label maps; got none"):
        train(without, tmp_path, tmp_path / "none")  # before it looks for the file
    assert not (tmp_path / "none").exists()


def test_the_labels_decide_what_the_translation_shows(recipe: Recipe, tmp_path: Path) -> None:
    """Trained on labels, a flat image and a label map give the target's grey levels."""
    recipe = recipe.changed(
        diffusion={
            "steps": 60,
            "batch": 6,
            "warmup": 5,
            "learning_rate": 1e-2,
            "checkpoint_every": 60,
            "patch": [12, 12],
        },
        registration={"steps": 1},
    )
    translator = Translator.load(train(recipe, tmp_path, tmp_path / "run"))
    labels = torch.from_numpy(_labels(2, 9)).long()[:, None]
    flat = torch.full(labels.shape, 0.5)
    trace = translator.translate(flat, labels=labels, deform=False, samples=2)
    means = [trace.translated[labels == label].mean().item() for label in range(3)]
    assert means[0] < means[2] < means[1], means
    assert trace.arguments["labels"] is True


def test_the_channels_are_carried_linearly(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def keep(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(denoiser: Any, noisy: Any, condition: Any, *rest: Any, **named: Any) -> Any:
            seen.append(condition)
            return original(denoiser, noisy, condition, *rest, **named)

        return call

    module = plasticine.translation.sampling
    monkeypatch.setattr(module, "sample", keep(module.sample))
    labels = torch.from_numpy(_labels(1, 2)).long()[:, None]
    translator = untrained(structure=OF_LABELS)
    trace = translator.translate(images(1, 1, 16, 20), labels=labels)
    assert trace.displacement.abs().max() > 1e-3
    channels = (labels == torch.arange(3).view(1, 3, 1, 1)).float()
    torch.testing.assert_close(seen[0], plasticine.warp(channels, trace.displacement))
    assert trace.structure_agreement is None


def test_an_image_and_its_reference_need_their_labels() -> None:
    translator = untrained(3, structure=OF_LABELS)
    image, labels = images(1, 1, 8, 9, 10), torch.zeros(1, 1, 8, 9, 10, dtype=torch.uint8)
    refuses(ValueError, "got none", translator.translate, image)
    refuses(ValueError, "got none", translator.translate, image, labels=labels, reference=image)
    with pytest.raises(ValueError, match="no reference"):
        translator.translate(image, labels=labels, reference_labels=labels)
    other = translator.translate(
        image, labels=labels, reference=image.flip(2), reference_labels=labels + 1
    )
    assert not torch.allclose(
        other.displacement, translator.translate(image, labels=labels).displacement
    )


def test_labels_are_taken_to_the_models_voxels(tmp_path: Path) -> None:
    fine = np.kron(_labels(3, 1).transpose(1, 2, 0), np.ones((2, 2, 1), np.uint8))
    _save(tmp_path / "image.nii.gz", fine.astype(np.float32) + 1, spacing=1.0)
    _save(tmp_path / "labels.nii.gz", 100 * fine, spacing=1.0)
    card = {"ndim": 2, "spacing_mm": 2.0, "normalisation": {"percentile": 99.9, "of": "positive"}}
    laid = model_images(read_volume(tmp_path / "image.nii.gz"), card)
    labels, notes = laid.labels(tmp_path / "labels.nii.gz")
    assert notes == ()
    assert labels.shape == laid.images.shape
    assert sorted(labels.unique().tolist()) == [0, 100, 200]
    # Model voxel k lies on voxel 2k of the file, and the last one reaches beyond it.
    expected = laid.grid.to_images(100.0 * fine)[..., ::2, ::2].long()
    assert torch.equal(labels[..., :-1, :-1], expected)
    _save(tmp_path / "elsewhere.nii.gz", fine, spacing=1.5)
    refuses(ValueError, "position in space", laid.labels, tmp_path / "elsewhere.nii.gz")


def test_the_command_line_trains_and_translates_on_labels(recipe: Recipe, tmp_path: Path) -> None:
    once = {"steps": 1}
    model = train(recipe.changed(diffusion=once, registration=once), tmp_path, tmp_path / "run")
    labels = _labels(2, 4).transpose(1, 2, 0)
    _save(tmp_path / "x.nii.gz", BRIGHTNESS["source"][labels].astype(np.int16))
    _save(tmp_path / "x_labels.nii.gz", labels)
    call = ["translate", str(tmp_path / "x.nii.gz"), "--model", str(model), "--steps", "1"]
    call += ["--output", str(tmp_path / "out")]
    refused = CliRunner().invoke(cli.app, call)
    assert refused.exit_code == 1
    assert "made from a label map" in refused.stderr
    done = CliRunner().invoke(cli.app, [*call, "--labels", str(tmp_path / "x_labels.nii.gz")])
    assert done.exit_code == 0, done.stderr
    record = json.loads((tmp_path / "out" / "trace.json").read_text(encoding="utf-8"))
    assert record["input"]["labels"].endswith("x_labels.nii.gz")
    assert record["metrics"]["structure_agreement_mean"] is None
    assert record["metrics"]["structure_agreement_per_image"] is None


def test_labels_teach_the_registration_of_a_model_that_needs_none(
    recipe: Recipe, tmp_path: Path
) -> None:
    recipe = recipe.changed(model={"structure": {"name": "kmeans", "clusters": 3}})
    with pytest.raises(ValueError, match="its images have label maps, but neither"):
        train(recipe, tmp_path, tmp_path / "unused")
    recipe = recipe.changed(registration={"nearest": None, "transport": 0.1, "labels": [2]})
    model = train(recipe, tmp_path, tmp_path / "run")
    translator = Translator.load(str(model))
    trace = translator.translate(load_domains(recipe, tmp_path, 0).source / 2 + 0.5, steps=1)
    assert trace.displacement.abs().max() > 0
    recipe = recipe.changed(registration={"labels": [7]})
    refuses(ValueError, "nothing is labelled in 6 of 6", train, recipe, tmp_path, tmp_path / "none")


@pytest.mark.parametrize(
    ("registration", "message"),
    [
        ({"transport": 0.1, "labels": [1]}, "takes one of nearest and transport"),
        ({"transport": 0.1, "nearest": None}, "transport pairs labelled shapes"),
        ({"nearest": None}, "takes one of nearest and transport"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(
    recipe: Recipe, registration: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recipe.changed(
            model={"structure": {"name": "kmeans", "clusters": 3}}, registration=registration
        )
