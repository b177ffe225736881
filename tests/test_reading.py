"""Reading a recipe's images, and a user's own folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from recipe_file import OWN_DATA
from refusal import refuses

from plasticine.io import files_in, normalise
from plasticine.nn.body import body_mask
from plasticine.training import load_recipe
from plasticine.training.reading import fit, load_domains, subject_of
from plasticine.training.recipe import Recipe


@pytest.fixture
def recipe() -> Recipe:
    """The shipped recipe, its images cut to 16 x 12."""
    return load_recipe("brain-t1-t2").changed(data={"size": [16, 12]})


def write_volume(path: Path, bright: int, slices: int = 4) -> None:
    """A volume of 2 mm in the recipe's axes order, whose first slice is empty."""
    path.parent.mkdir(exist_ok=True)
    data = np.zeros((14, 14, slices), np.float32)
    data[3:-3, 3:-3, 1:] = bright
    data[5, 5, 1:] = 2 * bright
    nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])), path)


def test_folders_replace_the_recipes_images(recipe: Recipe, tmp_path: Path) -> None:
    for domain in ("source", "target"):
        write_volume(tmp_path / domain / "anna.nii.gz", 100)
        write_volume(tmp_path / domain / f"{domain}-only.nii.gz", 100)
    seen: list[tuple[str, int, int]] = []
    domains = load_domains(
        recipe,
        None,
        0,
        source=tmp_path / "source",
        target=tmp_path / "target",
        progress=lambda *step: seen.append(step),
    )
    # Two files of three slices each: the empty ones are left out.
    assert domains.source.shape == domains.target.shape == (6, 1, 16, 12)
    assert domains.source.min() == -1
    assert domains.source.max() == 1
    # A file's name is its subject: anna's three slices do not meet anna's.
    assert domains.pairable is not None
    assert int((~domains.pairable).sum()) == 9
    assert seen[-1] == ("reading target", 2, 2)


def test_the_targets_window_is_its_own(recipe: Recipe, tmp_path: Path) -> None:
    write_volume(tmp_path / "source" / "a.nii.gz", 100)
    write_volume(tmp_path / "target" / "b.nii.gz", 100)
    recipe = recipe.changed(card={"target_normalisation": {"low": 0, "high": 400}})
    folders: dict[str, Any] = {name: tmp_path / name for name in ("source", "target")}
    domains = load_domains(recipe, None, 0, **folders)
    assert domains.source.max() == 1
    assert domains.target.max() == pytest.approx(2 * 200 / 400 - 1)


