"""Images carried by our files in other programs, and by theirs in ours: the same image.

They are not in `.[test]`: pip install 'plasticine[transform-peers]'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from command_line import Run
from drawn_head import centred, grid, head, turned
from image_files import oblique
from scipy.ndimage import zoom

from plasticine.io import write_displacement, write_image
from plasticine.transforms import (
    AffineTransform,
    BSplineTransform,
    Chain,
    DisplacementField,
    Ends,
    Grid,
    read_grid,
    write_transform,
)

FIXED_SHAPE, MOVING_SHAPE = (40, 36, 30), (36, 40, 34)
FIXED = centred(oblique((4.0, 5.0, 5.5), "LAS"), FIXED_SHAPE)
MOVING = centred(oblique((4.5, 4.5, 5.0), "SLA"), MOVING_SHAPE)
INNER = (slice(4, -4),) * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images, a field and an affine transform of ours."""
    found = tmp_path_factory.mktemp("transforms")
    for name, shape, affine in (
        ("moving", MOVING_SHAPE, MOVING),
        ("fixed", FIXED_SHAPE, FIXED),
    ):
        # Air at the border, half a voxel of which some repeat and others fade.
        image = np.zeros(shape, np.float32)
        image[2:-2, 2:-2, 2:-2] = head(grid(shape, affine))[2:-2, 2:-2, 2:-2]
        write_image(found / f"{name}.nii.gz", image, affine)
    random = np.random.default_rng(0).normal(size=(3, 5, 5, 5))
    smooth = [zoom(one, np.array(FIXED_SHAPE) / 5, order=3) for one in random]
    write_displacement(found / "field.nii.gz", np.float32(smooth) * 0.7, FIXED)
    write_transform(found / "affine.tfm", AffineTransform(turned(8, (3, -4, 5))))
    return found


def ours(run: Run, folder: Path, *files: object) -> np.ndarray:
    """The moving image as the command carries it."""
    chain = [part for file in files for part in ("-t", file)]
    out = folder / "ours.nii.gz"
    code, _, err = run(
        "warp", folder / "moving.nii.gz", "-r", folder / "fixed.nii.gz", *chain, "-o", out
    )
    assert (code, err) == (0, "")
    return np.asarray(nibabel.load(out).dataobj)


def agree(first: np.ndarray, second: np.ndarray, tolerance: float = 1e-3) -> None:
    """In the interior, relative to the range."""
    assert np.abs(first - second)[INNER].max() < tolerance * np.ptp(second)


