"""Where a file lies: units of length, affines, and whether two files lie on the same voxels."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from image_files import save, sitk, write_itk
from numpy.typing import NDArray
from refusal import refuses

from plasticine.io import (
    ModelGrid,
    model_images,
    read_displacement,
    read_labels,
    read_same_grid,
    read_volume,
    write_displacement,
    write_image,
)
from plasticine.io.checks import SAME_PLACE, check_affine, corner_distance

MILLIMETRES = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}


def _turned(degrees: float, spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= spacing
    affine[:3, 3] = (-31.0, 12.5, 70.0)
    return affine


def _save(
    path: Path, affine: NDArray[np.float64], shape: tuple[int, ...] = (4, 5, 6), **options: Any
) -> Path:
    """Ones that lie where both forms say, in millimetres unless said otherwise."""
    return save(path, np.ones(shape, np.float32), affine, **{"unit": "mm", "codes": 1, **options})


def _patch(path: Path, offset: int, kind: str, value: float) -> None:
    """Sets one number of a NIfTI header, at its place in the format."""
    data = bytearray(path.read_bytes())
    struct.pack_into(f"<{kind}", data, offset, value)
    path.write_bytes(data)


def _itk_affine(path: Path) -> NDArray[np.float64]:
    """SimpleITK's placement of the same file, turned to RAS+."""
    image = sitk.ReadImage(str(path))
    columns = [
        image.TransformIndexToPhysicalPoint([int(i == j) for i in range(3)]) for j in (0, 1, 2)
    ]
    origin = np.array(image.TransformIndexToPhysicalPoint([0, 0, 0]))
    affine = np.eye(4)
    affine[:3, :3] = (np.array(columns) - origin).T
    affine[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


class TestUnits:
    @pytest.mark.parametrize("unit", MILLIMETRES)
    def test_images_lie_where_itk_puts_them(self, tmp_path: Path, unit: str) -> None:
        path = _save(tmp_path / "a.nii", _turned(20, (400, 300, 200)), unit=unit)
        volume = read_volume(path)
        assert volume.affine is not None
        expected = np.diag([MILLIMETRES[unit]] * 3 + [1.0]) @ _turned(20, (400, 300, 200))
        np.testing.assert_allclose(volume.affine, expected, rtol=1e-6)
        np.testing.assert_allclose(volume.affine, _itk_affine(path), rtol=1e-5, atol=1e-5)
        assert len(volume.notes) == (unit != "mm")

    @pytest.mark.parametrize("code", [0, 4, 5, 7, 8])
    def test_unknown_units_are_millimetres_with_a_note(self, tmp_path: Path, code: int) -> None:
        volume = read_volume(_save(tmp_path / "a.nii.gz", np.diag([2.0, 3, 4, 1]), unit=code))
        assert volume.affine is not None
        np.testing.assert_array_equal(volume.affine, np.diag([2.0, 3, 4, 1]))
        (note,) = volume.notes
        assert "millimetres assumed" in note

    def test_a_conversion_is_noted(self, tmp_path: Path) -> None:
        (note,) = read_volume(_save(tmp_path / "a.nii", np.eye(4), unit="micron")).notes
        assert note == "lengths were converted from micrometres to millimetres"

    def test_microns_do_not_become_a_huge_grid(self, tmp_path: Path) -> None:
        affine = np.diag([400.0, 400.0, 400.0, 1.0])
        path = _save(tmp_path / "a.nii", affine, unit="micron", shape=(12, 12, 1))
        laid = model_images(read_volume(path), {"ndim": 2, "spacing_mm": 2.0})
        assert laid.grid.model_shape == (4, 4)  # 11 · 0.4 mm, at 2 mm
        assert laid.grid.input_spacing == pytest.approx((0.4, 0.4))

    @pytest.mark.parametrize("unit", ["micron", "mm"])
    def test_labels_and_references_in_another_unit(self, tmp_path: Path, unit: str) -> None:
        affine = np.diag([0.4, 0.4, 0.4, 1.0])
        grid = ModelGrid.of((4, 5, 6), affine, orientation="SPR", ndim=3, spacing=None)
        stored = affine * [[1e3], [1e3], [1e3], [1]] if unit == "micron" else affine
        path = _save(tmp_path / "a.nii", stored, unit=unit)
        assert read_same_grid(path, grid, affine, "SPR").data.shape == (4, 5, 6)
        labels, notes = read_labels(path, grid, affine, "SPR")
        assert int(labels.sum()) == 120
        assert notes == ()  # the input's own notes say where all of them lie
        wrong = _save(tmp_path / "b.nii", stored, unit="mm" if unit == "micron" else "micron")
        refuses(ValueError, "position in space", read_labels, wrong, grid, affine, "SPR")

    def test_analyze_units(self, tmp_path: Path) -> None:
        image = nibabel.AnalyzeImage(np.ones((4, 5, 6), np.int16), None)
        image.header.set_zooms((400, 300, 200))
        image.header["vox_units"] = b"um"
        nibabel.save(image, tmp_path / "a.img")
        volume = read_volume(tmp_path / "a.img")
        assert volume.affine is not None
        np.testing.assert_allclose(np.diag(volume.affine), [-0.4, 0.3, 0.2, 1], rtol=1e-6)

    @pytest.mark.parametrize(
        ("name", "line", "unit"),
        [
            ("a.mha", b"DistanceUnits = um\n", b"ElementType"),
            ("a.nrrd", b'space units: "um" "um" "um"\n', b"kinds"),
        ],
    )
    def test_units_that_itk_leaves_out(
        self, tmp_path: Path, name: str, line: bytes, unit: bytes
    ) -> None:
        ones, place = np.ones((4, 5, 6), np.int16), {"spacing": (400, 300, 200)}
        write_itk(tmp_path / name, ones, **place, origin=(10, 20, 30))
        text = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(text.replace(unit, line + unit, 1))
        volume = read_volume(tmp_path / name)
        assert volume.affine is not None
        np.testing.assert_allclose(np.diag(volume.affine), [-0.4, -0.3, 0.2, 1])
        np.testing.assert_allclose(volume.affine[:3, 3], [-0.01, -0.02, 0.03])
        assert "converted from um" in volume.notes[0]
        (tmp_path / name).write_bytes(text.replace(unit, line.replace(b"um", b"ell") + unit, 1))
        if name == "a.nrrd":  # MetaIO itself knows no ell
            assert "ell, is not known" in read_volume(tmp_path / name).notes[0]
            mixed = line.replace(b"um", b"mm", 1)
            (tmp_path / name).write_bytes(text.replace(unit, mixed + unit, 1))
            refuses(ValueError, "one unit of length", read_volume, tmp_path / name)


class TestAffines:
    @pytest.mark.parametrize("spacing", [9e-4, 1e-6, 1e4])
    def test_voxels_of_any_size(self, tmp_path: Path, spacing: float) -> None:
        affine = np.diag([spacing, spacing, 2 * spacing, 1])
        volume = read_volume(_save(tmp_path / "a.nii", affine))
        np.testing.assert_allclose(volume.affine, affine, rtol=1e-6)
        write_image(tmp_path / "b.nii", volume.data, affine)
        np.testing.assert_allclose(read_volume(tmp_path / "b.nii").affine, affine, rtol=1e-6)
        field = np.full((3, 4, 5, 6), 0.5, np.float32)
        write_displacement(tmp_path / "u.nii", field, affine)
        again, _ = read_displacement(tmp_path / "u.nii")
        np.testing.assert_allclose(again, field, rtol=1e-5)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0])
    @pytest.mark.parametrize("kind", ["image", "field", "microns"])
    def test_bad_ones_are_refused_by_name(self, tmp_path: Path, value: float, kind: str) -> None:
        field = kind == "field"
        shape = (4, 5, 6, 1, 3) if field else (4, 5, 6)
        unit = "micron" if kind == "microns" else "mm"
        path = _save(tmp_path / "bad.nii", np.eye(4), shape=shape, intent=1007, unit=unit)
        for place in range(296, 312, 4):  # srow_y
            _patch(path, place, "f", value)
        reason = "cannot be inverted" if value == 0 else "NaN or infinite"
        with pytest.raises(ValueError, match=rf"bad\.nii: its affine .*{reason}"):
            (read_displacement if field else read_volume)(path)

    def test_axes_in_one_plane(self) -> None:
        flat = np.eye(4) * 1e3
        flat[:3, 2] = flat[:3, 0] + [0, 0, 1e-3]
        refuses(ValueError, "x: its affine cannot be inverted", check_affine, Path("x"), flat)
        sheared = np.eye(4)
        sheared[0, 1] = 50.0  # the axes are one degree apart
        assert check_affine(Path("x"), sheared) is not None

    @pytest.mark.parametrize("value", [np.nan, 0.0])
    def test_are_not_written_either(self, tmp_path: Path, value: float) -> None:
        affine = np.diag([1.0, value, 1.0, 1.0])
        with pytest.raises(ValueError, match="its affine"):
            write_image(tmp_path / "a.nii", np.ones((4, 5, 6), np.float32), affine)
        with pytest.raises(ValueError, match="its affine"):
            write_displacement(tmp_path / "a.nii", np.ones((3, 4, 5, 6), np.float32), affine)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
    def test_itk_files(self, tmp_path: Path, name: str) -> None:
        ones = np.ones((4, 5, 6), np.int16)
        volume = read_volume(write_itk(tmp_path / name, ones, spacing=(0.0009,) * 3))
        np.testing.assert_allclose(np.diag(volume.affine)[:3], [-0.0009, -0.0009, 0.0009])


