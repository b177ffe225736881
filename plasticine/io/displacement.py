"""Displacement fields in NIfTI files, as ITK, ANTs and FreeSurfer hold them."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import named_errors
from plasticine.io.itk import LPS_TO_RAS
from plasticine.io.nifti import placement, read_data, read_header
from plasticine.io.nifti_writing import save_planes
from plasticine.io.orientation import is_axial

Vectors = Literal["lps", "ras", "voxels"]

# NIFTI_INTENT_VECTOR: what ITK, ANTs and Elastix write and read displacement fields with.
INTENT_VECTOR = 1007
# NIFTI_INTENT_DISPVECT: FreeSurfer's, and ITK's since 5.4 (pull request 3884), along NIfTI's axes.
INTENT_DISPLACEMENT = 1006
_BY_INTENT: dict[int, Vectors] = {INTENT_DISPLACEMENT: "ras", INTENT_VECTOR: "lps"}


def write_displacement(
    path: str | os.PathLike[str],
    displacement: NDArray[np.float32],
    affine: NDArray[np.float64],
    *,
    planar: bool = False,
    description: str = "",
) -> None:
    """Writes a displacement field as ITK reads one.

    Five-dimensional ``(X, Y, Z, 1, 3)``, or ``(X, Y, 1, 1, 2)`` of a plane, intent 1007 (vector),
    millimetres along LPS+ axes: a point x of the target is mapped to x + field(x) in the source,
    as ``SimpleITK.DisplacementFieldTransform`` does.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        displacement: ``(3, X, Y, Z)``, voxels, component i along axis i.
        affine: ``(4, 4)``, voxel index to millimetres (RAS+); oblique and anisotropic ones are
            what the vectors are turned and scaled by.
        planar: Write a plane: one slice, whose first two components count.
        description: What the file says of itself; the header has room for 79 ASCII characters, an
            extension for all of it.

    Raises:
        ValueError: The field has another number of axes or components, the name ends otherwise,
            the affine is not finite or cannot be inverted, or a plane is to be written of a volume
            or of one that is not across the third axis of space.
        OSError: The file cannot be written.
    """
    if displacement.ndim != 4 or displacement.shape[0] != 3:
        raise ValueError(
            f"displacement: expected 3 components (3, X, Y, Z), got shape {displacement.shape}"
        )
    path, components = Path(path), 2 if planar else 3
    if planar:
        _check_plane(path, displacement.shape[1:], affine)
    to_lps = (LPS_TO_RAS[:, None] * affine[:3, :3])[:components, :components]
    x, y, z = displacement.shape[1:]
    # By planes: a field may be a gigabyte.
    planes = (
        np.einsum("j,jxy->xy", row, displacement[:components, :, :, height]).astype(np.float32)
        for row in to_lps
        for height in range(z)
    )
    shape = (x, y, z, 1, components)
    save_planes(path, shape, planes, affine, description, intent=INTENT_VECTOR)


def states_its_axes(path: Path) -> bool:
    """Whether a NIfTI file is a displacement field that says what its vectors run along."""
    header, _ = read_header(path)
    shape = tuple(int(n) for n in header.get_data_shape())
    vectors = shape[3:] == (1, 3) or shape[2:] == (1, 1, 2)
    # SPM's fields, of the same shape and intent, are of places.
    places = bytes(header["intent_name"].item()) == b"Mapping"
    return vectors and int(header["intent_code"]) in _BY_INTENT and not places


def read_displacement(
    path: str | os.PathLike[str], *, vectors: Vectors | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Reads a displacement field that `write_displacement`, ITK, ANTs or FreeSurfer wrote.

    The file's intent says which axes its vectors run along: LPS+ for 1007 (vector), as ITK and
    ANTs write them, RAS+ for 1006 (displacement), as FreeSurfer does and ITK since 5.4. A file
    that says neither, or that puts its vectors where NIfTI has time, is read where ``vectors``
    says what it holds. Vectors are millimetres, as ITK takes them, also where the header gives
    its voxels in another unit, which a warning tells.

    Args:
        path: ``.nii`` or ``.nii.gz``: ``(X, Y, Z, 1, 3)``; ``(X, Y, 1, 1, 2)`` of a plane; with
            ``vectors``, ``(X, Y, Z, 3)``, too.
        vectors: "lps" or "ras", millimetres along those axes, or "voxels", along the array's own
            axes; None to go by the file's intent.

    Returns:
        The displacement ``(3, X, Y, Z)``, or ``(2, X, Y)`` of a plane, in voxels, component i
        along axis i, and the affine ``(4, 4)``, voxel index to millimetres (RAS+).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not NIfTI, of another shape or intent, or not finite, field or affine.
        TypeError: Its elements are no real numbers.
    """
    if vectors not in (None, "lps", "ras", "voxels"):
        raise ValueError(f'vectors: expected "lps", "ras" or "voxels", got {vectors!r}')
    path = Path(path)
    with named_errors(path):
        return _read(path, vectors)


