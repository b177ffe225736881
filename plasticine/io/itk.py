"""MetaImage and NRRD files, as SimpleITK reads them."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import check_affine, check_claim
from plasticine.io.nifti import shear_notes
from plasticine.io.volume import Volume

LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
"""World axes of ITK and DICOM (LPS+) to those of NIfTI (RAS+), and back."""

LPS = np.diag([*LPS_TO_RAS, 1.0])
"""The same as a map of points, ``(4, 4)``."""

# How headers write a unit of length, and how many millimetres it is.
_UNITS = {
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre", "centimeters", "centimetres"), 10.0),
    **dict.fromkeys(("mm", "millimeter", "millimetre", "millimeters", "millimetres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometre", "nanometers", "nanometres"), 1e-6),
}
_LONGEST_HEADER = 1 << 20  # bytes of a text header; NRRD's may list one file a slice
_CHUNK = 1 << 20
_ANATOMICAL = {
    "right-anterior-superior",
    "left-anterior-superior",
    "left-posterior-superior",
    "ras",
    "las",
    "lps",
}


def simpleitk(path: Path) -> Any:
    """The package that reads a file, where it is installed."""
    try:
        import SimpleITK
    except ImportError as error:
        raise RuntimeError(
            f"{path}: reading it needs SimpleITK, which is not installed: "
            "pip install 'plasticine[formats]'"
        ) from error
    return SimpleITK


def itk_name(path: Path, read: Path) -> str:
    """A file's or folder's name for SimpleITK.

    Args:
        path: What SimpleITK is to open.
        read: The file or folder that is read, for the message.

    Raises:
        ValueError: The name is not UTF-8: SimpleITK would end the process.
    """
    name = str(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{read}: SimpleITK opens only names in UTF-8, not {path}: rename it"
        ) from error
    return name


def read_itk(path: Path) -> Volume:
    """Reads a MetaImage or NRRD image of two or three axes, in its own element type.

    Raises:
        ValueError: It is not what its name says, is damaged, has another number of axes, or its
            path is not UTF-8.
        TypeError: It has several numbers per voxel.
        RuntimeError: SimpleITK is not installed.
    """
    sitk = simpleitk(path)
    fields, header_size = _text_header(path)
    reader = sitk.ImageFileReader()
    is_nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    reader.SetImageIO("NrrdImageIO" if is_nrrd else "MetaImageIO")
    reader.SetFileName(itk_name(path, path))
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
    dtype = dtype_of(sitk, reader)
    claimed = math.prod(shape) * dtype.itemsize
    _check_size(path, fields, header_size, claimed)
    _check_compressed(path, fields, header_size, claimed)
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


def dtype_of(sitk: Any, reader: Any) -> np.dtype[Any]:
    """The element type that a file will be read in, of a reader that knows its header."""
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
    affine[:3, :3] = LPS_TO_RAS[:, None] * directions * spacing
    affine[:3, 3] = LPS_TO_RAS * origin
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
    raw = (
        fields.get("encoding", "raw").lower() == "raw"
        and not _is_compressed(fields)
        and fields.get("binarydata", "True").lower() != "false"
    )
    data = _data_file(path, fields)
    if data == path:
        claimed += header_size
    # Else a list or a pattern of files beside it.
    files = [data] if data else [file for file in path.parent.iterdir() if file.is_file()]
    held = sum(file.stat().st_size for file in files)
    # Text takes at least two bytes a number, well within what a gzip may hold.
    check_claim(path, claimed, held, compressed=not raw)


def _data_file(path: Path, fields: dict[str, str]) -> Path | None:
    """The one file that holds the elements; None where a list or a pattern of files does."""
    keys = ("elementdatafile", "data file", "datafile")
    name = next((fields[key] for key in keys if key in fields), "LOCAL")
    if name.upper() == "LOCAL":
        return path
    return path.parent / name if (path.parent / name).is_file() else None


def _is_compressed(fields: dict[str, str]) -> bool:
    """Whether the elements are one stream of zlib or gzip."""
    marked = fields.get("compresseddata", "")[:1].lower() in ("t", "1") and "ndims" in fields
    return marked or fields.get("encoding", "").lower() in ("gz", "gzip")


def _check_compressed(path: Path, fields: dict[str, str], header_size: int, claimed: int) -> None:
    """Inflates compressed elements once, for their checksum, which ITK does not compare.

    Nothing is kept of what is inflated.
    """
    if not _is_compressed(fields):
        return
    data = _data_file(path, fields)
    # Bytes and lines to be skipped: what ITK's readers do with those is not what is checked here.
    skipped = {"headersize", "byte skip", "byteskip", "line skip", "lineskip"} & fields.keys()
    if data is None or any(fields[key] != "0" for key in skipped):
        raise ValueError(
            f"{path}: its compressed data cannot be checked, in several files or behind bytes to "
            "be skipped: save it as one file"
        )
    inflater, held = zlib.decompressobj(zlib.MAX_WBITS | 32), 0  # either header
    with data.open("rb") as file:
        file.seek(header_size if data == path else 0)
        try:
            while held <= claimed and not inflater.eof:
                part = inflater.unconsumed_tail or file.read(_CHUNK)
                inflated = inflater.decompress(part, _CHUNK)
                if not part and not inflated:
                    break
                held += len(inflated)
        except zlib.error as error:
            raise ValueError(f"{path}: the file is cut short or damaged ({error})") from error
    if not inflater.eof or held != claimed:
        raise ValueError(
            f"{path}: the file is cut short or damaged: its header claims {claimed} bytes of "
            f"elements, its compressed data {'hold' if inflater.eof else 'end at'} {held}"
        )
