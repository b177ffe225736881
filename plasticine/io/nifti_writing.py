"""Writing NIfTI."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import check_affine

_LONGEST_DESCRIPTION = 79


def write_image(
    path: str | os.PathLike[str],
    data: NDArray[np.float32],
    affine: NDArray[np.float64],
    *,
    description: str = "",
) -> None:
    """Writes a volume as float32 NIfTI.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        data: ``(X, Y, Z)``.
        affine: ``(4, 4)``, voxel index to millimetres (RAS+).
        description: At most 79 ASCII characters for the header.

    Raises:
        ValueError: The data have another number of axes, the name ends otherwise, or the affine
            is not finite or cannot be inverted.
        OSError: The file cannot be written.
    """
    if data.ndim != 3:
        raise ValueError(f"data: expected (X, Y, Z), got shape {data.shape}")
    save_nifti(Path(path), data, affine, description)


def write_labels(
    path: str | os.PathLike[str],
    labels: NDArray[np.int64],
    affine: NDArray[np.float64],
    *,
    description: str = "",
) -> None:
    """Writes a label map as NIfTI, in the narrowest of the types that every reader knows.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        labels: ``(X, Y, Z)``: uint8 in the file, or else int16, int32 or int64.
        affine: ``(4, 4)``, voxel index to millimetres (RAS+).
        description: At most 79 ASCII characters for the header.

    Raises:
        ValueError: The labels have another number of axes, the name ends otherwise, or the affine
            is not finite or cannot be inverted.
        OSError: The file cannot be written.
    """
    if labels.ndim != 3:
        raise ValueError(f"labels: expected (X, Y, Z), got shape {labels.shape}")
    least, greatest = int(labels.min(initial=0)), int(labels.max(initial=0))
    narrowest = next(
        dtype
        for dtype in (np.uint8, np.int16, np.int32, np.int64)
        if np.iinfo(dtype).min <= least and greatest <= np.iinfo(dtype).max
    )
    save_nifti(Path(path), labels, affine, description, dtype=narrowest)


def save_nifti(
    path: Path,
    data: NDArray[Any],
    affine: NDArray[np.float64],
    description: str,
    *,
    intent: int = 0,
    intent_name: str = "",
    dtype: type[np.generic] = np.float32,
    time_step: float | None = None,
) -> None:
    """Writes an array as NIfTI in millimetres.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        data: Up to five axes, the first three in space.
        affine: ``(4, 4)``, voxel index to millimetres (RAS+).
        description: What the file says of itself; the header has room for 79 ASCII characters, an
            extension for what is longer.
        intent: NIfTI's code of what the numbers are.
        intent_name: And a name for it, of at most 15 ASCII characters.
        dtype: Of the file's elements.
        time_step: Seconds from one volume of a series to the next.

    Raises:
        ValueError: The name ends otherwise, or the affine is not finite or cannot be inverted.
        OSError: The file cannot be written.
    """
    image = _image(path, data.astype(dtype, copy=False), affine, description)
    image.header.set_xyzt_units("mm", None if time_step is None else "sec")
    if time_step is not None:
        image.header["pixdim"][4] = time_step
    image.header["intent_code"] = intent
    image.header["intent_name"] = intent_name.encode("ascii")
    # nibabel.save knows .nii and .NII, but no .Nii.
    image.to_file_map({"image": nibabel.fileholders.FileHolder(os.fspath(path))})


def save_planes(
    path: Path,
    shape: tuple[int, ...],
    planes: Iterable[NDArray[np.float32]],
    affine: NDArray[np.float64],
    description: str,
    *,
    intent: int,
) -> None:
    """Writes an array as `save_nifti` does, plane by plane: it may be a gigabyte.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        shape: Up to five axes, the first three in space.
        planes: Of the first two axes, in the order in which the others run, the third fastest.
        affine: ``(4, 4)``, voxel index to millimetres (RAS+).
        description: What the file says of itself.
        intent: NIfTI's code of what the numbers are.

    Raises:
        ValueError: The name ends otherwise, or the affine is not finite or cannot be inverted.
        OSError: The file cannot be written.
    """
    image = _image(path, np.broadcast_to(np.float32(0), shape), affine, description)
    header = image.header
    header["intent_code"] = intent
    header.set_slope_inter(1, 0)
    with nibabel.openers.Opener(os.fspath(path), "wb") as file:
        header.write_to(file)
        file.write(bytes(header.get_data_offset() - file.tell()))
        for plane in planes:
            file.write(plane.astype("<f4").tobytes("F"))


def _image(
    path: Path, data: NDArray[Any], affine: NDArray[np.float64], description: str
) -> nibabel.Nifti1Image:
    """An image in millimetres; both forms of where it lies, so that all readers agree."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: expected a name that ends in .nii or .nii.gz")
    affine = check_affine(path, affine)
    image = nibabel.Nifti1Image(data, affine, dtype=data.dtype)
    # 2 = aligned to another scan.
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=2)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("ascii", "replace")[:_LONGEST_DESCRIPTION]
    if len(description) > _LONGEST_DESCRIPTION:
        comment = nibabel.nifti1.Nifti1Extension("comment", description.encode())
        image.header.extensions.append(comment)
    return image
