"""`plasticine evaluate` on folders whose deformation, labels and truth are known."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Process
from image_files import save
from numpy.typing import NDArray

from plasticine import metrics
from plasticine.io import ModelGrid, read_volume, translate_volume, write_displacement, write_image
from plasticine.report import (
    EVALUATION_FILES,
    evaluate,
    read_results,
    write_evaluation,
    write_results,
)
from plasticine.report.record import as_plain
from plasticine.translation import Translator

SHAPE = (24, 28, 4)
SHIFT = 3  # voxels along the file's first axis


AFFINE = np.diag([-2.0, 2, 4, 1])
"""2 mm slices of 4 mm, stored to the left, so that an axis of the file is flipped."""


def _ball() -> NDArray[np.float32]:
    """Of 0 to 200, well inside the image."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt(axes[0] ** 2 + axes[1] ** 2 + 0.2 * axes[2] ** 2)
    return (200 * np.clip(0.7 - radius, 0, 0.5) * 2).astype(np.float32)


HEAD = _ball()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Path:
    """A translation whose φ is then made a shift, and whose ŷ the shifted source itself."""
    folder = tmp_path_factory.mktemp("results")
    source = save(folder / "head.nii.gz", HEAD, AFFINE)
    result = translate_volume(Translator.load(model_file), read_volume(source), deform=False)
    write_results(result, folder)
    shift = np.zeros((3, *SHAPE), np.float32)
    shift[0] = SHIFT
    write_displacement(folder / "displacement.nii.gz", shift, AFFINE)
    moved = np.roll(HEAD, -SHIFT, axis=0)
    write_image(folder / "warped.nii.gz", moved, AFFINE)
    write_image(folder / "translated.nii.gz", moved / 200, AFFINE)
    return folder


def _rows(folder: Path) -> dict[tuple[str, str, str], str]:
    with (folder / "evaluation.csv").open(newline="") as file:
        return {(r["group"], r["label"], r["measure"]): r["value"] for r in csv.DictReader(file)}


def test_reads_what_was_written(results: Path) -> None:
    found = read_results(results)
    assert found.is_one_body
    assert found.spacing == (4, 2, 2)
    grid = ModelGrid.of(SHAPE, AFFINE, orientation="SPR", ndim=2, spacing=2)
    field = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    field[2] = 0  # a two-dimensional model moves nothing across slices
    images = grid.displacement_to_images(field)
    assert images.shape == (4, 2, 28, 24)
    np.testing.assert_array_equal(grid.displacement_to_file(images), field)
    # The file's first axis runs to the left, the model's columns to the right.
    torch.testing.assert_close(found.displacement[:, 1], torch.full((4, 28, 24), -float(SHIFT)))
    assert not found.displacement[:, 0].any()
    expected = torch.from_numpy(np.roll(HEAD, -SHIFT, axis=0)) / 200
    torch.testing.assert_close(found.translated, grid.to_images(expected.numpy()))


