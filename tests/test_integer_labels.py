"""Labels stay the whole numbers that a file holds, from the file to the table."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from recipe_file import OWN_DATA, small_recipe
from small_models import images, untrained

from plasticine import metrics, structure
from plasticine.io import (
    ModelGrid,
    model_images,
    read_labels,
    read_volume,
    translate_volume,
    write_displacement,
)
from plasticine.report import describe, evaluate, write_evaluation, write_results
from plasticine.training import load_domains
from plasticine.translation import Translator

NEIGHBOURS = (576073699, 576073704)
"""Two labels of the Allen brain atlas that are one number in float32."""
SHAPE = (24, 28, 3)


def _map(first: int, second: int, dtype: str) -> NDArray[Any]:
    labels = np.zeros(SHAPE, dtype)
    labels[4:12, 5:20] = first
    labels[12:20, 5:20] = second
    return labels


def _read(path: Path) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """A label map of SHAPE without spacing, in the file's own order."""
    grid = ModelGrid.of(SHAPE, np.eye(4), orientation="RAS", ndim=3, spacing=None)
    labels, notes = read_labels(path, grid, np.eye(4), "RAS")
    assert labels.dtype == torch.int64
    return grid.to_file(labels), notes


@pytest.mark.parametrize(
    ("dtype", "first", "second"),
    [
        ("uint8", 254, 255),
        ("int8", -128, 127),
        ("uint16", 65534, 65535),
        ("int16", -(2**15), 2**15 - 1),
        ("uint32", 2**32 - 2, 2**32 - 1),
        ("int32", -(2**31), 2**31 - 1),
        ("uint64", 2**63 - 2, 2**63 - 1),
        ("int64", -(2**63), 2**63 - 1),
        ("float16", 2046, 2047),
        ("float32", 2**24 - 2, 2**24 - 1),
        ("float64", 2**53 - 2, 2**53 - 1),
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "tif", "nii.gz"])
def test_every_number_of_every_type_is_kept(
    tmp_path: Path, dtype: str, first: int, second: int, suffix: str
) -> None:
    labels = _map(first, second, dtype)
    path = tmp_path / f"labels.{suffix}"
    if suffix == "npy":
        np.save(path, labels)
    elif suffix == "tif":
        tifffile.imwrite(path, labels, metadata=None, photometric="minisblack")
    elif dtype == "float16":
        pytest.skip("NIfTI has no such type")
    else:
        nibabel.save(nibabel.Nifti1Image(labels, np.eye(4), dtype=labels.dtype), path)
    found, notes = _read(path)
    np.testing.assert_array_equal(found, labels.astype(np.int64))
    assert not any("rounded" in note for note in notes)


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("uint64", 2**63, "at most 9223372036854775807, got 9223372036854775808"),
        ("float16", 2048, "below 2048, from where float16 does not hold every whole number"),
        ("float32", 2**24, "below 16777216, from where float32"),
        ("float64", 2.0**53, "below 9007199254740992, from where float64"),
        ("float64", 1e300, "below 9007199254740992"),
        ("float32", 1.002, "got fractions such as 1.00"),
        ("float64", np.nan, "360 that are NaN or infinite"),
        ("float64", -np.inf, "360 that are NaN or infinite"),
    ],
)
def test_what_cannot_be_held_is_refused(
    tmp_path: Path, dtype: str, value: float, message: str
) -> None:
    np.save(tmp_path / "labels.npy", _map(0, 0, dtype))
    labels = np.load(tmp_path / "labels.npy")
    labels[4:12, 5:20] = value
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(ValueError, match=message) as caught:
        _read(tmp_path / "labels.npy")
    assert str(tmp_path / "labels.npy") in str(caught.value)


def test_labels_off_by_rounding_are_rounded_with_a_note(tmp_path: Path) -> None:
    labels = _map(1, 2, "float32") * np.float32(1.0000153)
    np.save(tmp_path / "labels.npy", labels)
    found, notes = _read(tmp_path / "labels.npy")
    np.testing.assert_array_equal(found, _map(1, 2, "int64"))
    count = int((labels != np.rint(labels)).sum())
    rounded = f"{count} labels were rounded to whole numbers, by 3e-05 at most"
    assert notes == (f"{tmp_path / 'labels.npy'}: {rounded}",)


