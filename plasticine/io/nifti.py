"""Writing images and displacement fields as NIfTI, and reading fields back."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from plasticine.io.volume import load_nifti

# NIFTI_INTENT_VECTOR: what ITK, ANTs and Elastix write and read displacement fields with.
INTENT_VECTOR = 1007
# World axes of NIfTI (RAS+) to those of ITK and DICOM (LPS+).
_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


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
