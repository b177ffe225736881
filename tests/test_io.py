"""Reading image files, refusing those that cannot be read, and their intensities."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from image_files import random_image, save
from PIL import Image

from plasticine.io import (
    normalise,
    read_volume,
)


class TestReadNifti:
    def test_slope_intercept_and_integers(self, tmp_path: Path) -> None:
        stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
        image = nibabel.Nifti1Image(stored, np.diag([2.5, 1.25, 4.0, 1.0]))
        image.header.set_slope_inter(2.0, -3.0)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, tmp_path / "a.nii.gz")
        volume = read_volume(tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(volume.data, 2.0 * stored - 3.0)
        assert volume.data.dtype == np.float32
        assert volume.stored_dtype == "int16"
        assert volume.kind == "nifti"
        assert volume.affine is not None
        np.testing.assert_allclose(volume.affine, image.affine, rtol=1e-5)
        assert volume.notes == ()

    @pytest.mark.parametrize(
        ("stored", "read"), [((5, 6), (5, 6, 1)), ((5, 6, 1), (5, 6, 1)), ((5, 6, 2, 1), (5, 6, 2))]
    )
    def test_shapes(
        self, tmp_path: Path, stored: tuple[int, ...], read: tuple[int, int, int]
    ) -> None:
        data = random_image(*stored)
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
        volume = read_volume(tmp_path / "a.nii")
        np.testing.assert_array_equal(volume.data, data.reshape(read))
        assert volume.stored_shape == stored

    def test_header_without_orientation_is_noted(self, tmp_path: Path) -> None:
        image = nibabel.Nifti1Image(random_image(3, 4, 5), None)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, tmp_path / "a.nii")
        (note,) = read_volume(tmp_path / "a.nii").notes
        assert "no orientation" in note
        assert "LAS" in note

    def test_forms_that_differ_and_shear_are_noted(self, tmp_path: Path) -> None:
        image = nibabel.Nifti1Image(random_image(3, 4, 5), None)
        image.header.set_xyzt_units("mm")
        sheared = np.eye(4)
        sheared[0, 1] = 0.3
        image.set_qform(np.eye(4), code=1)
        image.set_sform(sheared, code=1)
        nibabel.save(image, tmp_path / "a.nii")
        volume = read_volume(tmp_path / "a.nii")
        assert volume.affine is not None
        np.testing.assert_allclose(volume.affine, sheared, atol=1e-6)
        assert [note.split()[-1] for note in volume.notes] == ["followed", "represent"]
        image.set_qform(np.eye(4), code=0)
        image.set_sform(np.eye(4), code=2)
        nibabel.save(image, tmp_path / "b.nii")
        assert read_volume(tmp_path / "b.nii").notes == ()


class TestReadArraysAndPictures:
    @pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float64", "bool"])
    def test_array_types(self, tmp_path: Path, dtype: str) -> None:
        data = (np.arange(12).reshape(3, 4) % 5).astype(dtype)
        np.save(tmp_path / "a.npy", data)
        volume = read_volume(tmp_path / "a.npy")
        np.testing.assert_array_equal(volume.data[..., 0], data.astype(np.float32))
        assert volume.stored_dtype == dtype
        assert volume.affine is None

    def test_whole_numbers_that_do_not_fit_are_noted(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([[2**24 + 1, 0]]))
        assert read_volume(tmp_path / "a.npy").notes == (
            "some int64 values were rounded to float32",
        )
        np.save(tmp_path / "b.npy", np.array([[2**24, 0]]))
        assert read_volume(tmp_path / "b.npy").notes == ()

    def test_stack_keeps_its_axis_order(self, tmp_path: Path) -> None:
        data = random_image(2, 3, 4)
        np.save(tmp_path / "a.npy", data)
        np.testing.assert_array_equal(read_volume(tmp_path / "a.npy").data, data)

    def test_grey_in_colour_and_palette(self, tmp_path: Path) -> None:
        grey = Image.fromarray((255 * random_image(5, 7)).astype(np.uint8))
        for mode in ("RGB", "RGBA", "P", "LA"):
            grey.convert(mode).save(tmp_path / f"{mode}.png")
            data = read_volume(tmp_path / f"{mode}.png").data[..., 0]
            np.testing.assert_array_equal(data, np.asarray(grey))

    def test_placed_upright(self, tmp_path: Path) -> None:
        np.save(tmp_path / "stack.npy", random_image(2, 3, 4))
        np.save(tmp_path / "one.npy", random_image(3, 4))
        stack = read_volume(tmp_path / "stack.npy").placed("SPR")
        one = read_volume(tmp_path / "one.npy").placed("SPR")
        assert nibabel.aff2axcodes(stack.affine) == ("S", "P", "R")
        assert nibabel.aff2axcodes(one.affine) == ("P", "R", "S")
        for volume in (stack, one):
            assert volume.affine is not None
            np.testing.assert_array_equal(np.abs(np.linalg.det(volume.affine[:3, :3])), 1)
            assert "1 mm voxels" in volume.notes[-1]
        assert stack.placed("LPS") is stack


def _nan_nifti(path: Path) -> None:
    data = random_image(3, 4, 5)
    data[1, 2, 3] = np.nan
    save(path, data)


def _truncated(path: Path) -> None:
    if path.suffix == ".png":
        Image.fromarray((255 * random_image(50, 50)).astype(np.uint8)).save(path)
    else:
        save(path, random_image(20, 20, 20))
    path.write_bytes(path.read_bytes()[: 600 if path.suffix == ".png" else 3000])


def _coloured_nifti(path: Path) -> None:
    colours = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), path)


def _nifti(shape: tuple[int, ...], dtype: str = "f4") -> Callable[[Path], Any]:
    return lambda path: save(path, np.ones(shape, dtype))


def _array(array: Any) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, allow_pickle=True)


def _picture(mode: str, colour: Any) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, (4, 3), colour).save(path)


def _singular_nifti(path: Path) -> None:
    _nifti((3, 4, 5))(path)
    header = bytearray(path.read_bytes())
    image = nibabel.load(path)
    image.header["srow_x"] = 0
    start = len(image.header.binaryblock)
    path.write_bytes(image.header.binaryblock + bytes(header[start:]))


BAD_FILES: list[tuple[str, Callable[[Path], Any], type[Exception], str]] = [
    ("text.nii", lambda p: p.write_text("not an image"), ValueError, "not a NIfTI file"),
    ("text.nii.gz", lambda p: p.write_text("not an image"), ValueError, "not a NIfTI file"),
    (
        "zipped.nii.gz",
        lambda p: p.write_bytes(gzip.compress(b"not an image")),
        ValueError,
        "not a NIfTI",
    ),
    ("empty.nii", lambda p: p.write_bytes(b""), ValueError, "not a NIfTI file"),
    ("cut.nii", _truncated, ValueError, "cut short or damaged"),
    ("cut.nii.gz", _truncated, ValueError, "cut short or damaged"),
    ("nan.nii.gz", _nan_nifti, ValueError, r"1 of 60 voxels .* first at \(1, 2, 3\)"),
    ("time.nii.gz", _nifti((3, 4, 5, 2)), ValueError, r"2D or 3D .* \(3, 4, 5, 2\)"),
    ("line.nii.gz", _nifti((7,)), ValueError, r"2D or 3D .* \(7,\)"),
    ("complex.nii.gz", _nifti((3, 4, 5), "c8"), TypeError, "real numbers, got complex64"),
    ("colour.nii.gz", _coloured_nifti, TypeError, "colours"),
    ("flat.nii", _singular_nifti, ValueError, "affine cannot be inverted"),
    ("text.npy", lambda p: p.write_text("not an array"), ValueError, "not a .npy file"),
    ("empty.npy", lambda p: p.write_bytes(b""), ValueError, "not a .npy file"),
    ("objects.npy", _array(np.array([[{}, 1]])), ValueError, "not a .npy file"),
    ("complex.npy", _array(np.ones((3, 4), "c16")), TypeError, "real numbers, got complex128"),
    ("words.npy", _array(np.array([["a", "b"]])), TypeError, "real numbers, got <U1"),
    ("line.npy", _array(np.ones(5)), ValueError, r"got shape \(5,\)"),
    ("deep.npy", _array(np.ones((2, 1, 3, 4))), ValueError, r"got shape \(2, 1, 3, 4\)"),
    ("none.npy", _array(np.ones((0, 4))), ValueError, r"empty, shape \(0, 4\)"),
    ("inf.npy", _array(np.array([[1, np.inf]])), ValueError, "NaN or infinite"),
    ("huge.npy", _array(np.array([[1, 1e300]])), ValueError, "NaN or infinite .in float32"),
    ("cut.png", _truncated, ValueError, "cut short or damaged"),
    ("text.png", lambda p: p.write_text("not a picture"), ValueError, "not a picture"),
    ("colour.png", _picture("RGB", (1, 2, 3)), TypeError, "got RGB colours"),
    ("clear.png", _picture("RGBA", (9, 9, 9, 128)), ValueError, "transparent"),
    ("print.tif", _picture("CMYK", (1, 2, 3, 4)), TypeError, "colour mode CMYK"),
    ("image.mat", lambda p: p.write_text(""), ValueError, "cannot tell the format"),
]


@pytest.mark.parametrize(
    ("name", "write", "kind", "message"), BAD_FILES, ids=[case[0] for case in BAD_FILES]
)
def test_bad_files_are_refused_by_name(
    tmp_path: Path, name: str, write: Callable[[Path], Any], kind: type[Exception], message: str
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(kind, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    assert type(caught.value) is kind


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.nii: no such file"):
        read_volume(tmp_path / "a.nii")
    with pytest.raises(ValueError, match="got a folder"):
        read_volume(tmp_path)


PERCENTILE = {"percentile": 99.9, "of": "positive"}


class TestNormalise:
    def test_percentile_of_positive_voxels(self) -> None:
        data = np.concatenate([np.zeros(5000), np.arange(1, 1002)]).astype(np.float32)
        scaled, record = normalise(data, PERCENTILE, "a")
        assert record.divisor == pytest.approx(1000)  # the last but one of 1001 positive values
        assert (record.clipped_below, record.clipped_above, record.voxels) == (0, 1, 6001)
        np.testing.assert_allclose(scaled[5001:-1], np.arange(2, 1001) / 1000, rtol=1e-6)
        assert scaled.max() == 1
        assert scaled.dtype == np.float32

    def test_negative_voxels_are_counted(self) -> None:
        scaled, record = normalise(np.array([-5, -1, 2, 2], np.float32), PERCENTILE, "a")
        assert record.clipped_below == 2
        np.testing.assert_array_equal(scaled, [0, 0, 1, 1])

    def test_all_voxels(self) -> None:
        _, record = normalise(np.arange(101, dtype=np.float32), {"percentile": 50, "of": "all"}, "")
        assert record.divisor == 50

    @pytest.mark.parametrize("rule", [PERCENTILE, {"low": 0, "high": 5e5}])
    def test_what_is_too_small_becomes_zero(self, rule: dict[str, float]) -> None:
        data = np.array([1e-40, 1.0, 5e5], np.float32)
        expected = normalise(data, rule, "a")[0]
        with np.errstate(all="raise"):
            np.testing.assert_array_equal(normalise(data, rule, "a")[0], expected)

    def test_numbers_below_float32(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([[1e-50, 1.0]]))
        image = nibabel.Nifti1Image(np.array([[[1e-38, 1.0]]], np.float32), np.eye(4))
        image.header.set_slope_inter(1e-5, 0)
        nibabel.save(image, tmp_path / "a.nii")
        with np.errstate(all="raise"):
            np.testing.assert_array_equal(read_volume(tmp_path / "a.npy").data[..., 0], [[0, 1]])
            assert read_volume(tmp_path / "a.nii").data.shape == (1, 1, 2)

    def test_without_a_rule(self) -> None:
        data = random_image(3, 4)
        scaled, record = normalise(data, None, "a")
        np.testing.assert_array_equal(scaled, data)
        assert record.percentile is None
        with pytest.raises(ValueError, match=r"b.nii: .* got 0 to 2"):
            normalise(np.array([0, 2], np.float32), None, "b.nii")

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match=r"b.nii: no voxel is above 0"):
            normalise(np.zeros(4, np.float32), PERCENTILE, "b.nii")
        with pytest.raises(ValueError, match="expected above 0"):
            normalise(np.zeros(4, np.float32), {"percentile": 50, "of": "all"}, "b.nii")
        with pytest.raises(ValueError, match="normalisation"):
            normalise(np.ones(4, np.float32), {"percentile": 50, "of": "brain"}, "b.nii")
        with pytest.raises(ValueError, match="normalisation"):
            normalise(np.ones(4, np.float32), {"mean": 0}, "b.nii")