def _with_quaternion(path: Path, length: float, *, sform: bool) -> NDArray[np.float64]:
    """A file turned by half a turn about (1, 1, 0), its quaternion of another length than 1."""
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, :3] = np.array([[0, 1.0, 0], [1, 0, 0], [0, 0, -1]]) @ affine[:3, :3]
    _save(path, affine)
    for place, share in zip((256, 260, 264), (0.5**0.5, 0.5**0.5, 0), strict=True):
        _patch(path, place, "f", share * length)
    _patch(path, 254, "h", int(sform))
    return affine


class TestQuaternions:
    @pytest.mark.parametrize("length", [1 + 4e-7, 1 + 1e-4])
    @pytest.mark.parametrize("sform", [True, False])
    def test_rounding_is_no_reason(self, tmp_path: Path, length: float, sform: bool) -> None:
        affine = _with_quaternion(tmp_path / "a.nii", length, sform=sform)
        volume = read_volume(tmp_path / "a.nii")
        np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
        np.testing.assert_allclose(_itk_affine(tmp_path / "a.nii"), affine, atol=1e-5)
        assert volume.notes == ()

    def test_nonsense_beside_an_sform(self, tmp_path: Path) -> None:
        for length in (1.5, np.nan):
            affine = _with_quaternion(tmp_path / "a.nii", length, sform=True)
            volume = read_volume(tmp_path / "a.nii")
            np.testing.assert_array_equal(volume.affine, affine)
            assert volume.notes == (
                "the NIfTI header's qform is not valid: the sform was followed",
            )
            _with_quaternion(tmp_path / "b.nii", length, sform=False)
            with pytest.raises(ValueError, match=r"b\.nii: its affine, a qform alone"):
                read_volume(tmp_path / "b.nii")

    def test_a_displacement_file(self, tmp_path: Path) -> None:
        write_displacement(tmp_path / "u.nii", np.ones((3, 4, 5, 6), np.float32), np.eye(4))
        _patch(tmp_path / "u.nii", 256, "f", 1 + 4e-7)
        assert (read_displacement(tmp_path / "u.nii")[0] == 1).all()