class TestEvaluate:
    def test_deformation(self, results: Path) -> None:
        found = evaluate(results)["deformation"]
        assert found["one_deformation"] is True
        assert found["folds"] == 0
        assert found["minimum"] == found["maximum"] == pytest.approx(1)
        assert found["sd_log_jacobian"] == pytest.approx(0, abs=1e-6)
        assert found["displacement_mean_mm"] == pytest.approx(2 * SHIFT, rel=1e-5)
        record = json.loads((results / "trace.json").read_text())
        expected = record["metrics"]["structure_agreement_mean"]
        assert found["structure_agreement_mean"] == expected

    def test_folds_are_counted(self, results: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(results, tmp_path, dirs_exist_ok=True)
        field = np.zeros((3, *SHAPE), np.float32)
        field[1, 10, 14, 2] = 3.0
        write_displacement(folder / "displacement.nii.gz", field, AFFINE)
        found = evaluate(folder)["deformation"]
        # Central differences: the slope is -1.5 in the voxel behind, and J = -0.5.
        assert found["folds"] == 1
        assert found["minimum"] == pytest.approx(-0.5)
        assert found["fraction"] == pytest.approx(1 / np.prod(SHAPE))

    def test_truth_is_met_after_pulling_back(self, results: Path, tmp_path: Path) -> None:
        # The truth has other units: the model's card divides by the 99.9th percentile.
        truth = save(tmp_path / "truth.nii.gz", 7 * HEAD, AFFINE)
        mask = save(tmp_path / "mask.nii.gz", (HEAD > 20).astype(np.uint8), AFFINE)
        found = evaluate(results, truth=truth, mask=mask, erosion=1)["truth"]
        assert found["inverse_residual_voxels"] < 1e-3
        score = found["translated"]
        assert score["psnr"] > 60
        assert score["correlation_inside"] == pytest.approx(1, abs=1e-3)
        moved = save(tmp_path / "moved.nii.gz", np.roll(HEAD, -SHIFT, axis=0), AFFINE)
        assert evaluate(results, truth=moved)["truth"]["translated"]["psnr"] < 30

    def test_labels_are_carried(self, results: Path, tmp_path: Path) -> None:
        labels = ((HEAD > 20) + 4 * (HEAD > 100)).astype(np.int16)
        source = save(tmp_path / "labels.nii.gz", labels, AFFINE)
        carried = np.roll(labels, -SHIFT, axis=0)
        target = save(tmp_path / "target.nii.gz", carried, AFFINE)
        found = evaluate(results, labels=source, target_labels=target)["labels"]
        assert sorted(found) == ["1", "5"]
        for label in (1, 5):
            assert found[str(label)]["dice"] == 1
            assert found[str(label)]["hd95_mm"] == found[str(label)]["assd_mm"] == 0
            volume = (labels == label).sum() * 16 / 1000
            assert found[str(label)]["source_volume_ml"] == pytest.approx(volume)
            assert found[str(label)]["carried_volume_ml"] == pytest.approx(volume)
        # Against the labels where they were: in three dimensions, in millimetres.
        found = evaluate(results, labels=source, target_labels=source)["labels"]["5"]
        pair = [torch.from_numpy(x.astype(np.int64)) for x in (carried, labels)]
        expected = metrics.surface_distance(*pair, spacing=(2, 2, 4))[5]
        assert found["hd95_mm"] == pytest.approx(expected.hd95)
        assert found["assd_mm"] == pytest.approx(expected.assd)
        assert 0 < found["dice"] < 1
        assert "dice" not in evaluate(results, labels=source)["labels"]["1"]

    def test_distribution(self, results: Path, tmp_path: Path) -> None:
        (tmp_path / "targets").mkdir()
        save(tmp_path / "targets" / "a.nii.gz", np.roll(HEAD, -SHIFT, axis=0), AFFINE)
        found = evaluate(results, target_folder=tmp_path / "targets")["distribution"]
        assert found["features"] == metrics.FEATURE_EXTRACTOR
        assert found["target_slices"] == found["translated"]["slices"] == 4
        assert found["translated"]["frechet_distance"] == pytest.approx(0, abs=1e-4)
        noise = np.random.default_rng(0).uniform(0, 200, SHAPE).astype(np.float32)
        save(tmp_path / "targets" / "a.nii.gz", noise, AFFINE)
        other = evaluate(results, target_folder=tmp_path / "targets")["distribution"]
        assert other["translated"]["frechet_distance"] > 0.01
        assert other["translated"]["kernel_distance"] > 0.01

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mask": Path("m")}, "a mask alone"),
            ({"target_labels": Path("m")}, "give both"),
            ({"truth": Path("none.nii.gz")}, "no such file"),
            ({"truth": "other grid"}, r"\(24, 28, 4\), got \(24, 28, 3\)"),
            ({"truth": "elsewhere"}, "position in space"),
            ({"labels": "fractions"}, "whole numbers"),
            ({"target_folder": Path("none")}, "no folder"),
        ],
    )
    def test_refuses(
        self, results: Path, tmp_path: Path, options: dict[str, Any], message: str
    ) -> None:
        files = {
            "other grid": (HEAD[..., :3], AFFINE),
            "elsewhere": (HEAD, np.diag([2.0, 2, 4, 1])),
            "fractions": (HEAD, AFFINE),
        }
        for name, value in options.items():
            if value in files:
                options = {name: save(tmp_path / "image.nii.gz", *files[value])}
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            evaluate(results, **options)

    def test_not_the_folder_of_a_translation(self, results: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"translated\.nii\.gz"):
            evaluate(tmp_path)
        folder = shutil.copytree(results, tmp_path / "copy", dirs_exist_ok=True)
        (folder / "trace.json").write_text("{}")
        with pytest.raises(ValueError, match="not the folder of a translation"):
            evaluate(folder)


def _translated(path: Path, shape: tuple[int, ...], model_file: Path) -> None:
    """Saves pictures, and beside them their translation."""
    np.save(path, (np.indices(shape).sum(0) * 4).astype(np.uint8))
    result = translate_volume(Translator.load(model_file), read_volume(path), deform=False)
    write_results(result, path.parent)


