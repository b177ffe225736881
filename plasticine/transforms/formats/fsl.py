"""FSL: matrices of FLIRT, fields of FNIRT and applywarp.

Both are of millimetres from the first voxel's centre along an image's own axes, the first of which
runs backwards where the image's affine has a positive determinant ("FSL coordinates").
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.nifti import placement, read_data, read_header
from plasticine.io.nifti_writing import save_nifti
from plasticine.transforms.ends import Ends
from plasticine.transforms.formats.format import Format, as_affine, as_field, beside
from plasticine.transforms.formats.matrix import is_matrix, read_matrix
from plasticine.transforms.formats.voxels import is_vector_image
from plasticine.transforms.places import Grid, inverted
from plasticine.transforms.transform import (
    AffineTransform,
    Chain,
    DisplacementField,
    Transform,
    simplified,
)

_FIELDS = (".nii.gz", ".nii")
_TITLE = "FSL"
_DISPLACEMENT = 2006  # FSL_FNIRT_DISPLACEMENT_FIELD
_COEFFICIENTS = {2007: "cubic splines", 2008: "cosines", 2009: "quadratic splines"}
# How much less absolute fields must vary once the places themselves are taken off, and relative
# ones the other way around, for a file to be told from the other kind.
_CLEAR = 2.0


def fsl_from_voxels(grid: Grid) -> NDArray[np.float64]:
    """``(4, 4)``, voxel index to FSL's millimetres of an image."""
    matrix = np.diag([*grid.spacing, 1.0])
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        matrix[0, 0] *= -1
        matrix[0, 3] = (grid.shape[0] - 1) * grid.spacing[0]
    return matrix


def _to_fsl(grid: Grid) -> NDArray[np.float64]:
    """``(4, 4)``, millimetres (RAS+) to FSL's of an image."""
    found: NDArray[np.float64] = fsl_from_voxels(grid) @ inverted(grid.affine)
    return found


def _recognises(path: Path) -> bool:
    if path.name.lower().endswith(_FIELDS):
        header, _ = read_header(path)
        return is_vector_image(path) or int(header["intent_code"]) in (
            _DISPLACEMENT,
            *_COEFFICIENTS,
        )
    return path.suffix.lower() == ".mat" and is_matrix(path)


def _read(path: Path, ends: Ends, *, absolute: bool | None = None) -> Transform:
    """A matrix takes points of the moving image to the fixed one, and is turned round."""
    if path.name.lower().endswith(_FIELDS):
        return _read_field(path, ends, absolute)
    fixed, moving = ends.fixed_for(path, _TITLE), ends.moving_for(path, _TITLE)
    back = inverted(_to_fsl(fixed)) @ read_matrix(path) @ _to_fsl(moving)
    return AffineTransform(inverted(back))


def _read_field(path: Path, ends: Ends, absolute: bool | None) -> Transform:
    header, data_path = read_header(path)
    intent = int(header["intent_code"])
    if intent in _COEFFICIENTS:
        raise ValueError(
            f"{path}: holds coefficients of {_COEFFICIENTS[intent]}: write the field by FSL's "
            "fnirtfileutils"
        )
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) != 4 or shape[3] != 3:
        raise ValueError(f"{path}: expected a field of FSL (X, Y, Z, 3), got shape {shape}")
    moving = ends.moving_for(path, _TITLE)
    affine, _ = placement(path, header)
    fixed = Grid((shape[0], shape[1], shape[2]), affine)
    field = np.moveaxis(np.asarray(read_data(path, header, data_path), np.float32), -1, 0)
    if not np.isfinite(field).all():
        raise ValueError(f"{path}: the displacement holds NaN or infinite values")
    scale = fsl_from_voxels(fixed)
    field = _relative(path, field, scale, absolute)
    voxels = field / np.diag(scale)[:3].reshape(3, 1, 1, 1).astype(np.float32)
    onwards = AffineTransform(inverted(_to_fsl(moving)) @ _to_fsl(fixed))
    displacement = torch.from_numpy(np.ascontiguousarray(voxels))
    return simplified([DisplacementField(displacement, fixed), onwards])


def _relative(
    path: Path, field: NDArray[np.float32], scale: NDArray[np.float64], absolute: bool | None
) -> NDArray[np.float32]:
    """Displacements of a field that may hold places.

    Where it is not known, it is told by which of them vary less, as FSL's own tools do. Images
    whose axes run differently leave that open.

    Raises:
        ValueError: They vary alike.
    """
    if absolute is False:
        return field
    indices = np.indices(field.shape[1:], dtype=np.float32)
    places = indices * np.diag(scale)[:3].reshape(3, 1, 1, 1) + scale[:3, 3].reshape(3, 1, 1, 1)
    moved = (field - places).astype(np.float32)
    if absolute:
        return moved
    varied, rest = (float(one.reshape(3, -1).std(1).sum()) for one in (field, moved))
    if varied * _CLEAR <= rest:
        return field
    if rest * _CLEAR <= varied:
        return moved
    raise ValueError(
        f"{path}: cannot tell whether it holds displacements or places, which vary by {varied:.3g} "
        f"and {rest:.3g} mm: say which, as fsl-relative:FILE or fsl-absolute:FILE"
    )


def _write(path: Path, transform: Transform, ends: Ends) -> None:
    """A matrix of a linear transform, relative displacements of any."""
    fixed, moving = ends.fixed_for(path, _TITLE), ends.moving_for(path, _TITLE)
    if not path.name.lower().endswith(_FIELDS):
        affine = as_affine(path, transform, "FLIRT")
        matrix = _to_fsl(fixed) @ inverted(affine.matrix) @ inverted(_to_fsl(moving))
        np.savetxt(path, matrix, fmt="%.12g", delimiter="  ")
        beside(path, ends)
        return
    onwards = AffineTransform(inverted(_to_fsl(fixed)) @ _to_fsl(moving))
    field = as_field(path, Chain((transform, onwards)), ends, _TITLE)
    if field.ndim == 2:
        raise ValueError(f"{path}: fields of FSL have three axes, got one of a plane")
    scale = np.diag(fsl_from_voxels(field.grid))[:3].astype(np.float32)
    vectors = np.moveaxis(field.displacement.numpy() * scale.reshape(3, 1, 1, 1), 0, -1)
    save_nifti(path, vectors, field.grid.affine, ends.note, intent=_DISPLACEMENT)


FORMAT = Format(
    name="fsl",
    title=_TITLE,
    suffixes=(*_FIELDS, ".mat"),
    recognises=_recognises,
    read=_read,
    write=_write,
    holds=("affine", "displacement"),
    beside=(".mat",),
)


def _told(name: str, absolute: bool) -> Format:
    """FSL's fields, of which it is told what they hold."""
    return Format(
        name=name,
        title=_TITLE,
        suffixes=_FIELDS,
        recognises=lambda path: False,
        read=lambda path, ends: _read(path, ends, absolute=absolute),
        write=None,
        holds=("displacement",),
    )


RELATIVE, ABSOLUTE = _told("fsl-relative", False), _told("fsl-absolute", True)