class TestSameGrid:
    def _distance(self, tmp_path: Path, other: NDArray[np.float64]) -> None:
        affine = _turned(0, (1.0, 1.0, 1.0))
        shape = (256, 256, 8)
        grid = ModelGrid.of(shape, affine, orientation="SPR", ndim=3, spacing=None)
        read_same_grid(_save(tmp_path / "a.nii", other, shape=shape), grid, affine, "SPR")

    def test_a_turned_label_map_is_refused_and_told_how_far(self, tmp_path: Path) -> None:
        # No entry of the matrix differs by more than 0.01.
        turned = _turned(0.57, (1.0, 1.0, 1.0))
        assert np.abs(turned - _turned(0, (1.0, 1.0, 1.0))).max() < 0.01
        with pytest.raises(ValueError, match=r"a\.nii: .* up to 3\.59 voxels \(3\.59 mm\) off"):
            self._distance(tmp_path, turned)

    def test_half_a_voxel_is_refused_and_rounding_is_not(self, tmp_path: Path) -> None:
        affine = _turned(0, (1.0, 1.0, 1.0))
        shifted = affine.copy()
        shifted[0, 3] += 0.5
        refuses(ValueError, r"0\.5 voxels \(0\.5 mm\)", self._distance, tmp_path, shifted)
        shifted[0, 3] = affine[0, 3] + 0.05
        self._distance(tmp_path, shifted)
        self._distance(tmp_path, affine + 1e-5 * np.random.default_rng(0).random((4, 4)) * affine)

    def test_thin_voxels_count_by_their_own_axis(self) -> None:
        affine, other = np.diag([0.01, 0.01, 5.0, 1.0]), np.diag([0.01, 0.01, 5.0, 1.0])
        other[0, 3] = 0.009  # under the old bound of 0.01 per entry, and most of a voxel
        voxels, millimetres = corner_distance(affine, other, (4, 5, 6))
        assert voxels == pytest.approx(0.9)
        assert millimetres == pytest.approx(0.009)
        other[0, 3], other[2, 3] = 0, 0.02  # over it, and nothing
        assert corner_distance(affine, other, (4, 5, 6))[0] == pytest.approx(0.004)

    @pytest.mark.parametrize("seed", range(5))
    def test_what_a_header_rounds_is_far_below(self, tmp_path: Path, seed: int) -> None:
        rng = np.random.default_rng(seed)
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = turn * rng.uniform(0.1, 4, 3)
        affine[:3, 3] = rng.uniform(-300, 300, 3)
        image = nibabel.Nifti1Image(np.ones((2, 2, 2), np.int8), affine)
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=0)  # the quaternion alone, in float32
        nibabel.save(image, tmp_path / "a.nii")
        again = read_volume(tmp_path / "a.nii").affine
        assert again is not None
        assert corner_distance(affine, again, (1000, 1000, 1000))[0] < SAME_PLACE / 10


def test_a_translation_of_microns(model_file: Path, tmp_path: Path, run: Any) -> None:
    rng = np.random.default_rng(0)
    affine = np.diag([2000.0, 2000.0, 4000.0, 1.0])
    save(
        tmp_path / "x.nii", (200 * rng.random((20, 22, 2))).astype(np.uint8), affine, unit="micron"
    )
    out = tmp_path / "out"
    code, _, err = run("translate", tmp_path / "x.nii", "--model", model_file, "--output", out)
    assert code == 0, err
    for name in ("translated", "warped", "jacobian", "displacement"):
        written = nibabel.load(out / f"{name}.nii.gz")
        assert written.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(np.diag(written.affine), [2, 2, 4, 1], rtol=1e-6)
