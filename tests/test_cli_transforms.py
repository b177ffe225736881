"""The commands that take transforms, beside SimpleITK."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
import torch
from command_line import Run
from drawn_head import centred, grid, head, labels, turned
from image_files import oblique
from PIL import Image
from scipy.ndimage import zoom

from plasticine.io import write_displacement, write_image, write_labels
from plasticine.transforms import AffineTransform, Chain, read_transform, write_transform

SHAPE = (40, 36, 30)
FIXED = centred(oblique((4.0, 5.0, 5.5), "LAS"), SHAPE)
MOVING_SHAPE = (36, 40, 34)
MOVING = centred(oblique((4.5, 4.5, 5.0), "SLA"), MOVING_SHAPE)
TURN = turned(8, (3, -4, 5))
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A moving head, a fixed grid, a smooth field on it, and an affine transform."""
    folder = tmp_path_factory.mktemp("transforms")
    places = grid(MOVING_SHAPE, MOVING)
    write_image(folder / "moving.nii.gz", head(places), MOVING)
    write_labels(folder / "labels.nii.gz", labels(places), MOVING)
    write_image(folder / "fixed.nii.gz", np.zeros(SHAPE, np.float32), FIXED)
    random = np.random.default_rng(0).normal(size=(3, 5, 5, 5))
    smooth = [zoom(one, np.array(SHAPE) / 5, order=3) for one in random]
    write_displacement(folder / "field.nii.gz", np.float32(smooth) * 0.8, FIXED)
    write_transform(folder / "affine.tfm", AffineTransform(TURN))
    return folder


def array(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def said(path: Path) -> str:
    """What a NIfTI file says of itself: all of it where the header had no room."""
    header = nibabel.load(path).header
    if header.extensions:
        return str(header.extensions[0].get_content())
    return bytes(header["descrip"].item()).decode()


def itk_field(path: Path) -> Any:
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def resampled(files: Path, transform: Any, interpolator: Any = sitk.sitkLinear) -> np.ndarray:
    """The moving image as SimpleITK puts it onto the fixed voxels."""
    moving, fixed = (
        sitk.ReadImage(str(files / f"{name}.nii.gz"), sitk.sitkFloat32)
        for name in ("moving", "fixed")
    )
    image = sitk.Resample(moving, fixed, transform, interpolator, -7.0)
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0)


def composite(*transforms: Any) -> Any:
    """In the order in which a point goes through them; ITK's composite begins at its end."""
    return sitk.CompositeTransform(list(reversed(transforms)))