def _read(path: Path, vectors: Vectors | None) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: expected a displacement field in .nii or .nii.gz")
    header, data_path = read_header(path)
    shape = tuple(int(n) for n in header.get_data_shape())
    space = _space_of(path, shape, on_request=vectors is not None)
    if vectors is None:
        intent = int(header["intent_code"])
        if intent not in _BY_INTENT:
            raise ValueError(
                f"{path}: expected intent {INTENT_DISPLACEMENT} (displacement) or intent "
                f"{INTENT_VECTOR} (vector), got {intent}; other intents hold other conventions: "
                'say vectors="lps", "ras" or "voxels"'
            )
        vectors = _BY_INTENT[intent]
    affine, notes = placement(path, header)
    converted = [note for note in notes if "were converted" in note]
    if vectors != "voxels" and converted:
        warnings.warn(
            f"{path}: {converted[0]}; its vectors were taken to be millimetres, as ITK takes them",
            stacklevel=3,
        )
    data = read_data(path, header, data_path)
    if data.dtype.kind not in "biuf":
        raise TypeError(f"{path}: expected real numbers, got {data.dtype}")
    to_voxels = _to_voxels(path, affine, vectors, shape[-1])
    return _turned(path, data.reshape(*space, shape[-1]), to_voxels), affine


def _turned(path: Path, field: NDArray[Any], to_voxels: NDArray[np.float64]) -> NDArray[np.float32]:
    """Vectors of a file as ``(d, *space)`` voxels; by planes, for a field may be a gigabyte."""
    voxels = np.empty((field.shape[-1], *field.shape[:-1]), np.float32)
    for plane in range(field.shape[-2]):
        vectors = field[..., plane, :].astype(np.float64)
        if not np.isfinite(vectors).all():
            raise ValueError(f"{path}: the displacement holds NaN or infinite values")
        with np.errstate(over="ignore", under="ignore"):
            voxels[..., plane] = np.einsum("ij,...j->i...", to_voxels, vectors)
        if not np.isfinite(voxels[..., plane]).all():
            raise ValueError(f"{path}: the displacement in voxels is beyond float32")
    return voxels


def _space_of(path: Path, shape: tuple[int, ...], *, on_request: bool) -> tuple[int, ...]:
    """The axes in space of a field's array."""
    if len(shape) == 5 and shape[3:] == (1, 3):
        return shape[:3]
    if len(shape) == 5 and shape[2:] == (1, 1, 2):
        return shape[:2]
    if len(shape) == 4 and shape[3] == 3:
        if on_request:
            return shape[:3]
        raise ValueError(
            f"{path}: expected a displacement field (X, Y, Z, 1, 3), got shape {shape}, which "
            'NIfTI reads as 3 times: say vectors="lps", "ras" or "voxels"'
        )
    raise ValueError(
        f"{path}: expected a displacement field (X, Y, Z, 1, 3), got shape {shape}, which is not "
        "(X, Y, 1, 1, 2) of a plane either"
    )


def _to_voxels(
    path: Path, affine: NDArray[np.float64], vectors: Vectors, components: int
) -> NDArray[np.float64]:
    """The matrix that takes a file's vectors to voxels, component i along axis i."""
    axes = affine[:3, :3]
    if components == 2:
        _check_plane(path, (1, 1, 1), affine)
    if vectors == "voxels":
        return np.eye(components)
    signs = LPS_TO_RAS[:, None] if vectors == "lps" else 1.0
    to_voxels = np.asarray(np.linalg.inv(signs * axes), dtype=np.float64)
    return to_voxels[:components, :components]


def _check_plane(path: Path, shape: tuple[int, ...], affine: NDArray[np.float64]) -> None:
    """Refuses a grid that vectors of two components say nothing of."""
    if shape[2] != 1 or not is_axial(affine):
        raise ValueError(
            f"{path}: expected a plane across the third axis of space for vectors of two "
            f"components, got {shape[2]} slices and affine {affine.tolist()}"
        )
