"""What SimpleITK reads: MetaImage and NRRD files, and folders of DICOM slices."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import SAME_PLACE, check_affine, check_claim
from plasticine.io.nifti import shear_notes
from plasticine.io.volume import Volume

# World axes of ITK and DICOM (LPS+) to those of NIfTI (RAS+).
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
# How headers write a unit of length, and how many millimetres it is.
_UNITS = {
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "centimeters", "centimetres"), 10.0),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters", "millimetres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers", "nanometres"), 1e-6),
}
_LONGEST_HEADER = 1 << 20  # bytes of a text header; NRRD's may list one file a slice
_ANATOMICAL = {
    "right-anterior-superior",
    "left-anterior-superior",
    "left-posterior-superior",
    "ras",
    "las",
    "lps",
}


def _simpleitk(path: Path) -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise RuntimeError(
            f"{path}: reading it needs SimpleITK, which is not installed: "
            "pip install 'plasticine[formats]'"
        ) from error
    return SimpleITK


def read_itk(path: Path) -> Volume:
    """Reads a MetaImage or NRRD image of two or three axes, in its own element type.

    Raises:
        ValueError: It is not what its name says, is damaged, or has another number of axes.
        TypeError: It has several numbers per voxel.
        RuntimeError: SimpleITK is not installed.
    """
    sitk = _simpleitk(path)
    fields, header_size = _text_header(path)
    reader = sitk.ImageFileReader()
    is_nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    reader.SetImageIO("NrrdImageIO" if is_nrrd else "MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    stored_shape = tuple(reader.GetSize())
    shape = stored_shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if reader.GetNumberOfComponents() != 1:
        raise TypeError(
            f"{path}: expected one number per voxel, got {reader.GetNumberOfComponents()}"
        )
    if len(shape) not in (2, 3):
        raise ValueError(f"{path}: expected a 2D or 3D image, got shape {stored_shape}")
    affine = _affine(reader)
    factor, notes = _unit(path, fields)
    affine[:3] *= factor
    check_affine(path, affine)
    dtype = _dtype(sitk, reader)
    _check_size(path, fields, header_size, math.prod(shape) * dtype.itemsize)
    data = sitk.GetArrayFromImage(reader.Execute()).T
    if is_nrrd and fields.get("space", "").lower() not in _ANATOMICAL:
        notes.append("the NRRD header gives no orientation: its axes were taken to be LPS")
    return Volume(
        data=data.reshape(shape + (1,) * (3 - len(shape))),
        affine=affine,
        path=path,
        kind="itk",
        stored_dtype=str(data.dtype),
        stored_shape=stored_shape,
        notes=(*notes, *shear_notes(affine)),
    )


def _dtype(sitk: Any, reader: Any) -> np.dtype[Any]:
    """The element type that a file will be read in."""
    one = sitk.Image([1] * len(reader.GetSize()), reader.GetPixelID())
    dtype: np.dtype[Any] = sitk.GetArrayViewFromImage(one).dtype
    return dtype


def _affine(image: Any) -> NDArray[np.float64]:
    """The first three axes of an ITK image or its header, voxel index to RAS+."""
    axes = len(image.GetSpacing())
    kept = min(axes, 3)
    directions, origin, spacing = np.eye(3), np.zeros(3), np.ones(3)
    directions[:kept, :kept] = np.reshape(image.GetDirection(), (axes, axes))[:kept, :kept]
    origin[:kept] = image.GetOrigin()[:kept]
    spacing[:kept] = image.GetSpacing()[:kept]
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS[:, None] * directions * spacing
    affine[:3, 3] = _LPS_TO_RAS * origin
    return affine


def _text_header(path: Path) -> tuple[dict[str, str], int]:
    """A text header's fields, by name in lower case, and how many bytes it takes.

    What SimpleITK does not tell: the unit of length, the file of the data, its encoding.
    """
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
    is_nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    fields: dict[str, str] = {}
    size = 0
    for line in start.splitlines(keepends=True):
        size += len(line)
        if is_nrrd and not line.strip():  # the data follow
            break
        name, separator, value = line.decode("utf-8", "replace").partition(":" if is_nrrd else "=")
        if separator and not value.startswith("="):  # := is a note of the user's own
            fields[name.strip().lower()] = value.strip()
        if name.strip() == "ElementDataFile":  # likewise
            break
    if not (start.startswith(b"NRRD0") if is_nrrd else "ndims" in fields):
        raise ValueError(f"{path}: not a {'NRRD' if is_nrrd else 'MetaImage'} file")
    return fields, size


def _unit(path: Path, fields: dict[str, str]) -> tuple[float, list[str]]:
    """How many millimetres the header's unit of length is, and what to note of it."""
    text = fields.get("distanceunits") or fields.get("space units") or fields.get("units") or ""
    names = {name.lower() for name in text.replace('"', " ").split()} - {"?"}
    if not names:
        return 1.0, []
    if len(names) > 1:
        raise ValueError(f"{path}: expected one unit of length for all axes, got {text}")
    (name,) = names
    if name not in _UNITS:
        return 1.0, [f"the header's unit of length, {name}, is not known: millimetres assumed"]
    factor = _UNITS[name]
    return factor, [] if factor == 1 else [f"lengths were converted from {name} to millimetres"]