def test_antspy_carries_by_ours(run: Run, folder: Path) -> None:
    ants = pytest.importorskip("ants")
    fixed, moving = (ants.image_read(str(folder / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    files = [folder / "field.nii.gz", folder / "affine.tfm"]
    theirs = ants.apply_transforms(fixed, moving, [str(file) for file in files]).numpy()
    agree(ours(run, folder, *files), theirs)


def test_ours_carries_by_antspy(run: Run, folder: Path) -> None:
    ants = pytest.importorskip("ants")
    fixed, moving = (ants.image_read(str(folder / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    found = ants.registration(fixed, moving, "SyN", reg_iterations=(20, 10), random_seed=1)
    theirs = ants.apply_transforms(fixed, moving, found["fwdtransforms"]).numpy()
    agree(ours(run, folder, *found["fwdtransforms"]), theirs)
    # The way back: the affine inverted, then the inverse warp, as antsApplyTransforms has it.
    affine, inverse = found["invtransforms"]
    back = folder / "back.nii.gz"
    code, _, err = run(
        *("warp", folder / "fixed.nii.gz", "-r", folder / "moving.nii.gz"),
        *("-t", affine, "--inverse", "-t", inverse, "-o", back),
    )
    assert (code, err) == (0, "")
    theirs = ants.apply_transforms(
        moving, fixed, found["invtransforms"], whichtoinvert=[True, False]
    ).numpy()
    agree(np.asarray(nibabel.load(back).dataobj), theirs)


def test_nitransforms_carries_by_ours(run: Run, folder: Path) -> None:
    pytest.importorskip("nitransforms")
    from nitransforms import linear
    from nitransforms.nonlinear import DenseFieldTransform
    from nitransforms.resampling import apply

    images = folder / "moving.nii.gz", folder / "fixed.nii.gz"
    affine = linear.load(str(folder / "affine.tfm"), fmt="itk")
    theirs = np.asarray(apply(affine, images[0], reference=images[1], order=1).dataobj)
    agree(ours(run, folder, folder / "affine.tfm"), theirs)
    # Its own reader of ITK's fields turns LPS+ into RAS+.
    from nitransforms.io.itk import ITKDisplacementsField

    field = ITKDisplacementsField.from_image(nibabel.load(folder / "field.nii.gz"))
    dense = DenseFieldTransform(field, reference=images[1])
    theirs = np.asarray(apply(dense, images[0], reference=images[1], order=1).dataobj)
    agree(ours(run, folder, folder / "field.nii.gz"), theirs)


@pytest.fixture
def itk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """ITK's own Python with elastix, which writes fields into the current folder."""
    monkeypatch.chdir(tmp_path)
    found = pytest.importorskip("itk")
    if not hasattr(found, "elastix_registration_method"):
        pytest.skip("itk-elastix is not installed")
    return found


def transformed(itk: Any, folder: Path, file: Path) -> np.ndarray:
    """The moving image as transformix resamples it."""
    parameters = itk.ParameterObject.New()
    parameters.ReadParameterFiles([str(file)])
    parameters.SetParameter(0, "FinalBSplineInterpolationOrder", "1")
    moving = itk.imread(str(folder / "moving.nii.gz"), itk.F)
    image = itk.transformix_filter(moving, parameters)
    return np.asarray(itk.array_view_from_image(image)).transpose(2, 1, 0)


def test_ours_carries_by_elastix(run: Run, folder: Path, tmp_path: Path, itk: Any) -> None:
    """By its own affine transform and the B-spline that follows it."""
    fixed, moving = (
        itk.imread(str(folder / f"{name}.nii.gz"), itk.F) for name in ("fixed", "moving")
    )
    settings = itk.ParameterObject.New()
    for name in ("affine", "bspline"):
        chosen = settings.GetDefaultParameterMap(name, 1)
        chosen["MaximumNumberOfIterations"] = ["40"]
        chosen["FinalGridSpacingInPhysicalUnits"] = ["30"]
        settings.AddParameterMap(chosen)
    _, found = itk.elastix_registration_method(
        fixed, moving, settings, output_directory=str(tmp_path)
    )
    theirs = np.asarray(itk.array_view_from_image(_linear(itk, moving, found))).transpose(2, 1, 0)
    files = sorted(tmp_path.glob("TransformParameters.*.txt"))
    assert len(files) == 2
    assert "BSplineTransform" in files[1].read_text()
    agree(ours(run, folder, files[1]), theirs)


def _linear(itk: Any, moving: Any, found: Any) -> Any:
    for number in range(found.GetNumberOfParameterMaps()):
        found.SetParameter(number, "FinalBSplineInterpolationOrder", "1")
    return itk.transformix_filter(moving, found)


def test_elastix_carries_by_ours(run: Run, folder: Path, tmp_path: Path, itk: Any) -> None:
    ends = Ends(read_grid(folder / "fixed.nii.gz"), read_grid(folder / "moving.nii.gz"))
    control = Grid((9, 9, 9), FIXED @ np.diag([7.0, 6.5, 6.0, 1]) @ shifted(-1.5))
    random = torch.from_numpy(np.random.default_rng(1).normal(size=(3, *control.shape)))
    for number, transform in enumerate(
        (AffineTransform(turned(8, (3, -4, 5))), BSplineTransform(6 * random.float(), control))
    ):
        file = tmp_path / f"{number}.txt"
        write_transform(f"elastix:{file}", transform, ends)
        agree(ours(run, folder, file), transformed(itk, folder, file))


def shifted(voxels: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix


@pytest.mark.parametrize("orientations", [("RAS", "LAS"), ("LAS", "SLA"), ("SLA", "RAS")])
def test_fslpy_and_nitransforms_read_ours(tmp_path: Path, orientations: tuple[str, str]) -> None:
    """FLIRT's matrices, FNIRT's fields and .lta, between images of any axes."""
    pytest.importorskip("fsl")
    pytest.importorskip("nitransforms")
    from fsl.data.image import Image
    from fsl.transform import flirt, fnirt
    from nitransforms import linear

    names = [str(tmp_path / f"{name}.nii.gz") for name in ("fixed", "moving")]
    grids = []
    for name, axes, shape in zip(names, orientations, (FIXED_SHAPE, MOVING_SHAPE), strict=True):
        affine = centred(oblique((4.0, 5.0, 5.5), axes), shape)
        write_image(Path(name), np.zeros(shape, np.float32), affine)
        grids.append(read_grid(Path(name)))
    fixed, moving = (Image(name) for name in names)
    ends, affine = Ends(*grids), AffineTransform(turned(8, (3, -4, 5)))
    voxels = np.random.default_rng(0).integers(8, 25, (30, 3))
    places = voxels @ grids[0].affine[:3, :3].T + grids[0].affine[:3, 3]
    write_transform(f"fsl:{tmp_path / 'a.mat'}", affine, ends)
    there = affine.points(places)
    back = flirt.fromFlirt(
        flirt.readFlirt(str(tmp_path / "a.mat")), moving, fixed, "world", "world"
    )
    assert np.allclose(there @ back[:3, :3].T + back[:3, 3], places, atol=1e-4)
    write_transform(tmp_path / "a.lta", affine, ends)
    for file, kind in (("a.mat", "fsl"), ("a.lta", "fs")):
        path = str(tmp_path / file)
        found = linear.load(path, fmt=kind, reference=names[0], moving=names[1])
        assert np.allclose(found.map(places), there, atol=1e-4)
    random = np.random.default_rng(1).normal(size=(3, 5, 5, 5))
    smooth = np.float32([zoom(one, np.array(FIXED_SHAPE) / 5, order=3) for one in random])
    whole = Chain((DisplacementField(torch.from_numpy(smooth), grids[0]), affine))
    write_transform(f"fsl:{tmp_path / 'w.nii.gz'}", whole, ends)
    warp = fnirt.readFnirt(str(tmp_path / "w.nii.gz"), moving, fixed, defType="relative")
    assert np.allclose(warp.transform(places, "world", "world"), whole.points(places), atol=1e-3)
