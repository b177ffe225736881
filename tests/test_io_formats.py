"""FreeSurfer, Analyze, MetaImage, NRRD and DICOM, as nibabel and SimpleITK write them."""

from __future__ import annotations

import locale
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from command_line import Run
from numpy.typing import NDArray
from refusal import refuses

from plasticine.io import Volume, files_in, read_stored, read_volume, translate_volume
from plasticine.report import read_results, write_results
from plasticine.training.reading import _with_label_files
from plasticine.translation import Translator

SHAPE = (20, 22, 6)
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def sitk() -> Any:
    return pytest.importorskip("SimpleITK")


def _data(dtype: str = "int16") -> NDArray[Any]:
    return (200 * np.random.default_rng(0).random(SHAPE)).astype(dtype)


def _affine() -> NDArray[np.float64]:
    """Turned about two axes, anisotropic, far from the origin."""
    a, b = 0.3, -0.2
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])
    turn = turn @ np.array([[1.0, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn * (2.0, 1.5, 4.0)
    affine[:3, 3] = (-31.0, 12.5, 70.0)
    return affine


def _itk_image(sitk: Any, data: NDArray[Any], affine: NDArray[np.float64]) -> Any:
    lps = TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(data.T)
    image.SetSpacing([float(s) for s in spacing])
    image.SetDirection((lps[:3, :3] / spacing).ravel())
    image.SetOrigin([float(o) for o in lps[:3, 3]])
    return image


def _write_itk(path: Path, *, compressed: bool = False) -> None:
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(_itk_image(sitk, _data(), _affine()), str(path), compressed)


def _write_dicom(
    folder: Path,
    *,
    positions: list[NDArray[np.float64]] | None = None,
    series: str = "1.2.3.4",
    names: str = "{:02d}.dcm",
) -> Path:
    """A series of slices in files whose names run against their positions."""
    sitk = pytest.importorskip("SimpleITK")
    folder.mkdir(exist_ok=True)
    data, lps = _data(), TO_RAS @ _affine()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / spacing
    if positions is None:
        positions = [lps[:3, 3] + z * lps[:3, 2] for z in range(SHAPE[2])]
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    language = locale.setlocale(locale.LC_ALL)
    for z, position in enumerate(positions):
        image = sitk.GetImageFromArray(data[:, :, z].T[None])
        image.SetSpacing([float(s) for s in spacing])
        image.SetOrigin([float(p) for p in position])
        image.SetDirection([float(d) for d in directions.ravel()])
        values = {
            "0008|0060": "MR",
            "0008|103e": f"slices of {series}",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0008|0018": f"{series}.{z + 1}",
            "0020|0013": str(z + 1),
            "0020|0032": "\\".join(f"{p:.10g}" for p in position),
            "0020|0037": "\\".join(f"{d:.12g}" for d in directions[:, :2].T.ravel()),
        }
        for key, value in values.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / names.format(50 - z)))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, language)  # GDCM's writer sets "C"
    return folder


def _dicom_by_hand(path: Path, syntax: str, pixels: bytes) -> None:
    """One slice of a transfer syntax; ``pixels`` as they are stored."""
    order = ">" if syntax.endswith("1.2.2") else "<"
    explicit = syntax != "1.2.840.10008.1.2"

    def element(tag: int, kind: str, value: Any, order: str = order, explicit: bool = explicit):  # type: ignore[no-untyped-def]
        body = struct.pack(order + "H", value) if kind == "US" else value
        body = body.encode() if isinstance(body, str) else body
        body += (b"\0" if kind in ("UI", "OW") else b" ") * (len(body) % 2)
        mark = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        if not explicit:
            return mark + struct.pack(order + "I", len(body)) + body
        if kind == "OW":
            return mark + b"OW\0\0" + struct.pack(order + "I", len(body)) + body
        return mark + kind.encode() + struct.pack(order + "H", len(body)) + body

    mr = "1.2.840.10008.5.1.4.1.1.4"
    meta = b"".join(
        element(tag, "UI", value, "<", True)
        for tag, value in ((0x20002, mr), (0x20003, "1.2.3"), (0x20010, syntax))
    )
    data = b"".join(
        element(*each)
        for each in (
            *((0x80016, "UI", mr), (0x80018, "UI", "1.2.3"), (0x80060, "CS", "MR")),
            *((0x20000D, "UI", "1.2.4"), (0x20000E, "UI", "1.2.5"), (0x200013, "IS", "1")),
            *((0x200032, "DS", "1\\2\\3"), (0x200037, "DS", "1\\0\\0\\0\\1\\0")),
            *((0x280002, "US", 1), (0x280004, "CS", "MONOCHROME2")),
            *((0x280010, "US", SHAPE[1]), (0x280011, "US", SHAPE[0]), (0x280030, "DS", "2\\3")),
            *((0x280100, "US", 16), (0x280101, "US", 16), (0x280102, "US", 15)),
            *((0x280103, "US", 1), (0x7FE00010, "OW", pixels)),
        )
    )
    group = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    path.write_bytes(bytes(128) + b"DICM" + group + meta + data)


