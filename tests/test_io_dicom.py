"""Series of DICOM: where their slices lie, what they hold, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import SHAPE, TO_RAS, oblique, sitk, voxels, write_dicom
from refusal import refuses

from plasticine.io import read_volume


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


def test_slope_and_intercept_of_each_slice(tmp_path: Path) -> None:
    # Of the first slice's own type, the others' fractions would be lost.
    slopes = (1.0, 0.25, 0.5, 2.0, 0.125, 1.5)
    write_dicom(tmp_path / "a")
    for z, slope in enumerate(slopes):
        _rescale(tmp_path / "a" / f"{50 - z}.dcm", slope, -7)
    np.testing.assert_allclose(read_volume(tmp_path / "a").data, voxels() * slopes - 7.0)


def test_as_simpleitk_places_them(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a")
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


def test_other_files_and_names_without_suffix(tmp_path: Path, capfd: Any) -> None:
    write_dicom(tmp_path / "a", names="IM{:02d}.dcm")
    for file in list((tmp_path / "a").iterdir()):
        file.rename(file.with_suffix(""))
    (tmp_path / "a" / "readme.txt").write_text("not an image")
    (tmp_path / "a" / ".hidden").write_text("nor this")
    (tmp_path / "a" / "folder").mkdir()
    np.testing.assert_array_equal(read_volume(tmp_path / "a").data, voxels())
    assert capfd.readouterr().err == ""


def test_one_slice(tmp_path: Path) -> None:
    lps = TO_RAS @ oblique()
    volume = read_volume(write_dicom(tmp_path / "a", positions=[lps[:3, 3]]))
    assert volume.data.shape == (20, 22, 1)
    np.testing.assert_array_equal(volume.data[..., 0], voxels()[..., 0])


def test_a_tilted_gantry_is_sheared(tmp_path: Path) -> None:
    lps = TO_RAS @ oblique()
    step = lps[:3, 2] + 0.5 * lps[:3, 1]
    positions = [lps[:3, 3] + z * step for z in range(6)]
    volume = read_volume(write_dicom(tmp_path / "a", positions=positions))
    assert volume.affine is not None
    np.testing.assert_allclose(volume.affine[:3, 2], (TO_RAS[:3, :3] @ step), atol=1e-5)
    assert "sheared" in volume.notes[1]


def test_low_values_bright(tmp_path: Path) -> None:
    for file in list(write_dicom(tmp_path / "a").iterdir()):
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
def test_slices_out_of_place(tmp_path: Path, at: list[float], message: str) -> None:
    lps = TO_RAS @ oblique()
    write_dicom(tmp_path / "a", positions=[lps[:3, 3] + z * lps[:3, 2] for z in at])
    refuses(ValueError, rf"a: .*{message}", read_volume, tmp_path / "a")


def test_several_series_are_listed(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a", names="a{:02d}.dcm")
    write_dicom(tmp_path / "a", names="b{:02d}.dcm", series="1.2.3.5")
    with pytest.raises(ValueError, match="expected one DICOM series, got 2") as caught:
        read_volume(tmp_path / "a")
    for series in ("1.2.3.4", "1.2.3.5"):
        assert f"slices of {series}, 6 files, {series}" in str(caught.value)


def test_a_folder_without_dicom(tmp_path: Path) -> None:
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
def test_without_a_place(tmp_path: Path, tag: tuple[int, int], name: str) -> None:
    for file in list(write_dicom(tmp_path / "a").iterdir()):
        data = file.read_bytes()
        mark, other = struct.pack("<HH", *tag), struct.pack("<HH", tag[0], tag[1] + 1)
        assert data.count(mark) == 1
        file.write_bytes(data.replace(mark, other))
    refuses(ValueError, rf"a: expected \d numbers of {name}", read_volume, tmp_path / "a")


def test_colours(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.ones((1, 20, 22, 3), np.uint8), isVector=True)
    image.SetMetaData("0008|0060", "MR")
    (tmp_path / "a").mkdir()
    sitk.WriteImage(image, str(tmp_path / "a" / "x.dcm"))
    with pytest.raises(TypeError, match=r"a: expected grey slices, got colours in x\.dcm"):
        read_volume(tmp_path / "a")


@pytest.mark.parametrize("z", [0, 3, 5])
@pytest.mark.parametrize("length", [0, 140, 300])
def test_a_slice_that_is_damaged_is_named(tmp_path: Path, z: int, length: int) -> None:
    path = write_dicom(tmp_path / "a") / f"{50 - z}.dcm"
    path.write_bytes(path.read_bytes()[:length])
    refuses(ValueError, rf"a: .*{path.name}", read_volume, tmp_path / "a")


def test_a_dicomdir_is_no_slice(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a")
    (tmp_path / "a" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    np.testing.assert_array_equal(read_volume(tmp_path / "a").data, voxels())
    (tmp_path / "a" / "DICOMDIR").rename(tmp_path / "a" / "IM000")
    with pytest.raises(ValueError, match=r"a: 1 of its DICOM files cannot be read .*: IM000"):
        read_volume(tmp_path / "a")


@pytest.mark.parametrize("syntax", ["", ".1", ".2"])
def test_too_few_pixels(tmp_path: Path, syntax: str) -> None:
    folder, path = tmp_path / "a", tmp_path / "a" / "x.dcm"
    folder.mkdir()
    pixels = voxels(">i2" if syntax == ".2" else "<i2")[..., 0].T.tobytes()
    _dicom_by_hand(path, "1.2.840.10008.1.2" + syntax, pixels)
    np.testing.assert_array_equal(read_volume(folder).data[..., 0], voxels()[..., 0])
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
