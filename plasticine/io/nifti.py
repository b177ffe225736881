"""NIfTI files: reading and writing images and displacement fields."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from plasticine.io.volume import Volume

# NIFTI_INTENT_VECTOR: what ITK, ANTs and Elastix write and read displacement fields with.
INTENT_VECTOR = 1007
# World axes of NIfTI (RAS+) to those of ITK and DICOM (LPS+).
_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


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


def read_nifti(path: Path) -> Volume:
    """Reads a NIfTI image of two or three axes, in its own element type.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not NIfTI, is damaged, or has another number of axes.
        TypeError: Its elements are colours.
    """
    image, data = load_nifti(path)
    stored_shape = tuple(int(n) for n in data.shape)
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim not in (2, 3):
        raise ValueError(f"{path}: expected a 2D or 3D image, got shape {stored_shape}")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"{path}: its affine cannot be inverted: {affine.tolist()}")
    return Volume(
        data=data.reshape(data.shape + (1,) * (3 - data.ndim)),
        affine=affine,
        path=path,
        kind="nifti",
        stored_dtype=str(image.get_data_dtype()),
        stored_shape=stored_shape,
        notes=tuple(_placement_notes(image, affine)),
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
        ValueError: The data have another number of axes.
        OSError: The file cannot be written.
    """
    if data.ndim != 3:
        raise ValueError(f"data: expected (X, Y, Z), got shape {data.shape}")
    _save(Path(path), data, affine, description, vectors=False)


def write_displacement(
    path: str | os.PathLike[str],
    displacement: NDArray[np.float32],
    affine: NDArray[np.float64],
    *,
    description: str = "",
) -> None:
    """Writes a displacement field as ITK reads one.

    Five-dimensional ``(X, Y, Z, 1, 3)``, intent 1007 (vector), millimetres along LPS+ axes:
    a point x of the target is mapped to x + field(x) in the source, as
    ``SimpleITK.DisplacementFieldTransform`` does.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        displacement: ``(3, X, Y, Z)``, voxels, component i along axis i.
        affine: ``(4, 4)``, voxel index to millimetres (RAS+); oblique and anisotropic ones are
            what the vectors are turned and scaled by.
        description: At most 79 ASCII characters for the header.

    Raises:
        ValueError: The field has another number of axes or components.
        OSError: The file cannot be written.
    """
    if displacement.ndim != 4 or displacement.shape[0] != 3:
        raise ValueError(
            f"displacement: expected 3 components (3, X, Y, Z), got shape {displacement.shape}"
        )
    to_lps = _RAS_TO_LPS[:, None] * affine[:3, :3]
    field = np.einsum("ij,jxyz->xyzi", to_lps, displacement.astype(np.float64))
    _save(Path(path), field[:, :, :, None, :], affine, description, vectors=True)


def read_displacement(
    path: str | os.PathLike[str],
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Reads a displacement field that `write_displacement`, ITK or ANTs wrote.

    Args:
        path: ``.nii`` or ``.nii.gz``, ``(X, Y, Z, 1, 3)``, intent 1007, millimetres, LPS+.

    Returns:
        The displacement ``(3, X, Y, Z)`` in voxels, component i along axis i, and the affine
        ``(4, 4)`` (RAS+).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not NIfTI, not a vector field of three components, or not finite.
    """
    path = Path(path)
    image, data = load_nifti(path)
    if data.ndim != 5 or data.shape[3:] != (1, 3):
        raise ValueError(
            f"{path}: expected a displacement field (X, Y, Z, 1, 3), got shape {data.shape}"
        )
    intent = int(image.header["intent_code"])
    if intent != INTENT_VECTOR:
        raise ValueError(
            f"{path}: expected intent {INTENT_VECTOR} (vector), got {intent}; other intents hold "
            f"other conventions"
        )
    field = np.asarray(data[:, :, :, 0, :], dtype=np.float64)
    if not np.isfinite(field).all():
        raise ValueError(f"{path}: the displacement holds NaN or infinite values")
    affine = np.asarray(image.affine, dtype=np.float64)
    to_voxels = np.linalg.inv(_RAS_TO_LPS[:, None] * affine[:3, :3])
    return np.einsum("ij,xyzj->ixyz", to_voxels, field).astype(np.float32), affine


def _save(
    path: Path,
    data: NDArray[np.floating],
    affine: NDArray[np.float64],
    description: str,
    *,
    vectors: bool,
) -> None:
    image = nibabel.Nifti1Image(data.astype(np.float32), affine)
    # Both forms, so that readers that prefer either one agree; 2 = aligned to another scan.
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=2)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    if vectors:
        image.header["intent_code"] = INTENT_VECTOR
    nibabel.save(image, path)
