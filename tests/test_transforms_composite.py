"""ITK's composites, fields and B-splines in one file, by SimpleITK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
import torch
from drawn_head import centred, turned
from image_files import oblique

from plasticine.transforms import (
    AffineTransform,
    BSplineTransform,
    Chain,
    DisplacementField,
    Grid,
    Transform,
    VelocityField,
    read_transform,
    write_transform,
)

GRID = Grid((9, 8, 7), centred(oblique((8.0, 9.0, 10.0), "LAS"), (9, 8, 7)))
PLANE = Grid((9, 8, 1), np.diag([-8.0, -9.0, 1.0, 1.0]))


def parts(ndim: int) -> list[Transform]:
    """One of each kind; the planar ones of the third axis nothing."""
    random = torch.Generator().manual_seed(ndim)
    grid = GRID if ndim == 3 else PLANE
    fields = [torch.randn(3, *grid.shape, generator=random) for _ in range(2)]
    for field in fields:
        field[ndim:] = 0
    matrix = turned(12, (3, -4, 5))
    if ndim == 2:
        matrix = np.eye(4)
        matrix[:2, :2], matrix[:2, 3] = [[0.9, -0.3], [0.2, 1.1]], (4, -7)
    return [
        DisplacementField(fields[0] * 0.3, grid, ndim),  # type: ignore[arg-type]
        AffineTransform(matrix, ndim),  # type: ignore[arg-type]
        BSplineTransform(fields[1] * 3, grid, ndim),  # type: ignore[arg-type]
    ]


def places(ndim: int) -> np.ndarray:
    found = np.random.default_rng(0).uniform(-15, 15, (40, 3))
    if ndim == 2:
        found[:, :2] -= 25
        found[:, 2] = 0
    return found


def by_itk(transform: Any, points: np.ndarray, ndim: int) -> np.ndarray:
    """Where ITK takes points of RAS+."""
    moved = points.copy()
    signs = np.array([-1, -1, 1])[:ndim]
    for row in moved:
        row[:ndim] = np.array(transform.TransformPoint((row[:ndim] * signs).tolist())) * signs
    return moved


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("which", [(0,), (1,), (2,), (0, 1), (1, 2, 0)])
def test_simpleitk_reads_ours_and_we_its(tmp_path: Path, ndim: int, which: tuple[int, ...]) -> None:
    ours = Chain(tuple(parts(ndim)[n] for n in which))
    write_transform(tmp_path / "a.h5", ours)
    theirs = sitk.ReadTransform(str(tmp_path / "a.h5"))
    points = places(ndim)
    there = ours.points(points)
    assert np.abs(by_itk(theirs, points, ndim) - there).max() < 1e-3
    assert np.abs(there - points).max() > 0.1
    for name in ("b.tfm", "b.h5"):
        sitk.WriteTransform(theirs, str(tmp_path / name))
        assert np.abs(read_transform(tmp_path / name).points(points) - there).max() < 1e-3
    assert "points of fixed to points of moving" in (tmp_path / "a.h5.json").read_text()


def test_parts_stay_parts(tmp_path: Path) -> None:
    field, affine, _ = parts(3)
    write_transform(tmp_path / "a.h5", Chain((field, affine)))
    found = read_transform(tmp_path / "a.h5")
    assert isinstance(found, Chain)
    assert [type(part) for part in found.transforms] == [DisplacementField, AffineTransform]


def test_a_velocity_is_written_as_what_it_comes_to(tmp_path: Path) -> None:
    velocity = VelocityField(0.5 * torch.randn(3, *GRID.shape), GRID)
    write_transform(tmp_path / "a.h5", velocity)
    found = read_transform(tmp_path / "a.h5")
    assert isinstance(found, DisplacementField)
    points = places(3)
    assert np.abs(found.points(points) - velocity.points(points)).max() < 1e-4


def test_matlab_files_are_those_of_ants(tmp_path: Path) -> None:
    affine = AffineTransform(turned(12, (3, -4, 5)))
    write_transform(tmp_path / "0GenericAffine.mat", affine)
    theirs = sitk.ReadTransform(str(tmp_path / "0GenericAffine.mat"))
    points = places(3)
    assert np.abs(by_itk(theirs, points, 3) - affine.points(points)).max() < 1e-9
    found = read_transform(tmp_path / "0GenericAffine.mat")
    assert isinstance(found, AffineTransform)
    assert np.allclose(found.matrix, affine.matrix, atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_fields_in_other_formats_of_images(tmp_path: Path, ndim: int, suffix: str) -> None:
    field = parts(ndim)[0]
    write_transform(tmp_path / f"a{suffix}", field)
    image = sitk.ReadImage(str(tmp_path / f"a{suffix}"), sitk.sitkVectorFloat64)
    theirs = sitk.DisplacementFieldTransform(image)
    points = places(ndim)
    assert np.abs(by_itk(theirs, points, ndim) - field.points(points)).max() < 1e-3
    found = read_transform(tmp_path / f"a{suffix}")
    assert found.ndim == ndim
    assert np.abs(found.points(points) - field.points(points)).max() < 1e-3
    sitk.WriteImage(sitk.Image(4, 5, 6, sitk.sitkFloat32), str(tmp_path / f"b{suffix}"))
    with pytest.raises(ValueError, match="expected a displacement field, a vector for each voxel"):
        read_transform(tmp_path / f"b{suffix}")


def test_what_is_refused(tmp_path: Path) -> None:
    field = parts(3)[0]
    with pytest.raises(ValueError, match=r"a\.h5: ITK's files hold no Inverse"):
        write_transform(tmp_path / "a.h5", field.inverse())
    with pytest.raises(ValueError, match=r"a\.mat: .*linear maps"):
        write_transform(tmp_path / "a.mat", field)
    (tmp_path / "bad.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match=r"bad\.h5: damaged, or not"):
        read_transform(tmp_path / "bad.h5")
    linear = sitk.BSplineTransformInitializer(sitk.Image(8, 8, 8, sitk.sitkFloat32), [3, 3, 3], 2)
    sitk.WriteTransform(linear, str(tmp_path / "b.tfm"))
    with pytest.raises(ValueError, match=r"b\.tfm: expected cubic splines, got order 2"):
        read_transform(tmp_path / "b.tfm")


@pytest.mark.parametrize("which", [(0, 0), (2, 0), (1, 2)])
def test_several_that_are_no_composite_are_refused(tmp_path: Path, which: tuple[int, int]) -> None:
    """SimpleITK would read the first alone."""
    lines = ["#Insight Transform File V1.0"]
    for number, part in enumerate(which):
        write_transform(tmp_path / "a.h5", parts(3)[part])
        one = sitk.ReadTransform(str(tmp_path / "a.h5"))
        sitk.WriteTransform(one, str(tmp_path / "one.tfm"))
        lines += [f"#Transform {number}", *(tmp_path / "one.tfm").read_text().splitlines()[2:]]
    (tmp_path / "two.tfm").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"two\.tfm: expected one transform or a composite"):
        read_transform(tmp_path / "two.tfm")