def _check_size(path: Path, fields: dict[str, str], header_size: int, claimed: int) -> None:
    """Compares the bytes of the elements with the file or the files that hold them."""
    keys = ("elementdatafile", "data file", "datafile")
    name = next((fields[key] for key in keys if key in fields), "LOCAL")
    raw = (
        fields.get("encoding", "raw").lower() == "raw"
        and fields.get("compresseddata", "False").lower() != "true"
        and fields.get("binarydata", "True").lower() != "false"
    )
    if name.upper() == "LOCAL":
        files, claimed = [path], claimed + header_size
    elif (path.parent / name).is_file():
        files = [path.parent / name]
    else:  # a list or a pattern of files beside it
        files = [file for file in path.parent.iterdir() if file.is_file()]
    held = sum(file.stat().st_size for file in files)
    # Text takes at least two bytes a number, well within what a gzip may hold.
    check_claim(path, claimed, held, compressed=not raw)


def is_dicom(path: Path) -> bool:
    """Whether a file is of the DICOM format, by its mark or its name."""
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


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
        ValueError: The folder holds no series or several, a slice is missing, damaged or lies
            elsewhere than between its neighbours, or a file says no position or holds several
            slices.
        TypeError: The slices are coloured.
        RuntimeError: SimpleITK is not installed.
    """
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    if not any(is_dicom(file) for file in files):
        raise ValueError(f"{folder}: expected a file or a DICOM series, got a folder without one")
    sitk = _simpleitk(folder)
    with _silent(sitk):
        slices = _series(sitk, folder)
        try:
            slices, affine = _arrange(slices)
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
    found = {
        series: [
            Path(name)
            for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series)
        ]
        for series in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
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
    reader.SetFileName(str(file))
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
    affine[:3, :3] = _LPS_TO_RAS[:, None] * columns
    affine[:3, 3] = _LPS_TO_RAS * positions[0]
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


def _pixels(sitk: Any, folder: Path, one: _Slice) -> NDArray[Any]:
    """A slice's values, (rows, columns), rescaled."""
    if one.reader.GetNumberOfComponents() != 1:
        raise TypeError(f"{folder}: expected grey slices, got colours in {one.file.name}")
    photometric = one.tag("0028|0004").upper()
    if photometric != "MONOCHROME2":
        # Low values are bright: SimpleITK would give other numbers than the file's.
        raise ValueError(f"{folder}: expected MONOCHROME2 slices, got {photometric}")
    claimed = math.prod(one.reader.GetSize()) * _dtype(sitk, one.reader).itemsize
    # Its own size does not tell: slices may be compressed, and stored narrower than rescaled.
    check_claim(folder, claimed, one.file.stat().st_size, compressed=True)
    values: NDArray[Any] = sitk.GetArrayFromImage(one.reader.Execute())
    return values.reshape(values.shape[-2:])
