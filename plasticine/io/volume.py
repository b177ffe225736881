"""Reading an image or a stack of slices, from NIfTI, NumPy or picture files."""

from __future__ import annotations

import dataclasses
import gzip
import os
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
from numpy.typing import NDArray

from plasticine.io.orientation import axis_directions

NIFTI_SUFFIXES = (".nii", ".nii.gz")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
READABLE_SUFFIXES = (*NIFTI_SUFFIXES, ".npy", *IMAGE_SUFFIXES)


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image as a file holds it, in the file's own axis order.

    Attributes:
        data: float32 ``(X, Y, Z)``: a NIfTI file's three axes; ``(slices, rows, columns)`` of a
            stack; ``(rows, columns, 1)`` of a single picture, so that the first indices are the
            file's own.
        affine: float64 ``(4, 4)``, voxel index to millimetres (RAS+); None where the file has
            none.
        path: Where it was read from.
        kind: "nifti", "array" (.npy) or "image".
        stored_dtype: The element type in the file.
        stored_shape: The shape in the file.
        notes: What a reader of the result should know: assumptions and conversions.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64] | None
    path: Path
    kind: Literal["nifti", "array", "image"]
    stored_dtype: str
    stored_shape: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def placed(self, orientation: str) -> Volume:
        """Gives a volume that knows no millimetres a position in space.

        Voxels are taken to be 1 mm, the first voxel lies at the origin, and slices, rows and
        columns run where ``orientation`` says; a viewer then shows it upright, and voxels and
        millimetres are the same number.

        Args:
            orientation: Axis codes of (slice, row, column), as "SPR".

        Returns:
            The volume with an affine; itself where it has one already.
        """
        if self.affine is not None:
            return self
        slice_axis, row_axis, column_axis = axis_directions(orientation)
        single = len(self.stored_shape) == 2
        columns = (
            (row_axis, column_axis, slice_axis) if single else (slice_axis, row_axis, column_axis)
        )
        affine = np.eye(4)
        affine[:3, :3] = np.stack(columns, axis=1)
        note = f"no spacing in a {self.kind} file: outputs have 1 mm voxels, axes {orientation}"
        return dataclasses.replace(self, affine=affine, notes=(*self.notes, note))


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Reads a NIfTI, .npy or picture file as float32.

    Integers are converted to float32 (`Volume.stored_dtype` keeps what they were); a NIfTI
    file's slope and intercept are applied. A picture whose three colour channels agree is grey.

    Args:
        path: ``.nii``, ``.nii.gz`` (2D or 3D), ``.npy`` (``(rows, columns)`` or
            ``(slices, rows, columns)``), or a picture (.png, .jpg, .tif, .bmp; several pages are
            a stack).

    Returns:
        The volume.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not what its name says, has another number of axes, is empty, or holds
            NaN or infinite values.
        TypeError: Its elements are complex, coloured or not numbers.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path}: expected a file, got a folder")
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        volume = _read_nifti(path)
    elif name.endswith(".npy"):
        volume = _read_array(path)
    elif name.endswith(IMAGE_SUFFIXES):
        volume = _read_image(path)
    else:
        known = ", ".join(READABLE_SUFFIXES)
        raise ValueError(f"{path}: cannot tell the format from the name, expected one of {known}")
    _check_values(volume)
    return volume


def files_in(folder: Path) -> list[Path]:
    """The image files directly inside a folder, by name.

    Args:
        folder: The folder.

    Returns:
        The paths of all files with one of `READABLE_SUFFIXES` that are not hidden.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    files = sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().endswith(READABLE_SUFFIXES) and not path.name.startswith(".")
    )
    if not files:
        raise FileNotFoundError(f"{folder} holds no image ({', '.join(READABLE_SUFFIXES)})")
    return files


def load_nifti(path: Path) -> tuple[nibabel.Nifti1Image, NDArray[Any]]:
    """Loads a NIfTI file with its data, or says what is wrong with it.

    Args:
        path: The file.

    Returns:
        The image, and its elements with slope and intercept applied.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not NIfTI, or is cut short or damaged.
        TypeError: Its elements are colours.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        image = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise ValueError(f"{path}: not a NIfTI file ({error})") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a NIfTI file, its compression is damaged") from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise ValueError(f"{path}: expected NIfTI, got {type(image).__name__}")
    if image.get_data_dtype().fields is not None:
        raise TypeError(f"{path}: expected one number per voxel, got colours (RGB)")
    try:
        with np.errstate(invalid="ignore"):
            data = np.asanyarray(image.dataobj)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise ValueError(f"{path}: the NIfTI file is cut short or damaged ({error})") from error
    return image, data


