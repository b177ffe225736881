"""``plasticine register``, as a process, and what other programs make of its files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
from command_line import Run, ran
from drawn_head import bent, centred, grid, head, labels, moved, turned
from image_files import TO_RAS, oblique
from PIL import Image

from plasticine.io import read_displacement, write_image, write_labels
from plasticine.report import registration_files

FIXED_SHAPE = (30, 34, 28)
FIXED = centred(np.diag([-5.5, 5, 5.5, 1]), FIXED_SHAPE)
MOVING_SHAPE = (40, 32, 34)
MOVING = centred(oblique((4.5, 5.5, 5.0), "SLA"), MOVING_SHAPE)
TURN = turned(10, (5, -6, 8))
PATIENCE = 120.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads in NIfTI, and their label maps."""
    folder = tmp_path_factory.mktemp("heads")
    moving, fixed = grid(MOVING_SHAPE, MOVING), moved(bent(grid(FIXED_SHAPE, FIXED)), TURN)
    # Air of CT: what lies outside has its value.
    write_image(folder / "moving.nii.gz", head(moving) - 1000, MOVING)
    write_image(folder / "fixed.nii.gz", head(fixed), FIXED)
    write_labels(folder / "moving_labels.nii.gz", labels(moving), MOVING)
    write_labels(folder / "fixed_labels.nii.gz", labels(fixed), FIXED)
    return folder


@pytest.fixture(scope="module")
def done(files: Path) -> tuple[Path, str]:
    """The folder of results of a process, and what it printed."""
    found = ran(
        *(sys.executable, "-m", "plasticine", "register", "moving.nii.gz", "fixed.nii.gz"),
        *("--output", "out", "--moving-labels", "moving_labels.nii.gz"),
        *("--fixed-labels", "fixed_labels.nii.gz", "--report"),
        folder=files,
        timeout=PATIENCE,
        OMP_NUM_THREADS="1",
        COLUMNS="120",
    )
    assert (found.returncode, found.stderr) == (0, "")
    return files / "out", found.stdout


def array(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def carried_by(transform: Any, files: Path) -> np.ndarray:
    """The moving image as SimpleITK resamples it, with nibabel's order of axes."""
    moving, fixed = (
        sitk.ReadImage(str(files / f"{name}.nii.gz"), sitk.sitkFloat32)
        for name in ("moving", "fixed")
    )
    least = float(sitk.GetArrayViewFromImage(moving).min())
    image = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, least)
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0)


