"""From every format of transforms to every other that can hold the same."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_head import centred, turned
from image_files import oblique
from scipy.ndimage import zoom

from plasticine.io.orientation import PICTURE_ORIENTATION, axis_directions
from plasticine.transforms import (
    FORMATS,
    AffineTransform,
    DisplacementField,
    Ends,
    Grid,
    Transform,
    read_transform,
    write_transform,
)

# An oblique fixed image whose determinant is positive, and a flipped moving one; anisotropic both.
FIXED = Grid((14, 12, 10), centred(oblique((3.0, 4.0, 5.5), "RAS"), (14, 12, 10)))
MOVING = Grid((13, 15, 11), centred(oblique((4.0, 3.5, 4.5), "SLA"), (13, 15, 11)))
# Of FSL's fields it can be told what they hold where the axes of both images run alike.
ALIKE = Grid((13, 15, 11), centred(oblique((4.0, 3.5, 4.5), "RAS"), (13, 15, 11)))
MAP = turned(9, (3, -4, 5)) @ np.diag([1.1, 0.9, 1.05, 1])
# Formats that have planes, each under the same names as volumes.
PLANAR = {"itk", "niftyreg", "pixel-map"}
_BY_NAME = {one.name: one for one in FORMATS}


def _field(shape: tuple[int, int, int], axes: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    coarse = [min(4, n) for n in shape]
    field = [zoom(rng.normal(size=coarse), np.divide(shape, coarse), order=1) for _ in range(3)]
    found = torch.from_numpy(np.float32(field))
    found[axes:] = 0
    return found


def _plane() -> Grid:
    slices, rows, columns = axis_directions(PICTURE_ORIENTATION)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([rows, columns, slices], axis=1)
    return Grid((18, 15, 1), affine)


def _pairs(holds: str, names: set[str] | None = None) -> list[tuple[str, str]]:
    able = [f.name for f in FORMATS if f.write is not None and holds in f.holds]
    able = [name for name in able if (name in names if names else name != "pixel-map")]
    return list(itertools.product(able, repeat=2))


def _passed_on(
    transform: Transform,
    names: tuple[str, str],
    suffixes: tuple[str, str],
    ends: Ends,
    folder: Path,
) -> Transform:
    """The transform, written and read in one format and then in another."""
    for number, (name, suffix) in enumerate(zip(names, suffixes, strict=True)):
        file = f"{name}:{folder / f'{number}{suffix}'}"
        write_transform(file, transform, ends)
        transform = read_transform(file, ends)
    return transform


def _suffix(name: str, holds: str) -> str:
    """What names of a format end in where such a thing is held."""
    fields = (".nii.gz", ".nii", ".npz", ".json", ".h5")
    known = [s for s in _BY_NAME[name].suffixes if (s in fields) == (holds == "displacement")]
    return known[0] if known else _BY_NAME[name].suffixes[0]


@pytest.mark.parametrize("names", _pairs("affine"), ids="-".join)
def test_affine_transforms(names: tuple[str, str], tmp_path: Path) -> None:
    suffixes = _suffix(names[0], "affine"), _suffix(names[1], "affine")
    ends = Ends(FIXED, MOVING)
    found = _passed_on(AffineTransform(MAP), names, suffixes, ends, tmp_path)
    assert isinstance(found, AffineTransform)
    corners = np.random.default_rng(1).uniform(-60, 60, (20, 3))
    there = AffineTransform(MAP).points(corners)
    assert np.abs(found.points(corners) - there).max() < 1e-3


@pytest.mark.parametrize("names", _pairs("displacement"), ids="-".join)
def test_displacement_fields(names: tuple[str, str], tmp_path: Path) -> None:
    suffixes = _suffix(names[0], "displacement"), _suffix(names[1], "displacement")
    field = DisplacementField(_field(FIXED.shape, 3), FIXED)
    found = _passed_on(field, names, suffixes, Ends(FIXED, ALIKE), tmp_path)
    # Half a voxel off the border, where formats differ in what is outside.
    voxels = np.random.default_rng(2).uniform(0.5, np.array(FIXED.shape) - 1.5, (50, 3))
    places = voxels @ FIXED.affine[:3, :3].T + FIXED.affine[:3, 3]
    # float16 of Learn2Reg keeps 0.001 of a voxel of such fields.
    assert np.abs(found.points(places) - field.points(places)).max() < 5e-3


@pytest.mark.parametrize("names", _pairs("displacement", PLANAR), ids="-".join)
def test_displacement_fields_of_a_plane(names: tuple[str, str], tmp_path: Path) -> None:
    suffixes = _suffix(names[0], "displacement"), _suffix(names[1], "displacement")
    grid = _plane()
    field = DisplacementField(_field(grid.shape, 2), grid, 2)
    found = _passed_on(field, names, suffixes, Ends(grid, grid), tmp_path)
    assert found.ndim == 2
    places = np.random.default_rng(3).uniform(-13, -1, (50, 3))
    assert np.abs(found.points(places) - field.points(places)).max() < 1e-3


def test_affine_transforms_of_a_plane(tmp_path: Path) -> None:
    plane = np.eye(4)
    plane[:2, :2], plane[:2, 3] = [[0.9, -0.3], [0.2, 1.1]], (4, -7)
    write_transform(tmp_path / "a.tfm", AffineTransform(plane, 2))
    found = read_transform(tmp_path / "a.tfm")
    assert isinstance(found, AffineTransform)
    assert found.ndim == 2
    assert np.allclose(found.matrix, plane, atol=1e-12)
