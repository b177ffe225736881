"""FreeSurfer, Analyze, MetaImage, NRRD and DICOM, as nibabel and SimpleITK write them.

Of DICOM, more is in test_io_dicom.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from image_files import (
    SHAPE,
    TO_RAS,
    oblique,
    voxels,
    write_dicom,
    write_itk,
    write_oblique,
)
from refusal import refuses

from plasticine.io import files_in, read_stored, read_volume, translate_volume
from plasticine.report import read_results, write_results
from plasticine.training.reading import _with_label_files
from plasticine.translation import Translator


def _write_pair(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(voxels(), oblique()), path)


def _write_mgh(path: Path) -> None:
    nibabel.save(nibabel.MGHImage(voxels(), oblique()), path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.mgz": _write_mgh,
    "a.mgh": _write_mgh,
    "a.img": _write_pair,
    "a.mha": write_oblique,
    "a.mhd": write_oblique,
    "a.nrrd": write_oblique,
    "a.nhdr": write_oblique,
    "dicom": write_dicom,
}


class TestEveryFormat:
    @pytest.mark.parametrize("name", WRITERS)
    def test_elements_and_places(self, tmp_path: Path, name: str) -> None:
        WRITERS[name](tmp_path / name)
        volume = read_stored(tmp_path / name)
        np.testing.assert_array_equal(volume.data, voxels())
        assert volume.data.dtype == np.int16
        assert volume.data.dtype.isnative
        assert volume.stored_dtype == "int16"
        assert volume.stored_shape == SHAPE
        np.testing.assert_allclose(volume.affine, oblique(), atol=1e-5)
        assert read_volume(tmp_path / name).data.dtype == np.float32

    @pytest.mark.parametrize("name", WRITERS)
    def test_is_translated(self, tmp_path: Path, name: str, model_file: Path) -> None:
        WRITERS[name](tmp_path / name)
        volume = read_volume(tmp_path / name)
        result = translate_volume(
            Translator.load(model_file),
            volume,
            reference=tmp_path / name,
        )
        np.testing.assert_allclose(result.affine, oblique(), atol=1e-5)
        assert result.trace.one_deformation
        assert result.grid.to_file(result.translated).shape == SHAPE

    def test_what_is_written_of_one(self, tmp_path: Path, model_file: Path) -> None:
        write_dicom(tmp_path / "a")
        result = translate_volume(Translator.load(model_file), read_volume(tmp_path / "a"))
        (tmp_path / "out").mkdir()
        write_results(result, tmp_path / "out", model_file=model_file)
        written = nibabel.load(tmp_path / "out" / "translated.nii.gz")
        assert written.shape == SHAPE
        np.testing.assert_allclose(written.affine, oblique(), atol=1e-5)
        found = read_results(tmp_path / "out")
        assert found.is_one_body
        assert found.record["input"]["kind"] == "dicom"
        np.testing.assert_array_equal(found.read(tmp_path / "a").data, voxels())

    @pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "a.mgz"])
    def test_compressed(self, tmp_path: Path, name: str) -> None:
        if name == "a.mgz":
            _write_mgh(tmp_path / name)
        else:
            write_oblique(tmp_path / name, compressed=True)
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, voxels())

    @pytest.mark.parametrize(
        "name", ["a.Nii", "a.NII", "a.nII.Gz", "a.NII.GZ", "a.Mgz", "a.Mha", "a.NRRD", "a.Npy"]
    )
    def test_letters_of_any_case(self, tmp_path: Path, name: str) -> None:
        lower = tmp_path / "b" / name.lower()
        lower.parent.mkdir()
        if lower.suffix == ".npy":
            np.save(lower, voxels())
        elif lower.name in WRITERS:
            WRITERS[lower.name](lower)
        else:
            nibabel.save(nibabel.Nifti1Image(voxels(), oblique()), lower)
        lower.rename(tmp_path / name)
        assert files_in(tmp_path) == [tmp_path / name]
        np.testing.assert_array_equal(read_stored(tmp_path / name).data, voxels())

    @pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "dicom"])
    def test_an_absent_extra_is_named(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        WRITERS[name](tmp_path / name)
        monkeypatch.setitem(sys.modules, "SimpleITK", None)
        with pytest.raises(RuntimeError, match=rf"{name}: .*SimpleITK.*plasticine\[formats\]"):
            read_volume(tmp_path / name)


class TestFreeSurfer:
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
    def test_types(self, tmp_path: Path, dtype: str) -> None:
        nibabel.save(nibabel.MGHImage(voxels(dtype), oblique()), tmp_path / "a.mgz")
        assert read_stored(tmp_path / "a.mgz").data.dtype == dtype

    def test_without_an_orientation(self, tmp_path: Path) -> None:
        image = nibabel.MGHImage(voxels(), oblique())
        image.header["goodRASFlag"] = 0
        nibabel.save(image, tmp_path / "a.mgh")
        data = bytearray((tmp_path / "a.mgh").read_bytes())
        data[28:30] = b"\0\0"
        (tmp_path / "a.mgh").write_bytes(data)
        volume = read_volume(tmp_path / "a.mgh")
        assert volume.affine is not None
        assert nibabel.aff2axcodes(volume.affine) == ("L", "I", "A")
        assert "no orientation" in volume.notes[0]

    def test_four_axes_are_refused(self, tmp_path: Path) -> None:
        frames = np.ones((4, 5, 6, 2), np.float32)
        nibabel.save(nibabel.MGHImage(frames, np.eye(4)), tmp_path / "a.mgz")
        refuses(ValueError, r"2D or 3D .*\(4, 5, 6, 2\)", read_volume, tmp_path / "a.mgz")


class TestPairs:
    @pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
    def test_either_name_reads_both(self, tmp_path: Path, kind: Any) -> None:
        nibabel.save(kind(voxels(), oblique()), tmp_path / "a.img")
        header, image = read_volume(tmp_path / "a.hdr"), read_volume(tmp_path / "a.img")
        np.testing.assert_array_equal(header.data, image.data)
        np.testing.assert_allclose(header.affine, oblique(), atol=1e-5)
        assert files_in(tmp_path) == [tmp_path / "a.img"]

    def test_names_in_capitals(self, tmp_path: Path) -> None:
        nibabel.save(nibabel.Nifti1Pair(voxels(), oblique()), tmp_path / "a.img")
        (tmp_path / "a.img").rename(tmp_path / "a.IMG")
        (tmp_path / "a.hdr").rename(tmp_path / "a.Hdr")
        for name in ("a.IMG", "a.Hdr"):
            np.testing.assert_array_equal(read_volume(tmp_path / name).data, voxels())
        assert files_in(tmp_path) == [tmp_path / "a.IMG"]

    @pytest.mark.parametrize("gone", [".img", ".hdr"])
    def test_one_alone(self, tmp_path: Path, gone: str) -> None:
        _write_pair(tmp_path / "a.img")
        (tmp_path / f"a{gone}").unlink()
        (left,) = files_in(tmp_path)
        refuses(FileNotFoundError, f"{left.name}: its header or data is missing", read_volume, left)

    def test_analyze_is_noted(self, tmp_path: Path) -> None:
        image = nibabel.AnalyzeImage(voxels(), None)
        image.header.set_zooms((2, 1.5, 4))
        nibabel.save(image, tmp_path / "a.img")
        volume = read_stored(tmp_path / "a.img")
        np.testing.assert_array_equal(volume.data, voxels())
        assert volume.kind == "analyze"
        assert "axes assumed to run LAS" in volume.notes[0]
        np.testing.assert_allclose(np.diag(volume.affine), [-2, 1.5, 4, 1])  # type: ignore[arg-type]

    @pytest.mark.parametrize("key", ["M", "mat"])
    @pytest.mark.parametrize("name", ["a.img", "a.hdr"])
    def test_a_matrix_of_spm(
        self, tmp_path: Path, key: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = nibabel.AnalyzeImage(voxels(), None)
        image.header["vox_units"] = b"um"
        nibabel.save(image, tmp_path / "a.img")
        io = pytest.importorskip("scipy.io")
        io.savemat(tmp_path / "a.mat", {key: oblique()})
        volume = read_stored(tmp_path / name)
        # MATLAB counts voxels from 1; SPM's "M" is of the mirrored image.
        expected = oblique()
        expected[:3, 3] += expected[:3, :3].sum(axis=1)
        if key == "M":
            expected = np.diag([-1.0, 1, 1, 1]) @ expected
        np.testing.assert_allclose(volume.affine, expected)
        np.testing.assert_allclose(
            volume.affine, nibabel.Spm99AnalyzeImage.from_filename(tmp_path / "a.img").affine
        )
        assert volume.notes == ("placed where SPM's a.mat says",)
        monkeypatch.setitem(sys.modules, "scipy.io", None)
        with pytest.raises(ValueError, match=rf"{name}: a\.mat .* cannot be read .*scipy"):
            read_stored(tmp_path / name)

    def test_a_matrix_that_is_none(self, tmp_path: Path) -> None:
        nibabel.save(nibabel.AnalyzeImage(voxels(), None), tmp_path / "a.img")
        (tmp_path / "a.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
        with pytest.raises(ValueError, match=r"a\.img: a\.mat beside it .* cannot be read"):
            read_stored(tmp_path / "a.img")

    def test_a_label_map_may_be_a_pair(self, tmp_path: Path) -> None:
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(voxels(), oblique()), tmp_path / "images" / "anna.nii")
        _write_pair(tmp_path / "labels" / "anna.img")
        found = _with_label_files(tmp_path / "images", tmp_path / "labels")
        assert [(a.name, b and b.name) for a, b in found] == [("anna.nii", "anna.img")]
        _write_mgh(tmp_path / "labels" / "anna.mgz")  # which of the two?
        refuses(ValueError, "found 2", _with_label_files, tmp_path / "images", tmp_path / "labels")


class TestItk:
    @pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
    def test_vectors_and_colours_are_refused(self, tmp_path: Path, name: str) -> None:
        write_itk(tmp_path / name, np.ones((4, 5, 6, 3), np.uint8), vectors=True)
        with pytest.raises(TypeError, match=f"{name}: expected one number per voxel, got 3"):
            read_volume(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
    def test_one_slice_and_four_axes(self, tmp_path: Path, name: str) -> None:
        write_itk(tmp_path / name, np.ones((4, 5), np.float32), spacing=(2, 3), origin=(7, 8))
        volume = read_volume(tmp_path / name)
        assert volume.data.shape == (5, 4, 1)
        assert volume.affine is not None
        np.testing.assert_allclose(np.diag(volume.affine), [-2, -3, 1, 1])
        np.testing.assert_allclose(volume.affine[:3, 3], [-7, -8, 0])
        write_itk(tmp_path / name, np.ones((2, 3, 4, 5)))
        refuses(ValueError, r"2D or 3D .*\(5, 4, 3, 2\)", read_volume, tmp_path / name)

    def test_nrrd_along_other_axes(self, tmp_path: Path) -> None:
        write_oblique(tmp_path / "a.nrrd")
        text = (tmp_path / "a.nrrd").read_bytes()
        for space, signs in (
            ("right-anterior-superior", (1, 1)),
            ("left-anterior-superior", (-1, 1)),
        ):
            named = text.replace(b"left-posterior-superior", space.encode())
            (tmp_path / "b.nrrd").write_bytes(named)
            turned = np.diag([*signs, 1.0, 1.0]) @ TO_RAS @ oblique()
            np.testing.assert_allclose(read_volume(tmp_path / "b.nrrd").affine, turned, atol=1e-5)
        lines = text.split(b"\n")
        kept = [line for line in lines if not line.startswith((b"space", b"kinds"))]
        (tmp_path / "c.nrrd").write_bytes(b"\n".join(kept))
        assert "no orientation" in read_volume(tmp_path / "c.nrrd").notes[0]
