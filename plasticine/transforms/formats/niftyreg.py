"""NiftyReg's fields and control points: NIfTI of intent 1007 that is named NREG_TRANS.

Its matrices are `matrix.FORMAT`. Vectors are millimetres along RAS+ axes; a "deformation" is where
a place goes to, a "displacement" how far.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.displacement import INTENT_VECTOR
from plasticine.io.nifti import placement, read_data, read_header
from plasticine.io.nifti_writing import save_nifti
from plasticine.transforms.ends import Ends
from plasticine.transforms.formats.format import Format, as_field
from plasticine.transforms.places import Grid
from plasticine.transforms.transform import BSplineTransform, DisplacementField, Transform

_NAME = b"NREG_TRANS"
_DEFORMATION, _DISPLACEMENT, _SPLINE = 0, 1, 2
_OTHERS = {
    3: "a velocity field",
    4: "a velocity field",
    5: "control points of a velocity",
    6: "control points of linear splines",
}
_SUFFIXES = (".nii.gz", ".nii")


def is_niftyreg(path: Path) -> bool:
    """Whether a NIfTI file says that NiftyReg's transform is in it."""
    if not path.name.lower().endswith(_SUFFIXES):
        return False
    header, _ = read_header(path)
    return bytes(header["intent_name"].item()).startswith(_NAME)


def _read(path: Path, ends: Ends) -> Transform:
    """Deformation and displacement fields, and cubic B-splines of control points."""
    header, data_path = read_header(path)
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) != 5 or shape[3] != 1 or shape[4] not in (2, 3):
        raise ValueError(f"{path}: expected a transform (X, Y, Z, 1, 3), got shape {shape}")
    kind = round(float(header["intent_p1"]))
    if kind not in (_DEFORMATION, _DISPLACEMENT, _SPLINE):
        raise ValueError(
            f"{path}: holds {_OTHERS.get(kind, f'an unknown kind, {kind}')}: write the deformation "
            "field by reg_transform -def"
        )
    affine, _ = placement(path, header)
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    data = np.asarray(read_data(path, header, data_path), np.float32)[:, :, :, 0]
    vectors = np.zeros((3, *grid.shape), np.float32)
    vectors[: shape[4]] = np.moveaxis(data, -1, 0)
    if not np.isfinite(vectors).all():
        raise ValueError(f"{path}: the transform holds NaN or infinite values")
    planar = shape[4] == 2
    if kind != _DISPLACEMENT:
        vectors -= _places(grid)
        vectors[2] *= not planar
    if kind == _SPLINE:
        return BSplineTransform(torch.from_numpy(vectors), grid, 2 if planar else 3)
    return DisplacementField.of_vectors(vectors, grid, 2 if planar else 3)


def _places(grid: Grid) -> NDArray[np.float32]:
    """``(3, *shape)``, where the voxels lie, millimetres (RAS+)."""
    indices = np.indices(grid.shape, dtype=np.float32)
    places = np.einsum("ij,j...->i...", grid.affine[:3, :3].astype(np.float32), indices)
    return (places + grid.affine[:3, 3].reshape(3, 1, 1, 1)).astype(np.float32)


def _write(path: Path, transform: Transform, ends: Ends) -> None:
    """A deformation field, which all of NiftyReg's tools take."""
    field = as_field(path, transform, ends, "NiftyReg")
    places = _places(field.grid) + field.vectors
    vectors = np.moveaxis(places[: field.ndim], 0, -1)[:, :, :, None]
    save_nifti(
        path,
        vectors,
        field.grid.affine,
        ends.note,
        intent=INTENT_VECTOR,
        intent_name=_NAME.decode(),
    )


FORMAT = Format(
    name="niftyreg",
    title="NiftyReg",
    suffixes=_SUFFIXES,
    recognises=is_niftyreg,
    read=_read,
    write=_write,
    holds=("displacement",),
)