class TestEvaluate:
    @pytest.fixture
    def results(self, tmp_path: Path, model_file: Path, head: Path) -> Path:
        """A translation whose φ is made a shift by 2 voxels along the first axis."""
        folder = tmp_path / "results"
        folder.mkdir()
        volume = read_volume(head)
        write_results(translate_volume(Translator.load(model_file), volume, deform=False), folder)
        shift = np.zeros((3, *SHAPE), np.float32)
        shift[0] = 2
        write_displacement(folder / "displacement.nii.gz", shift, np.diag([2.0, 2, 4, 1]))
        return folder

    @staticmethod
    def _save(path: Path, labels: NDArray[Any]) -> Path:
        nibabel.save(nibabel.Nifti1Image(labels, np.diag([2.0, 2, 4, 1]), dtype=labels.dtype), path)
        return path

    def test_neighbours_stay_apart(self, results: Path, tmp_path: Path) -> None:
        labels = _map(*NEIGHBOURS, "uint32")
        found = evaluate(
            results,
            labels=self._save(tmp_path / "labels.nii.gz", labels),
            target_labels=self._save(tmp_path / "moved.nii.gz", np.roll(labels, -2, axis=0)),
        )
        assert list(found["labels"]) == [str(label) for label in NEIGHBOURS]
        for figures in found["labels"].values():
            assert figures["dice"] == 1
            assert figures["hd95_mm"] == figures["assd_mm"] == 0
            for name in ("source", "carried", "target"):
                assert figures[f"{name}_volume_ml"] == pytest.approx(8 * 15 * 3 * 16 / 1000)
        write_evaluation(found, tmp_path)
        rows = (tmp_path / "evaluation.csv").read_text().splitlines()
        for label in NEIGHBOURS:
            assert f"labels,{label},dice,1.0" in rows

    def test_labels_beyond_float64(self, results: Path, tmp_path: Path) -> None:
        labels = _map(2**60 + 1, 2**60 + 2, "int64")
        found = evaluate(results, labels=self._save(tmp_path / "labels.nii.gz", labels))
        assert list(found["labels"]) == [str(2**60 + 1), str(2**60 + 2)]

    def test_rounded_masks_and_labels_are_recorded(
        self, results: Path, tmp_path: Path, head: Path
    ) -> None:
        soft = _map(1, 1, "float32") * np.float32(1.0000153)
        mask = self._save(tmp_path / "mask.nii.gz", soft)
        labels = self._save(tmp_path / "labels.nii.gz", soft)
        options: dict[str, Any] = {"truth": head, "erosion": 0}
        found = evaluate(results, mask=mask, labels=labels, **options)
        whole = self._save(tmp_path / "whole.nii.gz", _map(1, 1, "uint8"))
        expected = evaluate(results, mask=whole, labels=whole, **options)
        assert found["truth"] == expected["truth"]
        assert found["labels"] == expected["labels"]
        rounded = [note for note in found["notes"] if "rounded" in note]
        assert [note.split(": ")[0] for note in rounded] == [str(mask), str(labels)]
        assert not any("rounded" in note for note in expected["notes"])
        json.dumps(found)


def test_labels_are_resampled_exactly(tmp_path: Path) -> None:
    first, second = 2**60 + 1, 2**60 + 2
    affine = np.diag([1.0, 1, 2, 1])
    image = (np.indices(SHAPE).sum(0) + 1).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "image.nii")
    labels = _map(first, second, "int64")
    nibabel.save(nibabel.Nifti1Image(labels, affine, dtype="int64"), tmp_path / "labels.nii")
    card = {"ndim": 2, "spacing_mm": 2.0, "normalisation": {"percentile": 99.9, "of": "positive"}}
    laid = model_images(read_volume(tmp_path / "image.nii"), card)
    assert laid.grid.resampled
    found, _ = laid.labels(tmp_path / "labels.nii")
    expected = laid.grid.to_images(labels)[..., ::2, ::2]
    inner = (..., slice(0, expected.shape[-2] - 1), slice(0, expected.shape[-1] - 1))
    assert torch.equal(found[inner], expected[inner])
    assert found.unique().tolist() == [0, first, second]


@pytest.mark.parametrize(
    ("dtype", "first", "second"),
    [
        (torch.bool, 0, 1),
        (torch.uint8, 254, 255),
        (torch.int64, 2**60 + 1, 2**60 + 2),
        (torch.uint32, 2**32 - 2, 2**32 - 1),
        (torch.uint64, 2**64 - 2, 2**64 - 1),
    ],
)
def test_a_trace_carries_labels_exactly(dtype: torch.dtype, first: int, second: int) -> None:
    trace = untrained().translate(images(1, 1, 20, 24))
    side = torch.arange(480).view(1, 1, 20, 24) % 2
    labels = torch.tensor([first, second], dtype=dtype)[side]
    carried = trace.labels_to_target(labels)
    expected = torch.tensor([first, second], dtype=dtype)[trace.labels_to_target(side)]
    assert carried.dtype == dtype
    assert torch.equal(carried, expected)
    broken = dataclasses.replace(trace, displacement=trace.displacement * torch.nan)
    with pytest.raises(ValueError, match="NaN"):
        broken.labels_to_target(labels)


