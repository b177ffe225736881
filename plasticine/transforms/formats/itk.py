"""ITK's and ANTs' transforms: linear ones, displacement fields, composites."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np

from plasticine.io.displacement import read_displacement, states_its_axes, write_displacement
from plasticine.io.itk import LPS
from plasticine.transforms.ends import Ends
from plasticine.transforms.formats.format import Format, as_affine, as_field, beside
from plasticine.transforms.formats.itk_composite import (
    read_composite,
    read_vector_image,
    write_composite,
    write_vector_image,
)
from plasticine.transforms.formats.itk_linear import (
    first_part,
    in_space,
    is_itk_text,
    read_itk_transform,
    write_itk_affine,
)
from plasticine.transforms.formats.matlab import is_matlab
from plasticine.transforms.formats.niftyreg import is_niftyreg
from plasticine.transforms.transform import AffineTransform, DisplacementField, Transform

_FIELDS = (".nii.gz", ".nii")
_IMAGES = (".mha", ".mhd", ".nrrd", ".nhdr")
_HDF5 = (".h5", ".hdf5")
_TEXT = (".tfm", ".txt")
_HDF5_START = b"\x89HDF\r\n\x1a\n"
# Transforms of ITK's text, by name, and how names of those begin that are not linear.
_KIND = re.compile(r"^Transform: *(\w+)", re.MULTILINE)
_NOT_LINEAR = ("DisplacementField", "BSpline")


def _recognises(path: Path) -> bool:
    if path.name.lower().endswith(_FIELDS):
        return states_its_axes(path) and not is_niftyreg(path)
    if path.name.lower().endswith(_IMAGES):
        return True  # it says itself whether it holds vectors
    return is_itk_text(path) or is_matlab(path) or _is_hdf5(path)


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_HDF5_START)) == _HDF5_START


def _is_not_linear(path: Path) -> bool:
    """Whether a text file holds what `read_itk_transform` does not read; SimpleITK does.

    Raises:
        ValueError: It holds several that are not one composite: SimpleITK reads the first alone.
    """
    if not is_itk_text(path):
        return False
    kinds = _KIND.findall(path.read_text(encoding="utf-8", errors="replace"))
    if not any(kind.startswith(_NOT_LINEAR) for kind in kinds):
        return False
    first_part(path, kinds)
    return True


def read_itk(path: Path, ends: Ends) -> Transform:
    """Reads what ITK, SimpleITK, ANTs and plasticine write; needs neither image.

    Args:
        path: ``.nii`` or ``.nii.gz``, a displacement field of intent 1007 or 1006; ``.tfm`` or
            ``.txt``; MATLAB 4, such as ``0GenericAffine.mat``; HDF5, ``.h5``; a field in ``.mha``,
            ``.mhd``, ``.nrrd`` or ``.nhdr``.
        ends: Not needed.

    Returns:
        The transform.

    Raises:
        ValueError: It is none of these, or damaged.
        TypeError: A field's elements are no real numbers.
        RuntimeError: SimpleITK, which reads what is not linear or NIfTI, is not installed.
    """
    if path.name.lower().endswith(_FIELDS):
        return DisplacementField.of(*read_displacement(path))
    if path.name.lower().endswith(_IMAGES):
        return read_vector_image(path)
    if _is_hdf5(path) or _is_not_linear(path):
        return read_composite(path)
    matrix = read_itk_transform(path)
    ndim: Literal[2, 3] = 2 if len(matrix) == 3 else 3
    return AffineTransform(LPS @ in_space(matrix) @ LPS, ndim)


def write_itk(path: Path, transform: Transform, ends: Ends) -> None:
    """Writes a linear transform as text or MATLAB 4, anything as a field or, in parts, as HDF5.

    Args:
        path: ``.tfm``, ``.txt``, ``.mat``; ``.nii`` or ``.nii.gz``; ``.h5`` or ``.hdf5``;
            ``.mha`` or ``.nrrd``.
        transform: What to write.
        ends: The fixed image's voxels are those of a field, unless it has its own.

    Raises:
        ValueError: The file has no room for it, or no voxels are known for its field.
        RuntimeError: SimpleITK, which writes all but text and NIfTI, is not installed.
    """
    name = path.name.lower()
    if name.endswith(_FIELDS):
        field = as_field(path, transform, ends, "ITK")
        vectors, planar = field.displacement.numpy(), field.ndim == 2
        write_displacement(path, vectors, field.grid.affine, planar=planar, description=ends.note)
        return
    if name.endswith(_IMAGES):
        write_vector_image(path, as_field(path, transform, ends, "ITK"))
        beside(path, ends)
        return
    if name.endswith(_HDF5):
        write_composite(path, transform)
        beside(path, ends)
        return
    affine = as_affine(path, transform, "ITK's text")
    if not name.endswith(_TEXT):
        write_composite(path, affine)
        beside(path, ends)
        return
    matrix = LPS @ affine.matrix @ LPS
    if affine.ndim == 2:
        matrix = matrix[np.ix_([0, 1, 3], [0, 1, 3])]
    write_itk_affine(path, matrix, comment=ends.note)


FORMAT = Format(
    name="itk",
    title="ITK and ANTs",
    suffixes=(*_FIELDS, *_TEXT, ".mat", *_HDF5, ".mha", ".nrrd"),
    recognises=_recognises,
    read=read_itk,
    write=write_itk,
    holds=("affine", "displacement", "b-spline", "chain"),
    beside=(".mat", *_HDF5, ".mha", ".nrrd"),
)
