"""Folders of DICOM slices, as SimpleITK reads them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import SAME_PLACE, check_affine, check_claim
from plasticine.io.itk import LPS_TO_RAS, dtype_of, itk_name, simpleitk
from plasticine.io.nifti import shear_notes
from plasticine.io.volume import Volume

# The transfer syntaxes whose pixels are stored as they are, and their byte order.
_NATIVE: dict[str, Literal["little", "big"]] = {
    "1.2.840.10008.1.2": "little",  # its value representations are implicit
    "1.2.840.10008.1.2.1": "little",
    "1.2.840.10008.1.2.2": "big",
}
_LONGEST_META = 4096  # bytes of a file's first elements, which name its transfer syntax


def is_dicom(path: Path) -> bool:
    """Whether a file is of the DICOM format, by its mark or its name."""
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _is_left_out(path: Path) -> bool:
    """Whether a file that is in no series may be one of its slices, damaged."""
    return path.name.upper() != "DICOMDIR" and is_dicom(path)


@dataclasses.dataclass(frozen=True)
class _Slice:
    """One DICOM file of a series, before its pixels are read."""

    file: Path
    reader: Any

    def tag(self, key: str) -> str:
        return self.reader.GetMetaData(key).strip() if self.reader.HasMetaDataKey(key) else ""

    def numbers(self, key: str, count: int, name: str) -> NDArray[np.float64]:
        parts = self.tag(key).split("\\")
        try:
            values = np.array([float(part) for part in parts])
        except ValueError:
            values = np.zeros(0)
        if len(values) != count or not np.isfinite(values).all():
            raise ValueError(
                f"expected {count} numbers of {name} ({key.replace('|', ',')}) in "
                f"{self.file.name}, got {self.tag(key)!r}"
            )
        return values

    @property
    def position(self) -> NDArray[np.float64]:
        return self.numbers("0020|0032", 3, "ImagePositionPatient")

    @property
    def orientation(self) -> NDArray[np.float64]:
        return self.numbers("0020|0037", 6, "ImageOrientationPatient")

    @property
    def spacing(self) -> NDArray[np.float64]:
        return self.numbers("0028|0030", 2, "PixelSpacing")


def read_dicom(folder: Path) -> Volume:
    """Reads a folder that holds one DICOM series of slices.

    Rescale slope and intercept are applied to each slice. The axes are the files' columns, rows
    and slices, each slice where its header puts it, so that a tilted gantry gives a sheared affine.

    Raises:
        ValueError: The folder holds no series or several, or a DICOM file (other than a DICOMDIR)
            that is in none; a slice is missing between others, is damaged, holds fewer pixels than
            it says or lies elsewhere than between its neighbours; or a file says no position or
            holds several slices; or a name is not UTF-8.
        TypeError: The slices are coloured.
        RuntimeError: SimpleITK is not installed.
    """
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    if not any(is_dicom(file) for file in files):
        raise ValueError(f"{folder}: expected a file or a DICOM series, got a folder without one")
    sitk = simpleitk(folder)
    with _silent(sitk):
        slices = _series(sitk, folder)
        read = {one.file.name for one in slices}
        left = [p.name for p in files if p.name not in read and _is_left_out(p)]
        if left:
            raise ValueError(
                f"{folder}: {len(left)} of its DICOM files cannot be read as a slice of the series "
                f"and may be damaged: {', '.join(left[:5])}{', ...' * (len(left) > 5)}"
            )
        try:
            slices, affine = _arrange(slices)
            for one in slices:
                _check_length(one)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        check_affine(folder, affine)
        pixels = [_pixels(sitk, folder, one) for one in slices]
    # (rows, columns) each; the file's axes are (columns, rows, slices).
    data = np.stack([values.T for values in pixels], axis=-1)
    notes = (f"{len(slices)} slices of {_name(slices[0])}", *shear_notes(affine))
    return Volume(
        data=data,
        affine=affine,
        path=folder,
        kind="dicom",
        stored_dtype=str(data.dtype),
        stored_shape=tuple(data.shape),
        notes=notes,
    )


@contextlib.contextmanager
def _silent(sitk: Any) -> Iterator[None]:
    """Keeps ITK from writing warnings about other files of a folder to stderr."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _series(sitk: Any, folder: Path) -> list[_Slice]:
    """The headers of the one series in a folder."""
    name = itk_name(folder, folder)
    found = {
        series: [Path(file) for file in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(name, series)]
        for series in sitk.ImageSeriesReader.GetGDCMSeriesIDs(name)
    }
    if not found:
        raise ValueError(f"{folder}: no DICOM file in it can be read as an image")
    if len(found) > 1:
        listed = "; ".join(
            f"{_name(_read_header(sitk, files[0]))}, {len(files)} files, {series}"
            for series, files in found.items()
        )
        raise ValueError(f"{folder}: expected one DICOM series, got {len(found)}: {listed}")
    (files,) = found.values()
    return [_read_header(sitk, file) for file in files]


def _read_header(sitk: Any, file: Path) -> _Slice:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(itk_name(file, file.parent))
    reader.ReadImageInformation()
    return _Slice(file, reader)


def _name(one: _Slice) -> str:
    return one.tag("0008|103e") or "a series without a description"


