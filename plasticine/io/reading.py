"""Reading an image or a stack of slices, whatever the format."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from plasticine.io.arrays import read_array
from plasticine.io.checks import check_exists, named_errors
from plasticine.io.dicom import read_dicom
from plasticine.io.itk import read_itk
from plasticine.io.nifti import partner_of, read_nifti
from plasticine.io.pictures import read_picture
from plasticine.io.volume import Volume

# What reads a file, by the end of its name.
_READERS = {
    **dict.fromkeys((".nii", ".nii.gz", ".img", ".hdr", ".mgh", ".mgz"), read_nifti),
    **dict.fromkeys((".mha", ".mhd", ".nrrd", ".nhdr"), read_itk),
    ".npy": read_array,
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"), read_picture),
}
READABLE_SUFFIXES = tuple(_READERS)


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Reads an image file or a folder of DICOM slices as float32.

    Integers are converted to float32 (`Volume.stored_dtype` keeps what they were); a file's slope
    and intercept are applied, and its unit of length converted to millimetres. A picture whose
    three colour channels agree is grey.

    Args:
        path: ``.nii``, ``.nii.gz``, ``.mgh``, ``.mgz``, ``.img`` or ``.hdr`` of a pair, ``.mha``,
            ``.mhd``, ``.nrrd``, ``.nhdr`` (2D or 3D), a folder with one DICOM series, ``.npy``
            (``(rows, columns)`` or ``(slices, rows, columns)``), or a picture (.png, .jpg, .tif,
            .bmp; several pages are a stack).

    Returns:
        The volume.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not what its name says, has another number of axes, an affine that
            cannot be inverted, is empty, or holds NaN or infinite values.
        TypeError: Its elements are complex, coloured or not numbers.
        RuntimeError: What reads the format is not installed.
    """
    return read_stored(path).as_float32()


def read_stored(path: str | os.PathLike[str]) -> Volume:
    """Reads a file as `read_volume` does, and leaves its elements in the file's own type.

    Args:
        path: The file.

    Returns:
        The volume.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not what its name says, has another number of axes, an affine that
            cannot be inverted, or is empty.
        TypeError: Its elements are coloured.
        RuntimeError: What reads the format is not installed.
    """
    path = Path(path)
    check_exists(path)
    with named_errors(path):
        volume = _reader_of(path)(path)
    if volume.data.size == 0:
        raise ValueError(f"{path}: the image is empty, shape {volume.stored_shape}")
    return volume


def _reader_of(path: Path) -> Callable[[Path], Volume]:
    if path.is_dir():
        return read_dicom
    name = path.name.lower()
    reader = next((_READERS[suffix] for suffix in _READERS if name.endswith(suffix)), None)
    if reader is None:
        known = ", ".join(READABLE_SUFFIXES)
        raise ValueError(f"{path}: cannot tell the format from the name, expected one of {known}")
    return reader


def files_in(folder: Path) -> list[Path]:
    """The image files directly inside a folder, by name.

    Args:
        folder: The folder.

    Returns:
        The paths of all files with one of `READABLE_SUFFIXES` that are not hidden; of a pair
        of .hdr and .img the latter.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    files = sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(READABLE_SUFFIXES)
        and not path.name.startswith(".")
        and not (path.suffix.lower() == ".hdr" and partner_of(path) is not None)
    )
    if not files:
        raise FileNotFoundError(f"{folder} holds no image ({', '.join(READABLE_SUFFIXES)})")
    return files