def test_files_of_different_sizes_need_a_size(tmp_path: Path) -> None:
    recipe = load_recipe("brain-t1-t2").changed(data={"crop": None})
    write_volume(tmp_path / "source" / "a.nii.gz", 100)
    wide = np.ones((20, 14, 3), np.float32)
    nibabel.save(nibabel.Nifti1Image(wide, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "wide.nii")
    (tmp_path / "wide.nii").rename(tmp_path / "source" / "wide.nii")
    with pytest.raises(ValueError, match="give the recipe a size"):
        load_domains(recipe, None, 0, source=tmp_path / "source", target=tmp_path / "source")


@pytest.mark.parametrize("kind", ["absent", "empty"])
def test_a_folder_without_images_is_told(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / kind
    if kind == "empty":
        folder.mkdir()
        (folder / "notes.txt").write_text("no image")
    refuses(FileNotFoundError, kind, files_in, folder)


def test_a_files_subject_is_its_name() -> None:
    assert [subject_of(Path(f"x/p.1{end}")) for end in (".nii.gz", ".nii", ".png")] == ["p.1"] * 3


@pytest.mark.parametrize("size", [(5, 9), (8, 4), (7, 7)])
def test_fit_keeps_the_middle(size: tuple[int, int]) -> None:
    images = torch.zeros(1, 1, 7, 7)
    images[0, 0, 3, 3] = 1
    fitted = fit(images, size)
    assert fitted.shape == (1, 1, *size)
    place = fitted[0, 0].nonzero()[0]
    assert ((place - (torch.tensor(size) - 1) / 2).abs() <= 0.5).all()


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_body_mask_drops_a_thin_table(ndim: int) -> None:
    images = torch.zeros(1, 1, *[24] * ndim)
    images[:, :, 4:14] = 1
    images[:, :, 18] = 1  # one voxel thin
    mask = body_mask(images, 0.5, opening=1, margin=1)
    along = mask[0, 0].flatten(1).amax(1)
    assert along.nonzero().flatten().tolist() == list(range(3, 15))


def test_a_window_is_scaled_and_counted() -> None:
    data = np.array([[-1000, -160, 40, 240, 900]], np.float32)
    scaled, record = normalise(data, {"low": -160, "high": 240}, "ct")
    np.testing.assert_allclose(scaled, [[0, 0, 0.5, 1, 1]])
    assert (record.low, record.divisor) == (-160, 400)
    assert (record.clipped_below, record.clipped_above) == (1, 1)
    refuses(ValueError, "low < high", normalise, data, {"low": 3, "high": 3}, "ct")
    refuses(ValueError, "below the window", normalise, data, {"low": 5000, "high": 6000}, "ct")


def test_a_domain_of_nearly_empty_images_is_told(recipe: Recipe, tmp_path: Path) -> None:
    np.savez(tmp_path / "dark.npz", a=np.zeros((3, 16, 12), np.uint8))
    own = OWN_DATA | {"file": "dark.npz", "target": ["a"], "foreground": 0.1}
    recipe = recipe.changed(data=own)
    refuses(ValueError, "the source holds no image", load_domains, recipe, tmp_path, 0)


def _damaged(archive: bytes, kind: str) -> bytes:
    position = archive.index(b"NUMPY") + 40
    return {
        "empty": b"",
        "text": b"no arrays",
        "pickle": b"\x80\x04N.",
        "array": archive[archive.index(b"\x93NUMPY") :],
        "cut": archive[:200],
        "bit": archive[:position] + bytes([archive[position] ^ 1]) + archive[position + 1 :],
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "pickle", "array", "cut", "bit"])
def test_a_damaged_archive_is_told(recipe: Recipe, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, a=np.zeros((3, 16, 12), np.uint8))
    path.write_bytes(_damaged(path.read_bytes(), kind))
    recipe = recipe.changed(data=OWN_DATA | {"target": ["a"]})
    with pytest.raises(ValueError, match=r"images\.npz: (damaged|expected an \.npz archive)"):
        load_domains(recipe, tmp_path, 0)


@pytest.mark.parametrize("value", [-1, 256, np.nan, np.inf])
def test_values_outside_of_the_range_are_refused(
    recipe: Recipe, tmp_path: Path, value: float
) -> None:
    images = np.full((3, 16, 12), 100.0, np.float32)
    images[1, 2, 3] = value
    np.savez(tmp_path / "images.npz", a=images)
    recipe = recipe.changed(data=OWN_DATA | {"target": ["a"]})
    with pytest.raises(ValueError, match=r"'a' of .*images\.npz: expected values of 0 to 255"):
        load_domains(recipe, tmp_path, 0)


def test_patients_are_told_by_an_array_and_held_out(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 9), np.uint8)
    images[:, 2:6, 2:6] = np.array([10, 20, 30, 40])[:, None, None]
    names = np.array(["anna", "bert", "anna", "cora"])
    np.savez(tmp_path / "hearts.npz", a=images, b=images, masks=images > 0, who=names)
    data: dict[str, Any] = {
        "file": "hearts.npz",
        "source": ["a"],
        "target": ["b"],
        "source_labels": ["masks"],
        "target_labels": ["masks"],
        "source_patients": ["who"],
        "target_patients": ["who"],
        "source_slices": [1, 4],
        "maximum": 255,
        "held_out": ["anna"],
        "crop": None,
    }
    recipe = load_recipe("cardiac-population").changed(data=data)
    domains = load_domains(recipe, tmp_path, 0)
    assert sorted((domains.source.amax((1, 2, 3)) + 1).tolist()) == pytest.approx(
        [40 / 255, 80 / 255]
    )
    assert domains.source_labels is not None
    assert domains.source_labels.shape == (2, 1, 8, 9)
    assert domains.pairable is not None
    assert domains.pairable.sum(1).tolist() == [1, 1]  # bert does not meet bert
    for wrong, message in (
        ({"held_out": ["dora"]}, "no image is of dora"),
        ({"source_patients": ["masks"]}, r"must name the subject of each of 4 images"),
        ({"source_patients": ["nobody"]}, "holds no array 'nobody'"),
    ):
        refuses(ValueError, message, load_domains, recipe.changed(data=wrong), tmp_path, 0)
    for wrong, message in (
        ({"source_subjects": ["anna"]}, "in place of source_subjects"),
        ({"source_patients": None}, "whose the images of the source are"),
    ):
        refuses(ValueError, message, recipe.changed, data=wrong)
