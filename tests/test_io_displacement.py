"""Displacement fields of other programs: intents, layouts, planes and units."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from image_files import oblique, save, sitk
from numpy.typing import NDArray
from refusal import refuses

from plasticine import warp
from plasticine.io import read_displacement, write_displacement

VECTORS = np.array([1.0, 2.0, 4.0])


def _constant(*shape: int) -> NDArray[np.float32]:
    return np.float32(np.ones(shape) * VECTORS[: shape[-1]])


def _in_voxels(ras: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.solve(oblique()[:3, :3], ras)


@pytest.mark.parametrize(("intent", "signs"), [(1006, [1, 1, 1]), (1007, [-1, -1, 1])])
@pytest.mark.parametrize("unit", ["mm", "unknown", "micron", "meter"])
def test_vectors_are_those_that_itk_reads(
    tmp_path: Path, intent: int, signs: list[int], unit: str
) -> None:
    factor = {"micron": 1e3, "meter": 1e-3}.get(unit, 1.0)
    path, field = tmp_path / "u.nii", _constant(4, 5, 6, 1, 3)
    save(path, field, oblique(unit=factor), codes=1, intent=intent, unit=unit)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        field, affine = read_displacement(path)
    assert ["vectors were taken to be millimetres" in str(w.message) for w in seen] == (
        [True] if factor != 1 else []
    )
    np.testing.assert_allclose(affine, oblique(), atol=1e-5)
    expected = _in_voxels(VECTORS * signs)
    np.testing.assert_allclose(field[:, 1, 2, 3], expected, atol=1e-5)
    # A voxel is moved to where SimpleITK moves it.
    transform = sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))
    to_lps = np.diag([-1.0, -1.0, 1.0])
    index = np.array([1.0, 2.0, 3.0])
    point = to_lps @ (affine @ [*index, 1])[:3]
    ours = to_lps @ (affine @ [*(index + field[:, 1, 2, 3]), 1])[:3]
    np.testing.assert_allclose(transform.TransformPoint(point.tolist()), ours, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 5, 6, 1, 3), (4, 5, 6, 3)])
@pytest.mark.parametrize("intent", [0, 1007])
def test_conventions_on_request(tmp_path: Path, shape: tuple[int, ...], intent: int) -> None:
    path = save(
        tmp_path / "u.nii.gz", _constant(*shape), oblique(), codes=1, unit="mm", intent=intent
    )
    if intent == 0 or len(shape) == 4:
        with pytest.raises(ValueError, match=r'u\.nii\.gz: .*say vectors="lps", "ras" or "voxels"'):
            read_displacement(path)
    for vectors, expected in (
        ("lps", _in_voxels(VECTORS * [-1, -1, 1])),
        ("ras", _in_voxels(VECTORS)),
        ("voxels", VECTORS),
    ):
        field, affine = read_displacement(path, vectors=vectors)  # type: ignore[arg-type]
        assert field.shape == (3, 4, 5, 6)
        assert field.dtype == np.float32
        np.testing.assert_allclose(field[:, 3, 0, 2], expected, atol=1e-5)
        np.testing.assert_allclose(affine, oblique(), atol=1e-5)


def test_order_of_voxels_and_components(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).random((4, 5, 6, 3)).astype(np.float32)
    field, _ = read_displacement(save(tmp_path / "u.nii", stored, oblique()), vectors="voxels")
    np.testing.assert_array_equal(field, np.moveaxis(stored, -1, 0))
    fived = save(tmp_path / "v.nii", stored[:, :, :, None, :], oblique())
    np.testing.assert_array_equal(read_displacement(fived, vectors="voxels")[0], field)


def test_planes_warp_as_simpleitk_warps_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    moving = sitk.GetImageFromArray(rng.random((30, 26)))
    angle = 0.4
    direction = [np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)]
    vectors = sitk.GetImageFromArray(
        np.stack(np.broadcast_arrays(*np.ogrid[-1:1:30j, -1:1:26j]), -1), isVector=True
    )
    for image in (moving, vectors):
        image.SetSpacing((2.0, 1.5))
        image.SetOrigin((7.0, 9.0))
        image.SetDirection(direction)
    sitk.WriteImage(vectors, str(tmp_path / "u.nii.gz"))
    assert nibabel.load(tmp_path / "u.nii.gz").shape == (26, 30, 1, 1, 2)
    field, affine = read_displacement(tmp_path / "u.nii.gz")
    assert field.shape == (2, 26, 30)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [2, 1.5, 1], rtol=1e-6)
    outside = -9.0
    theirs = sitk.Resample(
        moving, moving, sitk.DisplacementFieldTransform(vectors), sitk.sitkLinear, outside
    )
    expected = sitk.GetArrayFromImage(theirs).T
    image = torch.from_numpy(sitk.GetArrayFromImage(moving).T.copy()).float()
    ours = warp(image[None, None], torch.from_numpy(field)[None])[0, 0].numpy()
    inside = expected != outside
    assert inside.mean() > 0.6
    np.testing.assert_allclose(ours[inside], expected[inside], atol=1e-5)


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "u.nii"
    save(
        path, _constant(4, 5, 1, 1, 2), oblique(), codes=1, unit="mm", intent=1007
    )  # an oblique plane, vectors of two numbers
    refuses(ValueError, r"u\.nii: expected a plane across the third axis", read_displacement, path)
    for intent in (1005, 2006):
        save(path, _constant(4, 5, 6, 1, 3), oblique(), codes=1, unit="mm", intent=intent)
        refuses(ValueError, f"got {intent}; other intents", read_displacement, path)
    with pytest.raises(ValueError, match=r'expected "lps", "ras" or "voxels", got .mm.'):
        read_displacement(path, vectors="mm")  # type: ignore[arg-type]
    np.save(tmp_path / "u.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"u\.npy: expected a displacement field in \.nii"):
        read_displacement(tmp_path / "u.npy")
    save(path, np.ones((4, 5, 6, 1, 3), np.complex64), intent=1007)
    refuses(TypeError, r"u\.nii: expected real numbers, got complex64", read_displacement, path)
    # Millimetres that are no float32 of voxels this small.
    small = np.diag([1e-6, 1e-6, 1e-6, 1])
    save(path, _constant(4, 5, 6, 1, 3) * np.float32(1e35), small, codes=1, unit="mm", intent=1007)
    refuses(ValueError, r"u\.nii: .*beyond float32", read_displacement, path)


def test_names_in_any_case(tmp_path: Path) -> None:
    field = np.random.default_rng(0).random((3, 4, 5, 6)).astype(np.float32)
    for name in ("u.Nii", "u.NII.gz"):
        write_displacement(tmp_path / name, field, oblique())
        np.testing.assert_allclose(read_displacement(tmp_path / name)[0], field, atol=1e-5)
    assert (tmp_path / "u.NII.gz").read_bytes()[:2] == b"\x1f\x8b"
    with pytest.raises(ValueError, match=r"u\.mha: expected a name that ends in \.nii"):
        write_displacement(tmp_path / "u.mha", field, oblique())