def matrix_of(path: Path) -> np.ndarray:
    """Of ``affine.tfm``: as ``(4, 4)``, between millimetres of NIfTI."""
    transform = sitk.ReadTransform(str(path))
    lps = np.eye(4)
    lps[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    for axis in range(3):
        lps[:3, axis] = np.subtract(transform.TransformPoint(np.eye(3)[axis].tolist()), lps[:3, 3])
    return TO_RAS @ lps @ TO_RAS


def field_of(path: Path) -> sitk.DisplacementFieldTransform:
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def test_the_folder(done: tuple[Path, str]) -> None:
    out, printed = done
    assert {path.name for path in out.iterdir()} == {
        *registration_files(labels=True),
        "report.html",
    }
    for text in ("fixed.nii.gz", "LNCC", "Dice", "0 of 28,560 voxels", "png", "out/report.html"):
        assert text in printed
    record = json.loads((out / "registration.json").read_text(encoding="utf-8"))
    assert record["format"] == "plasticine registration"
    assert record["arguments"]["budget"] == "default"
    assert record["moving"]["orientation"] == "".join(nibabel.aff2axcodes(MOVING))
    assert record["folding"]["folds"] == 0
    assert record["folding"]["minimum"] > 0
    assert record["dice"]["labels"] == 9
    assert record["dice"]["mean"] > 0.85
    assert set(record["dice"]["per_label"]) == {*map(str, range(10, 18)), "300"}
    assert record["similarity"]["before"]["lncc"] < record["similarity"]["after"]["lncc"]
    assert record["inverse_consistency"]["mean_voxels"] < 0.05
    assert record["seconds"] > 0
    assert "Dice: " in (out / "report.html").read_text(encoding="utf-8")
    with Image.open(out / "registration.png") as picture:
        assert picture.width > 1500
    for name in ("warped", "jacobian", "labels", "displacement"):
        image = nibabel.load(out / f"{name}.nii.gz")
        assert image.shape[:3] == FIXED_SHAPE
        assert np.allclose(image.affine, FIXED, atol=1e-4)
    inverse = nibabel.load(out / "inverse_displacement.nii.gz")
    assert inverse.shape == (*MOVING_SHAPE, 1, 3)
    assert np.allclose(inverse.affine, MOVING, atol=1e-4)
    assert array(out / "labels.nii.gz").dtype == np.int16


def test_itk_makes_the_same_of_the_displacement(done: tuple[Path, str], files: Path) -> None:
    out, _ = done
    warped = array(out / "warped.nii.gz")
    found = carried_by(field_of(out / "displacement.nii.gz"), files)
    # Half a voxel beyond the moving image's outermost ones ITK repeats them.
    same = np.abs(warped - found) < 0.5
    assert same.mean() > 0.98
    inside = labels(moved(bent(grid(FIXED_SHAPE, FIXED)), TURN)) > 0
    assert np.abs(warped - found)[inside].max() < 0.5
    assert np.abs(found - array(files / "fixed.nii.gz") + 1000)[inside].mean() < 6


def test_itk_goes_back_by_the_inverse(done: tuple[Path, str]) -> None:
    out, _ = done
    there = field_of(out / "displacement.nii.gz")
    back = field_of(out / "inverse_displacement.nii.gz")
    apart = []
    for place in ((0.0, 0.0, 0.0), (30.0, 12.0, -20.0), (-25.0, 30.0, 15.0), (10.0, -40.0, 5.0)):
        apart.append(np.subtract(back.TransformPoint(there.TransformPoint(place)), place))
    assert np.linalg.norm(apart, axis=1).max() < 0.5  # of voxels of 5 mm, interpolated twice


def test_itk_makes_the_same_of_the_affine(run: Run, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ("register", files / "moving.nii.gz", files / "fixed.nii.gz", "--output", out)
    code, _, err = run(*common, "--transform", "affine")
    assert (code, err) == (0, "")
    matrix = matrix_of(out / "affine.tfm")
    record = json.loads((out / "registration.json").read_text(encoding="utf-8"))
    assert np.allclose(record["affine"]["fixed_mm_to_moving_mm"], matrix, atol=1e-9)
    warped = array(out / "warped.nii.gz")
    found = carried_by(sitk.ReadTransform(str(out / "affine.tfm")), files)
    assert (np.abs(warped - found) < 0.5).mean() > 0.98
    assert "for pulling moving.nii.gz onto fixed.nii.gz" in (out / "affine.tfm").read_text()
    field, affine = read_displacement(out / "displacement.nii.gz")
    places = moved(np.indices(FIXED_SHAPE) + field, affine)
    assert np.allclose(places, moved(grid(FIXED_SHAPE, FIXED), matrix), atol=2e-3)
    # Begun from what was found, it stays there.
    code, _, err = run(
        *common, "--transform", "rigid", "--initial", out / "affine.tfm", "--overwrite"
    )
    assert (code, err) == (0, "")
    again = matrix_of(out / "affine.tfm")
    assert np.allclose(again, matrix, atol=1.5)


def test_labels_of_an_earlier_run_go(run: Run, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ("register", files / "moving.nii.gz", files / "fixed.nii.gz", "--output", out)
    options = ("--transform", "rigid")
    carried = ("--moving-labels", files / "moving_labels.nii.gz")
    assert run(*common, *options, *carried)[0] == 0
    record = json.loads((out / "registration.json").read_text(encoding="utf-8"))
    assert record["dice"] is None
    assert (out / "labels.nii.gz").is_file()
    code, _, err = run(*common, *options)
    assert code == 1
    assert "holds another registration (another moving_labels); --overwrite replaces it" in err
    assert run(*common, *options, "--overwrite")[0] == 0
    assert {path.name for path in out.iterdir()} == set(registration_files(labels=False))


def test_pictures(run: Run, tmp_path: Path) -> None:
    """Of different sizes; what came of them is NIfTI of one slice."""
    shape, moving_shape = (70, 60, 1), (64, 72, 1)
    fixed = grid(shape, centred(np.diag([2.5, 2.5, 1, 1]), shape))
    moving = grid(moving_shape, centred(np.diag([2.5, 2.5, 1, 1]), moving_shape))
    for name, image in (("fixed", head(bent(fixed))), ("moving", head(moving))):
        Image.fromarray(image[..., 0].astype(np.uint8)).save(tmp_path / f"{name}.png")
    Image.fromarray(labels(moving)[..., 0].astype(np.uint8)).save(tmp_path / "labels.png")
    out = tmp_path / "out"
    code, printed, err = run(
        "register", tmp_path / "moving.png", tmp_path / "fixed.png", "--output", out,
        "--moving-labels", tmp_path / "labels.png",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "1 mm voxels" in printed
    warped = array(out / "warped.nii.gz")
    assert warped.shape == shape
    inside = labels(bent(fixed)) > 0
    assert np.abs(warped - head(bent(fixed)))[inside].mean() < 8
    field, affine = read_displacement(out / "displacement.nii.gz")
    assert field.shape == (2, *shape[:2])
    assert abs(np.linalg.det(affine)) == pytest.approx(1)
    # ITK has it as a transform of the plane: column and row.
    plane = sitk.DisplacementFieldTransform(
        sitk.ReadImage(str(out / "displacement.nii.gz"), sitk.sitkVectorFloat64)
    )
    column, row = plane.TransformPoint((30.0, 40.0))
    assert np.allclose((row - 40, column - 30), field[:, 40, 30], atol=1e-4)
    with Image.open(out / "registration.png") as picture:
        assert picture.height < picture.width / 3


BAD = {
    "no file": (("none.nii.gz", "fixed.nii.gz"), (), "none.nii.gz: no such file"),
    "damaged": (("moving.nii.gz", "bad.nii.gz"), (), "bad.nii.gz: not a NIfTI file"),
    "transform": (None, ("--transform", "b-spline"), "transform must be one of rigid, sim"),
    "method": (None, ("--method", "none"), "method must be one of greedy, velocity"),
    "budget": (None, ("--budget", "none"), "budget must be one of fast, default, best"),
    "metric": (None, ("--metric", "ssd"), "metric must be one of"),
    "mask": (None, ("--fixed-mask", "moving.nii.gz"), "expected the input's shape"),
    "labels": (None, ("--moving-labels", "moving.nii.gz"), "expected labels, whole numbers"),
    "dice": (None, ("--fixed-labels", "fixed_labels.nii.gz"), "labels of the fixed image are"),
    "initial": (None, ("--initial", "words.txt"), "words.txt: is no transform"),
    "transform file": (None, ("--initial", "bad.tfm"), "bad.tfm: is no transform"),
    "field": (None, ("--initial", "fixed.nii.gz"), "fixed.nii.gz: is no transform"),
    "rotations": (None, ("--rotations", "9", "--initial", "eye.txt"), "no rotations to begin"),
    "points": (None, ("--moving-points", "words.txt"), "words.txt: expected points in .csv"),
    "columns": (None, ("--fixed-points", "words.csv"), "words.csv: expected columns x, y and z"),
    "interpolation": (None, ("--label-interpolation", "cubic"), "must be one of nearest, linear"),
    "shape": (None, ("--initial", "three.txt"), "three.txt: is no transform"),
    "device": (None, ("--device", "abacus"), "device 'abacus' cannot be used here"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(
    run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    images, options, message = BAD[case]
    for file in files.glob("*.nii.gz"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "bad.nii.gz").write_text("not an image")
    (tmp_path / "words.txt").write_text("a b c d\n")
    np.savetxt(tmp_path / "three.txt", np.eye(3))
    np.savetxt(tmp_path / "eye.txt", np.eye(4))
    for name in ("bad.tfm", "words.csv"):
        (tmp_path / name).write_text("a b c d\n")
    monkeypatch.chdir(tmp_path)
    code, printed, err = run(
        "register", *(images or ("moving.nii.gz", "fixed.nii.gz")), "--output", "new", *options
    )
    assert (code, printed) == (1, "")
    assert re.fullmatch(rf"error: .*{message}.*\n", err), err
    assert not (tmp_path / "new").exists()


def test_a_volume_and_a_slice(run: Run, files: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "slice.npy", np.random.default_rng(0).random((20, 22)))
    code, _, err = run(
        "register", files / "moving.nii.gz", tmp_path / "slice.npy", "--output", tmp_path / "new"
    )
    assert code == 1
    assert "must both be volumes, or both single slices" in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_ended_leaves_no_half_folder(
    run: Run, files: Path, tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "new" / "out"
    command = ("register", files / "moving.nii.gz", files / "fixed.nii.gz", "--output", out)
    process = subprocess.Popen(
        [sys.executable, "-m", "plasticine", *map(str, command), "--budget", "best"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    until = time.monotonic() + PATIENCE
    while not list(out.glob(".plasticine-*")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(how)
    _, err = process.communicate(timeout=PATIENCE)
    if how == signal.SIGTERM:
        assert process.returncode == 128 + how
        assert err == "ended by SIGTERM\n"
        assert not out.parent.exists()
        return
    assert process.returncode == -how
    assert all(path.name.startswith(".plasticine-") for path in out.iterdir())
    assert run(*command, "--transform", "rigid")[0] == 0
    assert {path.name for path in out.iterdir()} == set(registration_files(labels=False))


def test_help(run: Run) -> None:
    code, shown, _ = run("register", "--help")
    assert code == 0
    for text in (
        "MOVING",
        "FIXED",
        "--transform",
        "--budget",
        "--moving-mask",
        "--initial",
        "DICOM",
    ):
        assert text in shown
