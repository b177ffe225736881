"""``plasticine jacobian``: determinants, folds and regions, beside NumPy in float64."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import Run
from drawn_head import centred, turned
from image_files import oblique
from PIL import Image

from plasticine.io import write_displacement, write_image
from plasticine.transforms import AffineTransform, write_transform

SHAPE = (20, 18, 16)
AFFINE = centred(oblique((3.0, 4.0, 5.5), "SLA"), SHAPE)


def field(largest: float) -> np.ndarray:
    """A bump along the second axis, which folds where it is steeper than 1."""
    x, y, z = (np.linspace(-1, 1, n) for n in SHAPE)
    bump = np.exp(-6 * (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2))
    return np.float32(np.stack([0 * bump, largest * bump, 0.2 * largest * bump]))


def determinant(u: np.ndarray) -> np.ndarray:
    """By np.gradient: central inside, one-sided at the border."""
    gradients = np.stack([np.stack(np.gradient(one.astype(np.float64))) for one in u])
    matrices = np.moveaxis(gradients, (0, 1), (-2, -1)) + np.eye(len(u))
    return np.linalg.det(matrices)


def array(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize("largest", [1.0, 9.0])
def test_it_is_the_determinant(run: Run, tmp_path: Path, largest: float) -> None:
    u = field(largest)
    write_displacement(tmp_path / "u.nii.gz", u, AFFINE)
    mask = np.zeros(SHAPE, np.float32)
    mask[5:15, 4:14, 4:12] = 1
    write_image(tmp_path / "mask.nii.gz", mask, AFFINE)
    out = tmp_path / "out"
    code, printed, err = run(
        "jacobian", tmp_path / "u.nii.gz", "-o", out, "--mask", tmp_path / "mask.nii.gz"
    )
    assert (code, err) == (0, "")
    expected = determinant(u)
    assert np.abs(array(out / "jacobian.nii.gz") - expected).max() < 1e-3
    record = json.loads((out / "jacobian.json").read_text())
    assert (record["transform"], record["transform_format"]) == ("u.nii.gz", "ITK and ANTs")
    rows = {(row["scheme"], row["region"]): row for row in record["regions"]}
    assert len(rows) == 6
    inner = expected[1:-1, 1:-1, 1:-1]
    assert rows["central", "full"]["folds"] == (expected <= 0).sum()
    assert rows["central", "interior"]["folds"] == (inner <= 0).sum()
    inside = expected[mask > 0]
    assert record["mask"]["folds"] == (inside <= 0).sum()
    assert record["mask"]["voxels"] == 800
    assert record["mask"]["mean"] == pytest.approx(inside.mean(), abs=1e-4)
    folds = largest > 5
    assert ((expected <= 0).sum() > 0) == folds
    assert (rows["central", "full"]["non_diffeomorphic_volume"] > 0) == folds
    voxel = np.prod(np.linalg.norm(AFFINE[:3, :3], axis=0))
    full = rows["forward", "full"]
    assert full["non_diffeomorphic_volume_mm3"] == pytest.approx(
        full["non_diffeomorphic_volume"] * voxel
    )
    for word in ("central", "forward", "backward", "interior", "mask", f"{(expected <= 0).sum()}"):
        assert word in printed
    with Image.open(out / "jacobian.png") as picture:
        assert picture.width > 1200


def test_the_logarithm_is_named_in_the_file(run: Run, tmp_path: Path) -> None:
    u = field(9.0)
    write_displacement(tmp_path / "u.nii.gz", u, AFFINE)
    out = tmp_path / "out"
    assert run("jacobian", tmp_path / "u.nii.gz", "-o", out)[0] == 0
    assert run("jacobian", tmp_path / "u.nii.gz", "-o", out, "--log")[0] == 0
    # The determinant's own file was of another run.
    names = {path.name for path in out.iterdir()}
    assert names == {"log_jacobian.nii.gz", "jacobian.json", "jacobian.png"}
    found, expected = array(out / "log_jacobian.nii.gz"), determinant(u)
    assert np.array_equal(np.isnan(found), expected <= 0)
    clear = expected > 0.05
    assert np.abs(found - np.log(np.where(clear, expected, 1)))[clear].max() < 1e-2
    note = nibabel.load(out / "log_jacobian.nii.gz").header["descrip"].item()
    assert note.startswith(b"plasticine ")
    assert b"logarithm of det" in note


def test_an_affine_map_has_one_determinant(run: Run, tmp_path: Path) -> None:
    matrix = turned(8, (1, 2, 3)) @ np.diag([1.2, 0.9, 1.1, 1])
    write_transform(tmp_path / "a.tfm", AffineTransform(matrix))
    write_image(tmp_path / "fixed.nii.gz", np.zeros(SHAPE, np.float32), AFFINE)
    fixed = tmp_path / "fixed.nii.gz"
    code, _, err = run("jacobian", tmp_path / "a.tfm", "--fixed", fixed, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    found = array(tmp_path / "out" / "jacobian.nii.gz")
    assert np.allclose(found, np.linalg.det(matrix[:3, :3]), atol=1e-4)


@pytest.mark.parametrize("first", [1.0, -1.0])
def test_the_logarithm_of_one_value_and_of_none(run: Run, tmp_path: Path, first: float) -> None:
    """Of the identity 0; of a reflection nowhere defined."""
    write_transform(tmp_path / "a.tfm", AffineTransform(np.diag([first, 1, 1, 1])))
    write_image(tmp_path / "fixed.nii.gz", np.zeros(SHAPE, np.float32), AFFINE)
    fixed, out = tmp_path / "fixed.nii.gz", tmp_path / "out"
    code, _, err = run("jacobian", tmp_path / "a.tfm", "--fixed", fixed, "--log", "-o", out)
    assert (code, err) == (0, "")
    found = array(out / "log_jacobian.nii.gz")
    assert np.isnan(found).all() if first < 0 else np.abs(found).max() < 1e-4


def test_a_plane(run: Run, tmp_path: Path) -> None:
    u = field(1.0)[:, :, :, 8:9]
    plane = u[:2].copy()
    affine = np.diag([-2.0, -3.0, 1.0, 1.0])
    write_displacement(
        tmp_path / "u.nii.gz", np.concatenate([plane, 0 * u[2:]]), affine, planar=True
    )
    assert run("jacobian", tmp_path / "u.nii.gz", "-o", tmp_path / "out")[0] == 0
    found = array(tmp_path / "out" / "jacobian.nii.gz")[..., 0]
    assert np.abs(found - determinant(plane[..., 0])).max() < 1e-4
    record = json.loads((tmp_path / "out" / "jacobian.json").read_text())
    assert "non_diffeomorphic_volume_mm2" in record["regions"][0]


def test_what_is_refused(run: Run, tmp_path: Path) -> None:
    write_displacement(tmp_path / "u.nii.gz", field(1.0), AFFINE)
    write_transform(tmp_path / "a.tfm", AffineTransform(np.eye(4)))
    write_image(tmp_path / "other.nii.gz", np.ones((4, 5, 6), np.float32), AFFINE)
    write_image(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.float32), AFFINE)
    write_image(tmp_path / "slice.nii.gz", np.zeros((1, 18, 16), np.float32), AFFINE)
    u, flat = tmp_path / "u.nii.gz", tmp_path / "slice.nii.gz"
    for arguments, message in (
        ((tmp_path / "a.tfm",), "means nothing without the fixed image"),
        ((tmp_path / "a.tfm", "--fixed", flat), "across one slice cannot be seen"),
        ((u, "--fixed", flat), "across one slice cannot be seen"),
        ((u, "--mask", tmp_path / "other.nii.gz"), "expected an image on the transform's voxels"),
        ((u, "--mask", tmp_path / "empty.nii.gz"), "it is empty"),
        ((tmp_path / "other.nii.gz",), "is no transform of a format"),
    ):
        code, _, err = run("jacobian", *arguments, "-o", tmp_path / "out")
        assert code == 1
        assert message in " ".join(err.split())
        assert not (tmp_path / "out").exists()