class TestPictures:
    def test_a_stack_of_pictures_is_not_one_body(self, model_file: Path, tmp_path: Path) -> None:
        _translated(tmp_path / "stack.npy", (3, 30, 26), model_file)
        labels = np.zeros((3, 30, 26), np.uint8)
        labels[:2, 5:10, 5:10] = 1
        moved = labels.copy()
        moved[1] = np.roll(labels[1], 4, axis=0)
        np.save(tmp_path / "labels.npy", labels)
        np.save(tmp_path / "moved.npy", moved)
        found = evaluate(
            tmp_path, labels=tmp_path / "labels.npy", target_labels=tmp_path / "moved.npy"
        )["labels"]["1"]
        # The first agrees, the second lies four voxels off, the third has no such label.
        assert found["hd95_mm"] == pytest.approx(2)
        assert found["distances_mean_over"] == "2 of 3 pictures"
        assert found["dice"] == pytest.approx((2 * 25 + 2 * 5) / 100)


def test_process(process: Process, results: Path, tmp_path: Path) -> None:
    truth = save(tmp_path / "truth.nii.gz", np.sqrt(HEAD), AFFINE)
    done = process("evaluate", results, "--truth", truth, "--output", "figures", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("deformation", "sd_log_jacobian", "psnr", "evaluation.json"):
        assert text in done.stdout
    assert {path.name for path in (tmp_path / "figures").iterdir()} == set(EVALUATION_FILES)
    record = json.loads((tmp_path / "figures" / "evaluation.json").read_text())
    rows = _rows(tmp_path / "figures")
    psnr = record["truth"]["translated"]["psnr"]
    assert float(rows["truth", "translated", "psnr"]) == psnr
    assert rows["deformation", "", "folds"] == "0"


def test_failures_are_written_and_counted(results: Path, tmp_path: Path) -> None:
    """A label that was missed, and a perfect image, are no blanks that an average passes over."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[8:14, 8:14] = 1
    labels[16:19, 8:14] = 2
    moved = np.roll(labels, -SHIFT, axis=0)
    moved[moved == 2] = 0
    found = evaluate(
        results,
        labels=save(tmp_path / "labels.nii.gz", labels, AFFINE),
        target_labels=save(tmp_path / "target.nii.gz", moved, AFFINE),
    )
    assert found["labels"]["2"]["hd95_mm"] == found["labels"]["2"]["assd_mm"] == "inf"
    assert found["mean_of_labels"] == {
        "dice": 0.5,
        "dice_mean_over": "2 of 2 labels",
        "hd95_mm": 0,
        "hd95_mm_mean_over": "1 of 2 labels",
        "assd_mm": 0,
        "assd_mm_mean_over": "1 of 2 labels",
    }
    found["truth"] = as_plain({"translated": {"psnr": np.inf, "ssim": np.nan, "low": -np.inf}})
    write_evaluation(found, tmp_path)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = (tmp_path / "evaluation.json").read_text()
    again = json.loads(text, parse_constant=refuse)
    assert again == found
    assert {name: float(x) for name, x in again["truth"]["translated"].items()} == {
        "psnr": np.inf,
        "ssim": pytest.approx(np.nan, nan_ok=True),
        "low": -np.inf,
    }
    rows = _rows(tmp_path)
    assert rows["labels", "2", "hd95_mm"] == "inf"
    assert rows["mean_of_labels", "", "hd95_mm_mean_over"] == "1 of 2 labels"
    assert rows["truth", "translated", "psnr"] == "inf"
    assert rows["truth", "translated", "ssim"] == "nan"
    assert rows["truth", "translated", "low"] == "-inf"


def test_ssim_is_left_out_of_images_smaller_than_its_window(
    model_file: Path, tmp_path: Path
) -> None:
    _translated(tmp_path / "thin.npy", (1, 9, 26), model_file)
    np.save(tmp_path / "mask.npy", np.ones((1, 9, 26), np.uint8))
    record = evaluate(tmp_path, truth=tmp_path / "thin.npy", mask=tmp_path / "mask.npy", erosion=1)
    note = "SSIM is left out: images of 9 x 26 voxels are smaller than its window of 11"
    assert note in record["notes"]
    found = record["truth"]
    for name in ("translated", "source"):
        assert "ssim" not in found[name]
        assert float(found[name]["psnr"]) > 0
        assert 0 < found[name]["ssim_inside"] <= 1


def test_a_file_that_is_given_twice_is_noted_once(results: Path, tmp_path: Path) -> None:
    labels = np.ones(SHAPE, np.float32)
    labels[0] = 2.0001
    path = save(tmp_path / "labels.nii.gz", labels, AFFINE)
    record = evaluate(results, labels=path, target_labels=path, truth=path, mask=path, erosion=0)
    assert len([note for note in record["notes"] if "were rounded to whole numbers" in note]) == 1