def test_labels_of_two_types_are_compared_as_numbers() -> None:
    """In uint8 alone, 300 would be 44."""
    narrow = torch.tensor([[44, 44], [0, 0]], dtype=torch.uint8)
    wide = torch.tensor([[300, 44], [0, 300]], dtype=torch.int32)
    assert metrics.dice(narrow, wide) == {44: 2 / 3, 300: 0}
    assert metrics.dice(narrow, narrow, labels=[300])[300] != 1
    found = metrics.surface_distance(narrow, wide)
    assert found[300].hd95 == float("inf")
    with pytest.raises(ValueError, match="first: expected labels of at most"):
        metrics.dice(torch.tensor([2**64 - 1], dtype=torch.uint64), torch.tensor([1]))


def test_training_keeps_labels_apart(tmp_path: Path) -> None:
    large = (2**40 + 1, 2**40 + 2)
    images = np.full((4, 16, 20), 100, np.uint8)
    labels = np.zeros((4, 16, 20), np.int64)
    labels[:, 2:8], labels[:, 8:14] = large
    np.savez(tmp_path / "a.npz", a=images, b=images, a_labels=labels, b_labels=labels + 1e-4)
    data: dict[str, Any] = {"file": "a.npz", "maximum": 255, "crop": [12, 12]}
    data |= {"source_labels": ["a_labels"], "target_labels": ["b_labels"]}
    recipe = small_recipe(data=data)
    with pytest.warns(RuntimeWarning, match="b_labels: .* labels were rounded"):
        domains = load_domains(recipe, tmp_path, 0)
    for found in (domains.source_labels, domains.target_labels):
        assert found is not None
        assert found.dtype == torch.int64
        assert found.unique().tolist() == list(large)
    for part in ("source", "target"):
        (tmp_path / part).mkdir()
        affine = np.diag([2.0, 2, 2, 1])
        image = nibabel.Nifti1Image(images.transpose(1, 2, 0), affine)
        nibabel.save(image, tmp_path / part / "x.nii")
        image = nibabel.Nifti1Image(labels.transpose(1, 2, 0), affine, dtype="int64")
        nibabel.save(image, tmp_path / part / "x_labels.nii")
    recipe = recipe.changed(data=dict.fromkeys(OWN_DATA | data) | {"size": [18, 20]})
    names = ("source", "target", "source_labels", "target_labels")
    folders = {name: tmp_path / name.split("_")[0] for name in names}
    domains = load_domains(recipe, None, 0, **folders)
    assert domains.source_labels is not None
    assert domains.source_labels.unique().tolist() == [0, *large]


def test_a_structure_of_large_labels() -> None:
    large = [2**62 + 1, 2**62 + 2]
    labels = torch.tensor([0, *large, 5]).view(1, 1, 2, 2)
    channels = structure.create("labels", 2, labels=large)(torch.zeros(1, 1, 2, 2), labels=labels)
    assert channels.flatten(2).tolist() == [[[0, 1, 0, 0], [0, 0, 1, 0]]]
    for wrong in ([1.5, 2], [2**63]):
        with pytest.raises(ValueError, match="whole numbers within"):
            structure.create("labels", 2, labels=wrong)
    with pytest.raises(TypeError, match="uint32"):
        structure.create("labels", 2, labels=large)(
            torch.zeros(1, 1, 2, 2), labels=labels.to(torch.uint32)
        )


def test_a_translation_records_what_became_of_its_labels(tmp_path: Path, head: Path) -> None:
    translator = untrained(2, structure={"name": "labels", "labels": 3})
    translator.card["normalisation"] = {"percentile": 99.9, "of": "positive"}
    soft = _map(1, 2, "float32") * np.float32(1.0000153)
    path = tmp_path / "labels.nii.gz"
    nibabel.save(nibabel.Nifti1Image(soft, np.diag([2.0, 2, 4, 1])), path)
    result = translate_volume(translator, read_volume(head), labels=path)
    notes = describe(result)["input"]["notes"]
    assert any(note.startswith(f"{path}: ") and "rounded" in note for note in notes)