def _rescale(path: Path, slope: float, intercept: float) -> None:
    """Puts a slope and an intercept before a DICOM file's pixels, implicit VR, little endian."""
    head, mark, pixels = path.read_bytes().partition(struct.pack("<HH", 0x7FE0, 0x10))
    head = head.partition(struct.pack("<HH", 0x28, 0x1052))[0]  # what the writer may have put
    for element, value in ((0x1052, intercept), (0x1053, slope)):
        text = f"{value:<16g}".encode()
        head += struct.pack("<HHI", 0x28, element, len(text)) + text
    path.write_bytes(head + mark + pixels)


def _write_pair(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(_data(), _affine()), path)


def _write_mgh(path: Path) -> None:
    nibabel.save(nibabel.MGHImage(_data(), _affine()), path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.mgz": _write_mgh,
    "a.mgh": _write_mgh,
    "a.img": _write_pair,
    "a.mha": _write_itk,
    "a.mhd": _write_itk,
    "a.nrrd": _write_itk,
    "a.nhdr": _write_itk,
    "dicom": _write_dicom,
}


class TestEveryFormat:
    @pytest.mark.parametrize("name", WRITERS)
    def test_elements_and_places(self, tmp_path: Path, name: str) -> None:
        WRITERS[name](tmp_path / name)
        volume = read_stored(tmp_path / name)
        np.testing.assert_array_equal(volume.data, _data())
        assert volume.data.dtype == np.int16
        assert volume.data.dtype.isnative
        assert volume.stored_dtype == "int16"
        assert volume.stored_shape == SHAPE
        np.testing.assert_allclose(volume.affine, _affine(), atol=1e-5)
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
        np.testing.assert_allclose(result.affine, _affine(), atol=1e-5)
        assert result.one_deformation
        assert result.grid.to_file(result.translated).shape == SHAPE

    def test_what_is_written_of_one(self, tmp_path: Path, model_file: Path) -> None:
        _write_dicom(tmp_path / "a")
        result = translate_volume(Translator.load(model_file), read_volume(tmp_path / "a"))
        (tmp_path / "out").mkdir()
        write_results(result, tmp_path / "out", model_file=model_file)
        written = nibabel.load(tmp_path / "out" / "translated.nii.gz")
        assert written.shape == SHAPE
        np.testing.assert_allclose(written.affine, _affine(), atol=1e-5)
        found = read_results(tmp_path / "out")
        assert found.is_one_body
        assert found.record["input"]["kind"] == "dicom"
        np.testing.assert_array_equal(found.read(tmp_path / "a").data, _data())

    @pytest.mark.parametrize("name", ["a.mha", "a.nrrd", "a.mgz"])
    def test_compressed(self, tmp_path: Path, name: str) -> None:
        if name == "a.mgz":
            _write_mgh(tmp_path / name)
        else:
            _write_itk(tmp_path / name, compressed=True)
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, _data())

    @pytest.mark.parametrize(
        "name", ["a.Nii", "a.NII", "a.nII.Gz", "a.NII.GZ", "a.Mgz", "a.Mha", "a.NRRD", "a.Npy"]
    )
    def test_letters_of_any_case(self, tmp_path: Path, name: str) -> None:
        lower = tmp_path / "b" / name.lower()
        lower.parent.mkdir()
        if lower.suffix == ".npy":
            np.save(lower, _data())
        elif lower.name in WRITERS:
            WRITERS[lower.name](lower)
        else:
            nibabel.save(nibabel.Nifti1Image(_data(), _affine()), lower)
        lower.rename(tmp_path / name)
        assert files_in(tmp_path) == [tmp_path / name]
        np.testing.assert_array_equal(read_stored(tmp_path / name).data, _data())

    @pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "dicom"])
    def test_an_absent_extra_is_named(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        WRITERS[name](tmp_path / name)
        monkeypatch.setitem(sys.modules, "SimpleITK", None)
        with pytest.raises(RuntimeError, match=rf"{name}: .*SimpleITK.*plasticine\[formats\]"):
            read_volume(tmp_path / name)


def test_the_shipped_model_takes_them(tmp_path: Path, run: Run, head: Path) -> None:
    image = nibabel.load(head)
    data = np.asarray(image.dataobj)
    nibabel.save(nibabel.MGHImage(data, image.affine), tmp_path / "head.mgz")
    source, out = tmp_path / "head.mgz", tmp_path / "out"
    code, _, err = run(
        *("translate", source, "--model", "brain-t1-t2", "--output", out, "--steps", "1")
    )
    assert code == 0, err
    written = nibabel.load(tmp_path / "out" / "translated.nii.gz")
    assert written.shape == data.shape
    np.testing.assert_allclose(written.affine, image.affine)


class TestFreeSurfer:
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
    def test_types(self, tmp_path: Path, dtype: str) -> None:
        nibabel.save(nibabel.MGHImage(_data(dtype), _affine()), tmp_path / "a.mgz")
        assert read_stored(tmp_path / "a.mgz").data.dtype == dtype

    def test_without_an_orientation(self, tmp_path: Path) -> None:
        image = nibabel.MGHImage(_data(), _affine())
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
        nibabel.save(kind(_data(), _affine()), tmp_path / "a.img")
        header, image = read_volume(tmp_path / "a.hdr"), read_volume(tmp_path / "a.img")
        np.testing.assert_array_equal(header.data, image.data)
        np.testing.assert_allclose(header.affine, _affine(), atol=1e-5)
        assert files_in(tmp_path) == [tmp_path / "a.img"]

    def test_names_in_capitals(self, tmp_path: Path) -> None:
        nibabel.save(nibabel.Nifti1Pair(_data(), _affine()), tmp_path / "a.img")
        (tmp_path / "a.img").rename(tmp_path / "a.IMG")
        (tmp_path / "a.hdr").rename(tmp_path / "a.Hdr")
        for name in ("a.IMG", "a.Hdr"):
            np.testing.assert_array_equal(read_volume(tmp_path / name).data, _data())
        assert files_in(tmp_path) == [tmp_path / "a.IMG"]

    @pytest.mark.parametrize("gone", [".img", ".hdr"])
    def test_one_alone(self, tmp_path: Path, gone: str) -> None:
        _write_pair(tmp_path / "a.img")
        (tmp_path / f"a{gone}").unlink()
        (left,) = files_in(tmp_path)
        refuses(FileNotFoundError, f"{left.name}: its header or data is missing", read_volume, left)

    def test_analyze_is_noted(self, tmp_path: Path) -> None:
        image = nibabel.AnalyzeImage(_data(), None)
        image.header.set_zooms((2, 1.5, 4))
        nibabel.save(image, tmp_path / "a.img")
        volume = read_stored(tmp_path / "a.img")
        np.testing.assert_array_equal(volume.data, _data())
        assert volume.kind == "analyze"
        assert "axes assumed to run LAS" in volume.notes[0]
        np.testing.assert_allclose(np.diag(volume.affine), [-2, 1.5, 4, 1])  # type: ignore[arg-type]

    @pytest.mark.parametrize("key", ["M", "mat"])
    @pytest.mark.parametrize("name", ["a.img", "a.hdr"])
    def test_a_matrix_of_spm(
        self, tmp_path: Path, key: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = nibabel.AnalyzeImage(_data(), None)
        image.header["vox_units"] = b"um"
        nibabel.save(image, tmp_path / "a.img")
        io = pytest.importorskip("scipy.io")
        io.savemat(tmp_path / "a.mat", {key: _affine()})
        volume = read_stored(tmp_path / name)
        # MATLAB counts voxels from 1; SPM's "M" is of the mirrored image.
        expected = _affine()
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
        nibabel.save(nibabel.AnalyzeImage(_data(), None), tmp_path / "a.img")
        (tmp_path / "a.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
        with pytest.raises(ValueError, match=r"a\.img: a\.mat beside it .* cannot be read"):
            read_stored(tmp_path / "a.img")

    def test_a_label_map_may_be_a_pair(self, tmp_path: Path) -> None:
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(_data(), _affine()), tmp_path / "images" / "anna.nii")
        _write_pair(tmp_path / "labels" / "anna.img")
        found = _with_label_files(tmp_path / "images", tmp_path / "labels")
        assert [(a.name, b and b.name) for a, b in found] == [("anna.nii", "anna.img")]
        _write_mgh(tmp_path / "labels" / "anna.mgz")  # which of the two?
        refuses(ValueError, "found 2", _with_label_files, tmp_path / "images", tmp_path / "labels")


class TestItk:
    @pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
    def test_vectors_and_colours_are_refused(self, tmp_path: Path, sitk: Any, name: str) -> None:
        image = sitk.GetImageFromArray(np.ones((4, 5, 6, 3), np.uint8), isVector=True)
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(TypeError, match=f"{name}: expected one number per voxel, got 3"):
            read_volume(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
    def test_one_slice_and_four_axes(self, tmp_path: Path, sitk: Any, name: str) -> None:
        image = sitk.GetImageFromArray(np.ones((4, 5), np.float32))
        image.SetSpacing((2, 3))
        image.SetOrigin((7, 8))
        sitk.WriteImage(image, str(tmp_path / name))
        volume = read_volume(tmp_path / name)
        assert volume.data.shape == (5, 4, 1)
        assert volume.affine is not None
        np.testing.assert_allclose(np.diag(volume.affine), [-2, -3, 1, 1])
        np.testing.assert_allclose(volume.affine[:3, 3], [-7, -8, 0])
        sitk.WriteImage(
            sitk.GetImageFromArray(np.ones((2, 3, 4, 5)), isVector=False), str(tmp_path / name)
        )
        refuses(ValueError, r"2D or 3D .*\(5, 4, 3, 2\)", read_volume, tmp_path / name)

    def test_nrrd_along_other_axes(self, tmp_path: Path, sitk: Any) -> None:
        _write_itk(tmp_path / "a.nrrd")
        text = (tmp_path / "a.nrrd").read_bytes()
        for space, signs in (
            ("right-anterior-superior", (1, 1)),
            ("left-anterior-superior", (-1, 1)),
        ):
            named = text.replace(b"left-posterior-superior", space.encode())
            (tmp_path / "b.nrrd").write_bytes(named)
            turned = np.diag([*signs, 1.0, 1.0]) @ TO_RAS @ _affine()
            np.testing.assert_allclose(read_volume(tmp_path / "b.nrrd").affine, turned, atol=1e-5)
        lines = text.split(b"\n")
        kept = [line for line in lines if not line.startswith((b"space", b"kinds"))]
        (tmp_path / "c.nrrd").write_bytes(b"\n".join(kept))
        assert "no orientation" in read_volume(tmp_path / "c.nrrd").notes[0]


class TestDicom:
    def test_slope_and_intercept_of_each_slice(self, tmp_path: Path, sitk: Any) -> None:
        # Of the first slice's own type, the others' fractions would be lost.
        slopes = (1.0, 0.25, 0.5, 2.0, 0.125, 1.5)
        _write_dicom(tmp_path / "a")
        for z, slope in enumerate(slopes):
            _rescale(tmp_path / "a" / f"{50 - z}.dcm", slope, -7)
        np.testing.assert_allclose(read_volume(tmp_path / "a").data, _data() * slopes - 7.0)

    def test_as_simpleitk_places_them(self, tmp_path: Path, sitk: Any) -> None:
        _write_dicom(tmp_path / "a")
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "a")))
        image = reader.Execute()
        volume = read_volume(tmp_path / "a")
        np.testing.assert_array_equal(volume.data, sitk.GetArrayFromImage(image).T)
        corner = [n - 1 for n in SHAPE]
        theirs = TO_RAS[:3, :3] @ image.TransformIndexToPhysicalPoint(corner)
        assert volume.affine is not None
        np.testing.assert_allclose((volume.affine @ [*corner, 1])[:3], theirs, atol=1e-4)
        assert volume.notes == ("6 slices of slices of 1.2.3.4",)

    def test_other_files_and_names_without_suffix(self, tmp_path: Path, capfd: Any) -> None:
        _write_dicom(tmp_path / "a", names="IM{:02d}.dcm")
        for file in list((tmp_path / "a").iterdir()):
            file.rename(file.with_suffix(""))
        (tmp_path / "a" / "readme.txt").write_text("not an image")
        (tmp_path / "a" / ".hidden").write_text("nor this")
        (tmp_path / "a" / "folder").mkdir()
        np.testing.assert_array_equal(read_volume(tmp_path / "a").data, _data())
        assert capfd.readouterr().err == ""

    def test_one_slice(self, tmp_path: Path) -> None:
        lps = TO_RAS @ _affine()
        volume = read_volume(_write_dicom(tmp_path / "a", positions=[lps[:3, 3]]))
        assert volume.data.shape == (20, 22, 1)
        np.testing.assert_array_equal(volume.data[..., 0], _data()[..., 0])

    def test_a_tilted_gantry_is_sheared(self, tmp_path: Path) -> None:
        lps = TO_RAS @ _affine()
        step = lps[:3, 2] + 0.5 * lps[:3, 1]
        positions = [lps[:3, 3] + z * step for z in range(6)]
        volume = read_volume(_write_dicom(tmp_path / "a", positions=positions))
        assert volume.affine is not None
        np.testing.assert_allclose(volume.affine[:3, 2], (TO_RAS[:3, :3] @ step), atol=1e-5)
        assert "sheared" in volume.notes[1]

    def test_low_values_bright(self, tmp_path: Path) -> None:
        for file in list(_write_dicom(tmp_path / "a").iterdir()):
            data = file.read_bytes()
            assert b"MONOCHROME2" in data
            file.write_bytes(data.replace(b"MONOCHROME2", b"MONOCHROME1"))
        with pytest.raises(ValueError, match=r"a: expected MONOCHROME2 slices, got MONOCHROME1"):
            read_volume(tmp_path / "a")

    @pytest.mark.parametrize(
        ("at", "message"),
        [
            ([0, 1, 2, 4, 5, 6], r"not evenly spaced: .*is a slice missing"),
            ([0, 1, 1, 2, 3, 4], "two of its slices lie at one position"),
            ([0, 1, 2, 3.2, 4, 5], r"not evenly spaced: 47\.dcm lies 0\.2 of"),
        ],
    )
    def test_slices_out_of_place(self, tmp_path: Path, at: list[float], message: str) -> None:
        lps = TO_RAS @ _affine()
        _write_dicom(tmp_path / "a", positions=[lps[:3, 3] + z * lps[:3, 2] for z in at])
        refuses(ValueError, rf"a: .*{message}", read_volume, tmp_path / "a")

    def test_several_series_are_listed(self, tmp_path: Path) -> None:
        _write_dicom(tmp_path / "a", names="a{:02d}.dcm")
        _write_dicom(tmp_path / "a", names="b{:02d}.dcm", series="1.2.3.5")
        with pytest.raises(ValueError, match="expected one DICOM series, got 2") as caught:
            read_volume(tmp_path / "a")
        for series in ("1.2.3.4", "1.2.3.5"):
            assert f"slices of {series}, 6 files, {series}" in str(caught.value)

    def test_a_folder_without_dicom(self, tmp_path: Path) -> None:
        (tmp_path / "x.txt").write_text("hello")
        with pytest.raises(ValueError, match="expected a file or a DICOM series, got a folder"):
            read_volume(tmp_path)
        (tmp_path / "x.dcm").write_text("hello")
        refuses(ValueError, "no DICOM file in it can be read", read_volume, tmp_path)

    @pytest.mark.parametrize(
        ("tag", "name"),
        [
            ((0x20, 0x32), "ImagePositionPatient"),
            ((0x20, 0x37), "ImageOrientationPatient"),
            ((0x28, 0x30), "PixelSpacing"),
        ],
    )
    def test_without_a_place(self, tmp_path: Path, tag: tuple[int, int], name: str) -> None:
        for file in list(_write_dicom(tmp_path / "a").iterdir()):
            data = file.read_bytes()
            mark, other = struct.pack("<HH", *tag), struct.pack("<HH", tag[0], tag[1] + 1)
            assert data.count(mark) == 1
            file.write_bytes(data.replace(mark, other))
        refuses(ValueError, rf"a: expected \d numbers of {name}", read_volume, tmp_path / "a")

    def test_colours(self, tmp_path: Path, sitk: Any) -> None:
        image = sitk.GetImageFromArray(np.ones((1, 20, 22, 3), np.uint8), isVector=True)
        image.SetMetaData("0008|0060", "MR")
        (tmp_path / "a").mkdir()
        sitk.WriteImage(image, str(tmp_path / "a" / "x.dcm"))
        with pytest.raises(TypeError, match=r"a: expected grey slices, got colours in x\.dcm"):
            read_volume(tmp_path / "a")

    @pytest.mark.parametrize("z", [0, 3, 5])
    @pytest.mark.parametrize("length", [0, 140, 300])
    def test_a_slice_that_is_damaged_is_named(self, tmp_path: Path, z: int, length: int) -> None:
        path = _write_dicom(tmp_path / "a") / f"{50 - z}.dcm"
        path.write_bytes(path.read_bytes()[:length])
        refuses(ValueError, rf"a: .*{path.name}", read_volume, tmp_path / "a")

    def test_a_dicomdir_is_no_slice(self, tmp_path: Path) -> None:
        _write_dicom(tmp_path / "a")
        (tmp_path / "a" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
        np.testing.assert_array_equal(read_volume(tmp_path / "a").data, _data())
        (tmp_path / "a" / "DICOMDIR").rename(tmp_path / "a" / "IM000")
        with pytest.raises(ValueError, match=r"a: 1 of its DICOM files cannot be read .*: IM000"):
            read_volume(tmp_path / "a")

    @pytest.mark.parametrize("syntax", ["", ".1", ".2"])
    def test_too_few_pixels(self, tmp_path: Path, sitk: Any, syntax: str) -> None:
        folder, path = tmp_path / "a", tmp_path / "a" / "x.dcm"
        folder.mkdir()
        pixels = _data(">i2" if syntax == ".2" else "<i2")[..., 0].T.tobytes()
        _dicom_by_hand(path, "1.2.840.10008.1.2" + syntax, pixels)
        np.testing.assert_array_equal(read_volume(folder).data[..., 0], _data()[..., 0])
        whole = path.read_bytes()
        for length in (0, 2, 100, 878):
            _dicom_by_hand(path, "1.2.840.10008.1.2" + syntax, pixels[:length])
            refuses(ValueError, r"a: .*x\.dcm", read_volume, folder)
            path.write_bytes(whole[: length - 880])
            refuses(ValueError, r"a: (no DICOM file|x\.dcm is cut short)", read_volume, folder)
        # An element behind the pixels makes up for the length of the file.
        _dicom_by_hand(path, "1.2.840.10008.1.2" + syntax, pixels[:878])
        order, kind = (">" if syntax == ".2" else "<"), b"OB\0\0" if syntax else b""
        behind = struct.pack(order + "HH", 0xFFFC, 0xFFFC) + kind + struct.pack(order + "I", 60)
        path.write_bytes(path.read_bytes() + behind + bytes(60))
        refuses(ValueError, r"x\.dcm is cut short .* 880 bytes .* got 878", read_volume, folder)

    def test_a_slice_cut_short(self, tmp_path: Path) -> None:
        _write_dicom(tmp_path / "a")
        path = tmp_path / "a" / "48.dcm"
        path.write_bytes(path.read_bytes()[:-300])
        refuses(ValueError, f"{tmp_path / 'a'}: ", read_volume, tmp_path / "a")


def test_kinds_without_spacing_are_pictures(tmp_path: Path, model_file: Path) -> None:
    np.save(tmp_path / "a.npy", _data().transpose(2, 0, 1))
    result = translate_volume(Translator.load(model_file), read_volume(tmp_path / "a.npy"))
    write_results(result, tmp_path, model_file=model_file)
    assert not read_results(tmp_path).is_one_body
    assert isinstance(result.volume, Volume)