def agrees(ours: np.ndarray, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    """All but voxels whose place lies within rounding of the image's border."""
    off = np.abs(ours - theirs) > tolerance * np.ptp(theirs)
    assert off.mean() < 1e-4


@pytest.mark.parametrize(
    ("interpolation", "interpolator"),
    [
        ("linear", sitk.sitkLinear),
        ("nearest", sitk.sitkNearestNeighbor),
        ("bspline", sitk.sitkBSpline),
    ],
)
def test_warp_is_what_itk_resamples(
    run: Run, files: Path, tmp_path: Path, interpolation: str, interpolator: Any
) -> None:
    chain = ("-t", files / "field.nii.gz", "-t", files / "affine.tfm")
    out = tmp_path / "out.nii.gz"
    code, _, err = run(
        *("warp", files / "moving.nii.gz", "-r", files / "fixed.nii.gz", *chain, "-o", out),
        *("--interpolation", interpolation, "--outside", -7),
    )
    assert (code, err) == (0, "")
    affine = sitk.ReadTransform(str(files / "affine.tfm"))
    theirs = resampled(files, composite(itk_field(files / "field.nii.gz"), affine), interpolator)
    agrees(array(out), theirs)
    assert "field.nii.gz, affine.tfm" in said(out)
    assert np.allclose(nibabel.load(out).affine, FIXED, atol=1e-4)


def test_the_inverse_of_a_field_undoes_it(run: Run, files: Path, tmp_path: Path) -> None:
    field, affine, moving = (files / n for n in ("field.nii.gz", "affine.tfm", "moving.nii.gz"))
    out = tmp_path / "out.nii.gz"
    there = ("-t", field, "-t", affine)
    back = ("-t", affine, "--inverse", "-t", field, "--inverse")
    code, _, err = run("warp", moving, "-r", moving, *back, *there, "-o", out)
    assert (code, err) == (0, "")
    inner = (slice(6, -6),) * 3
    image = array(moving)
    assert np.abs(array(out) - image)[inner].max() < 1e-3 * image.max()


def test_labels_keep_to_whole_numbers(run: Run, files: Path, tmp_path: Path) -> None:
    for how in ("label", "label-nearest"):
        out = tmp_path / f"{how}.nii.gz"
        code, _, err = run(
            *("warp", files / "labels.nii.gz", "-r", files / "fixed.nii.gz", "-o", out),
            *("-t", files / "affine.tfm", "--interpolation", how),
        )
        assert (code, err) == (0, "")
        assert array(out).dtype.kind in "ui"
    image = sitk.ReadImage(str(files / "labels.nii.gz"))
    fixed = sitk.ReadImage(str(files / "fixed.nii.gz"))
    affine = sitk.ReadTransform(str(files / "affine.tfm"))
    theirs = sitk.Resample(image, fixed, affine, sitk.sitkLabelLinear)
    agrees(array(tmp_path / "label.nii.gz"), sitk.GetArrayFromImage(theirs).transpose(2, 1, 0))


def test_a_series_goes_by_volumes(run: Run, files: Path, tmp_path: Path) -> None:
    whole = nibabel.load(files / "moving.nii.gz")
    series = nibabel.Nifti1Image(
        np.stack([array(files / "moving.nii.gz") * k for k in (1, 2, 3)], -1), whole.affine
    )
    series.header.set_zooms((*whole.header.get_zooms()[:3], 2500))
    series.header.set_xyzt_units("mm", "msec")
    nibabel.save(series, tmp_path / "series.nii.gz")
    common = ("-r", files / "fixed.nii.gz", "-t", files / "affine.tfm", "-o")
    assert run("warp", tmp_path / "series.nii.gz", *common, tmp_path / "s.nii.gz")[0] == 0
    assert run("warp", files / "moving.nii.gz", *common, tmp_path / "one.nii.gz")[0] == 0
    found = array(tmp_path / "s.nii.gz")
    one = array(tmp_path / "one.nii.gz")
    assert found.shape == (*SHAPE, 3)
    assert np.allclose(found, one[..., None] * [1, 2, 3], rtol=1e-5, atol=1e-3)
    assert nibabel.load(tmp_path / "s.nii.gz").header.get_zooms()[3] == 2.5


def test_a_spacing_makes_the_voxels(run: Run, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nii.gz"
    code, _, err = run("warp", files / "moving.nii.gz", "--spacing", 9, "-o", out)
    assert (code, err) == (0, "")
    image = nibabel.load(out)
    assert np.allclose(image.header.get_zooms(), 9, atol=1e-4)
    assert image.shape == (18, 20, 19)
    # Its outer face is the moving image's.
    corner, first = (a[:3, :3].sum(1) * -0.5 + a[:3, 3] for a in (image.affine, MOVING))
    assert np.allclose(corner, first, atol=1e-3)


def test_points_go_where_the_image_goes(run: Run, files: Path, tmp_path: Path) -> None:
    chain = composite(
        itk_field(files / "field.nii.gz"), sitk.ReadTransform(str(files / "affine.tfm"))
    )
    fixed = np.random.default_rng(1).uniform(-40, 40, (20, 3))
    with (tmp_path / "moving.csv").open("w") as file:
        rows = [chain.TransformPoint(place.tolist()) for place in fixed]
        file.write("x,y,z,name\n" + "".join(f"{x},{y},{z},p\n" for x, y, z in rows))
    code, _, err = run(
        *("warp", tmp_path / "moving.csv", "-o", tmp_path / "fixed.csv"),
        *("-t", files / "field.nii.gz", "-t", files / "affine.tfm"),
    )
    assert (code, err) == (0, "")
    with (tmp_path / "fixed.csv").open() as file:
        found = list(csv.DictReader(file))
    places = np.array([[float(row[axis]) for axis in "xyz"] for row in found])
    assert np.abs(places - fixed).max() < 1e-3
    assert {row["name"] for row in found} == {"p"}
    assert {row["outside"] for row in found} == {"0"}


def test_fiducials_of_slicer(run: Run, files: Path, tmp_path: Path) -> None:
    (tmp_path / "ras.fcsv").write_text(
        "# Markups fiducial file version = 4.10\n# CoordinateSystem = 0\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "n1,10,-20,30,0,0,0,1,1,1,0,tip,seen,\n"
    )
    out = tmp_path / "out.fcsv"
    code, _, err = run("warp", tmp_path / "ras.fcsv", "-t", files / "affine.tfm", "-o", out)
    assert (code, err) == (0, "")
    *comments, row = out.read_text().splitlines()
    assert "# CoordinateSystem = LPS" in comments
    cells = row.split(",")
    place = np.linalg.inv(TURN) @ [10, -20, 30, 1]
    assert np.allclose([float(cell) for cell in cells[1:4]], (LPS @ place)[:3], atol=1e-6)
    assert (cells[0], cells[11], cells[12]) == ("n1", "tip", "seen")


def test_compose_and_invert_say_the_same_to_itk(run: Run, files: Path, tmp_path: Path) -> None:
    field, affine, fixed = (files / n for n in ("field.nii.gz", "affine.tfm", "fixed.nii.gz"))
    whole, back = tmp_path / "whole.nii.gz", tmp_path / "back.nii.gz"
    code, _, err = run("compose", "-t", field, "-t", affine, "--fixed", fixed, "-o", whole)
    assert (code, err) == (0, "")
    moving = files / "moving.nii.gz"
    assert run("invert", whole, "--moving", moving, "--fixed", fixed, "-o", back)[0] == 0
    one = composite(itk_field(field), sitk.ReadTransform(str(affine)))
    composed, inverse = itk_field(whole), itk_field(back)
    for place in np.random.default_rng(2).uniform(-35, 35, (20, 3)).tolist():
        there = one.TransformPoint(place)
        assert np.allclose(composed.TransformPoint(place), there, atol=0.02)
        # What interpolating the inverse between voxels leaves.
        assert np.linalg.norm(np.subtract(inverse.TransformPoint(there), place)) < 0.3
    assert "points of moving.nii.gz to points of fixed.nii.gz" in said(back)


def test_matrices_multiply_exactly(run: Run, files: Path, tmp_path: Path) -> None:
    affine, out = files / "affine.tfm", tmp_path / "out.tfm"
    assert run("compose", "-t", affine, "-t", affine, "-o", out)[0] == 0
    twice = sitk.ReadTransform(str(out))
    once = sitk.ReadTransform(str(affine))
    for place in ((0.0, 0, 0), (30.0, -20, 50)):
        expected = once.TransformPoint(once.TransformPoint(place))
        assert np.allclose(twice.TransformPoint(place), expected, atol=1e-10)
    assert run("invert", affine, "-o", out)[0] == 0
    found = read_transform(out)
    assert isinstance(found, AffineTransform)
    assert np.allclose(found.matrix @ TURN, np.eye(4), atol=1e-12)


def test_the_exponential_of_a_velocity(run: Run, files: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there.nii.gz", tmp_path / "back.nii.gz"
    velocity = files / "field.nii.gz"
    assert run("exponential", velocity, "-o", there)[0] == 0
    assert run("exponential", velocity, "--inverse", "-o", back)[0] == 0
    both = Chain((read_transform(there), read_transform(back)))
    places = np.random.default_rng(3).uniform(-30, 30, (50, 3))
    assert np.linalg.norm(both.points(places) - places, axis=1).max() < 0.3
    # One unit of time in small steps along the velocity.
    path, step = places, read_transform(velocity)
    for _ in range(256):
        path = path + (step.points(path) - path) / 256
    assert np.linalg.norm(read_transform(there).points(places) - path, axis=1).max() < 0.3


def test_pictures_are_carried_as_itk_has_them(run: Run, tmp_path: Path) -> None:
    """Column and row, of 1 mm."""
    shape = (60, 52, 1)
    places = grid(shape, centred(np.diag([3.0, 3, 3, 1]), shape))
    Image.fromarray(head(places)[..., 0].astype(np.uint8)).save(tmp_path / "moving.png")
    turn = sitk.Euler2DTransform((25.0, 30.0), 0.5, (4.0, -3.0))
    sitk.WriteTransform(turn, str(tmp_path / "a.tfm"))
    picture, out = tmp_path / "moving.png", tmp_path / "out.nii.gz"
    code, _, err = run("warp", picture, "-r", picture, "-t", tmp_path / "a.tfm", "-o", out)
    assert (code, err) == (0, "")
    image = sitk.ReadImage(str(picture), sitk.sitkFloat32)
    theirs = sitk.GetArrayFromImage(sitk.Resample(image, image, turn, sitk.sitkLinear))
    agrees(array(out)[..., 0], theirs)
    field = tmp_path / "field.nii.gz"
    code, _, err = run("convert", tmp_path / "a.tfm", field, "--fixed", picture)
    assert (code, err) == (0, "")
    planar = itk_field(field)
    assert planar.GetDimension() == 2
    for place in ((10.0, 20.0), (33.5, 41.25)):
        assert np.allclose(planar.TransformPoint(place), turn.TransformPoint(place), atol=1e-4)


def test_what_cannot_be_said_is_refused(run: Run, files: Path, tmp_path: Path) -> None:
    field, affine, moving = (files / n for n in ("field.nii.gz", "affine.tfm", "moving.nii.gz"))
    out = tmp_path / "out.nii.gz"
    for arguments, message in (
        (("convert", field, tmp_path / "a.tfm"), "cannot say what a deformation does"),
        (("convert", affine, out), "means nothing without the fixed image"),
        (("convert", affine, tmp_path / "a.xyz"), "no format of transforms is written"),
        (("convert", moving, out), "is no transform of a format"),
        (("convert", "itk:none.tfm", out), "none.tfm: no such file"),
        (("exponential", affine, "-o", out), "expected a field"),
        (("warp", moving, "-t", affine, "-o", out), "expected a reference image, or a spacing"),
        (("warp", moving, "-r", moving, "-o", tmp_path / "a.png"), "expected a name that ends in"),
        (("warp", moving, "-r", moving, "--interpolation", "sinc", "-o", out), "expected one of"),
        (("warp", moving, "-r", moving, "--inverse", "-o", out), "right after the --transform"),
        (("warp", moving, "--spacing", -1, "-o", out), "more than 0, got -1"),
        (("compose", "-t", affine, "-t", field, "-o", out), "means nothing without the fixed"),
    ):
        code, _, err = run(*arguments)
        assert code == 1, arguments
        assert message in " ".join(err.split()), arguments
        assert ".plasticine-" not in err  # the folder that a file is written in first
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["warp", "compose", "convert", "invert", "exponential"])
def test_no_file_that_is_read_is_written_over(
    run: Run, files: Path, tmp_path: Path, command: str
) -> None:
    read = tmp_path / "read.nii.gz"
    read.write_bytes((files / "field.nii.gz").read_bytes())
    arguments: dict[str, tuple[object, ...]] = {
        "warp": (files / "moving.nii.gz", "-r", files / "fixed.nii.gz", "-t", read, "-o", read),
        "compose": ("-t", read, "-t", files / "affine.tfm", "-o", f"itk:{read}"),
        "convert": (read, f"voxelmorph:{read}"),
        "invert": (read, "-o", read),
        "exponential": (read, "-o", read),
    }
    code, _, err = run(command, *arguments[command])
    assert code == 1
    assert f"{read}: is read, and would be lost" in " ".join(err.split())
    assert read.read_bytes() == (files / "field.nii.gz").read_bytes()


def test_large_fields_are_worked_out_slab_by_slab(files: Path, monkeypatch: Any) -> None:
    """The same values, however many rows a slab has."""
    from plasticine.transforms import places

    chain = Chain((read_transform(files / "field.nii.gz"), AffineTransform(TURN)))
    other = places.Grid(MOVING_SHAPE, MOVING)
    whole = chain.sampled(other).displacement
    back = chain.inverse().sampled(other).displacement
    monkeypatch.setattr(places, "_BLOCK", 7 * MOVING_SHAPE[1] * MOVING_SHAPE[2])
    assert len(list(other.blocks())) == 6
    assert torch.allclose(chain.sampled(other).displacement, whole, atol=2e-5)
    assert torch.allclose(chain.inverse().sampled(other).displacement, back, atol=2e-4)