def _read_nifti(path: Path) -> Volume:
    image, data = load_nifti(path)
    stored_shape = tuple(int(n) for n in data.shape)
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim not in (2, 3):
        raise ValueError(f"{path}: expected a 2D or 3D image, got shape {stored_shape}")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"{path}: its affine cannot be inverted: {affine.tolist()}")
    values, notes = _as_float32(data.reshape(data.shape + (1,) * (3 - data.ndim)), path)
    return Volume(
        data=values,
        affine=affine,
        path=path,
        kind="nifti",
        stored_dtype=str(image.get_data_dtype()),
        stored_shape=stored_shape,
        notes=(*notes, *_placement_notes(image, affine)),
    )


def _placement_notes(image: nibabel.Nifti1Image, affine: NDArray[np.float64]) -> list[str]:
    """Where other software may place the file elsewhere than we do."""
    notes = []
    qform, sform = (image.header.get_qform(coded=True)[0], image.header.get_sform(coded=True)[0])
    if qform is None and sform is None:
        axes = "".join(nibabel.aff2axcodes(affine))
        notes.append(f"the NIfTI header gives no orientation: axes assumed to run {axes}")
    elif qform is not None and sform is not None and np.abs(qform - sform).max() > 0.01:
        notes.append("the NIfTI header's qform and sform differ: the sform was followed")
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:
        notes.append("the NIfTI affine is sheared, which ITK cannot represent")
    return notes


def _read_array(path: Path) -> Volume:
    try:
        data = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a .npy file of numbers ({error})") from error
    if not isinstance(data, np.ndarray):
        raise ValueError(f"{path}: expected one array, got an archive of several")
    return _from_array(data, path, "array")


def _read_image(path: Path) -> Volume:
    from PIL import Image, ImageSequence, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # over 89 megapixels
            with Image.open(path) as picture:
                pages = [_grey(page, path) for page in ImageSequence.Iterator(picture)]
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: the picture is too large ({error})") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: the picture is cut short or damaged ({error})") from error
    if any(page.shape != pages[0].shape for page in pages):
        raise ValueError(f"{path}: its pages differ in shape: {[page.shape for page in pages]}")
    return _from_array(np.stack(pages) if len(pages) > 1 else pages[0], path, "image")


def _grey(page: Any, path: Path) -> NDArray[Any]:
    """One page as (rows, columns); colours only where they are shades of grey."""
    if page.mode == "P":
        page = page.convert("RGBA" if "transparency" in page.info else "RGB")
    values = np.asarray(page)
    if page.mode in ("LA", "RGBA"):
        if (values[..., -1] != 255).any():
            raise ValueError(f"{path}: expected a grey picture, got transparent parts")
        values = values[..., :-1]
    elif page.mode not in ("1", "L", "I", "I;16", "I;16B", "I;16L", "F", "RGB"):
        raise TypeError(f"{path}: expected a grey picture, got colour mode {page.mode}")
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise TypeError(f"{path}: expected a grey picture, got {page.mode} colours")
        values = values[..., 0]
    return values


def _from_array(data: NDArray[Any], path: Path, kind: Literal["array", "image"]) -> Volume:
    if data.ndim not in (2, 3):
        raise ValueError(
            f"{path}: expected (rows, columns) or (slices, rows, columns), got shape {data.shape}"
        )
    values, notes = _as_float32(data[..., None] if data.ndim == 2 else data, path)
    return Volume(
        data=values,
        affine=None,
        path=path,
        kind=kind,
        stored_dtype=str(data.dtype),
        stored_shape=tuple(data.shape),
        notes=notes,
    )


def _as_float32(data: NDArray[Any], path: Path) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """The values as float32, and a note where whole numbers did not fit."""
    if data.dtype.kind not in "biuf":
        raise TypeError(f"{path}: expected real numbers, got {data.dtype}")
    # A value beyond float32 becomes infinite, which _check_values then refuses by name.
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(data, dtype=np.float32)
    if data.dtype.kind in "iu" and data.dtype.itemsize > 2 and (values != data).any():
        return values, (f"some {data.dtype} values were rounded to float32",)
    return values, ()


def _check_values(volume: Volume) -> None:
    if volume.data.size == 0:
        raise ValueError(f"{volume.path}: the image is empty, shape {volume.stored_shape}")
    bad = ~np.isfinite(volume.data)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{volume.path}: {int(bad.sum())} of {bad.size} voxels are NaN or infinite "
            f"(in float32), the first at {first}"
        )