def _arrange(slices: Sequence[_Slice]) -> tuple[list[_Slice], NDArray[np.float64]]:
    """Slices in order of their positions, and the affine (RAS+) of (column, row, slice)."""
    first = slices[0]
    for one in slices:
        if len(one.reader.GetSize()) > 2 and math.prod(one.reader.GetSize()[2:]) != 1:
            raise ValueError(f"expected one slice a file, got a multi-frame file, {one.file.name}")
        if one.reader.GetSize()[:2] != first.reader.GetSize()[:2]:
            raise ValueError(
                f"its slices differ in size, {first.file.name}: {first.reader.GetSize()[:2]}, "
                f"{one.file.name}: {one.reader.GetSize()[:2]}"
            )
        for attribute in ("orientation", "spacing"):
            if not np.allclose(getattr(one, attribute), getattr(first, attribute), atol=1e-4):
                raise ValueError(
                    f"its slices differ in {attribute}, {first.file.name} and {one.file.name}"
                )
    # From one row to the next first, in DICOM; an index counts columns first.
    row_step, column_step = first.spacing
    along_row, along_column = first.orientation[:3], first.orientation[3:]
    normal = np.cross(along_row, along_column)
    ordered = sorted(slices, key=lambda one: float(one.position @ normal))
    positions = np.stack([one.position for one in ordered])
    step = _slice_step(ordered, positions, normal)
    affine = np.eye(4)
    columns = np.stack([along_row * column_step, along_column * row_step, step], axis=1)
    affine[:3, :3] = LPS_TO_RAS[:, None] * columns
    affine[:3, 3] = LPS_TO_RAS * positions[0]
    return ordered, affine


def _slice_step(
    ordered: Sequence[_Slice], positions: NDArray[np.float64], normal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The vector from one slice to the next, LPS+, where all are alike."""
    if len(ordered) == 1:
        return normal * float(ordered[0].reader.GetSpacing()[2])
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    distance = float(step @ normal)
    if distance <= 0 or (np.diff(positions @ normal) < 0.01 * distance).any():
        raise ValueError("two of its slices lie at one position: several times or echoes?")
    off = positions - (positions[0] + np.arange(len(positions))[:, None] * step)
    worst = int(np.linalg.norm(off, axis=1).argmax())
    share = float(np.linalg.norm(off[worst])) / distance
    if share > SAME_PLACE:
        raise ValueError(
            f"its slices are not evenly spaced: {ordered[worst].file.name} lies {share:.2g} of the "
            f"mean distance, {distance:.4g} mm, off its place; is a slice missing?"
        )
    return step


def _check_length(one: _Slice) -> None:
    """Refuses a slice that holds fewer pixels than it says: GDCM would make up the others."""
    data = one.file.read_bytes()
    order = _NATIVE.get(_transfer_syntax(data))
    if order is None:  # compressed
        return
    size = {
        name: int(one.numbers(key, 1, name)[0])
        for key, name in (
            ("0028|0010", "Rows"),
            ("0028|0011", "Columns"),
            ("0028|0002", "SamplesPerPixel"),
            ("0028|0100", "BitsAllocated"),
        )
    }
    expected = (math.prod(size.values()) + 7) // 8
    tag = b"\xe0\x7f\x10\0" if order == "little" else b"\x7f\xe0\0\x10"
    held = 0
    # An icon's element has the same tag, and any may hold its bytes: the longest counts.
    for found in re.finditer(re.escape(tag), data):
        explicit = data[found.end() : found.end() + 2] in (b"OB", b"OW")
        start = found.end() + (8 if explicit else 4)
        length = int.from_bytes(data[start - 4 : start], order)
        held = max(held, min(length, len(data) - start))
    if held < expected:
        raise ValueError(
            f"{one.file.name} is cut short or damaged: expected {expected} bytes of "
            f"{size['Rows']} × {size['Columns']} pixels, got {held}"
        )


def _transfer_syntax(data: bytes) -> str:
    """How a file's elements are stored: implicit, little endian, where it does not say."""
    start = data.find(b"\x02\0\x10\0UI", 132, _LONGEST_META) if data[128:132] == b"DICM" else -1
    if start < 0:
        return "1.2.840.10008.1.2"
    length = int.from_bytes(data[start + 6 : start + 8], "little")
    return data[start + 8 : start + 8 + length].rstrip(b"\0 ").decode("ascii", "replace")


def _pixels(sitk: Any, folder: Path, one: _Slice) -> NDArray[Any]:
    """A slice's values, (rows, columns), rescaled."""
    if one.reader.GetNumberOfComponents() != 1:
        raise TypeError(f"{folder}: expected grey slices, got colours in {one.file.name}")
    photometric = one.tag("0028|0004").upper()
    if photometric != "MONOCHROME2":
        # Low values are bright: SimpleITK would give other numbers than the file's.
        raise ValueError(f"{folder}: expected MONOCHROME2 slices, got {photometric}")
    claimed = math.prod(one.reader.GetSize()) * dtype_of(sitk, one.reader).itemsize
    # Its own size does not tell: slices may be compressed, and stored narrower than rescaled.
    check_claim(folder, claimed, one.file.stat().st_size, compressed=True)
    values: NDArray[Any] = sitk.GetArrayFromImage(one.reader.Execute())
    return values.reshape(values.shape[-2:])
