"""Arrays of displacements in voxels of the fixed image: VoxelMorph's and Learn2Reg's."""

from __future__ import annotations

import functools
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.displacement import read_displacement
from plasticine.io.nifti import read_header
from plasticine.io.nifti_writing import save_nifti
from plasticine.transforms.ends import Ends
from plasticine.transforms.formats.format import Format, as_field, beside
from plasticine.transforms.places import Grid
from plasticine.transforms.transform import DisplacementField, Transform

_NIFTI = (".nii.gz", ".nii")
# Learn2Reg asks for float16; from here on its steps are 1/16 of a voxel.
_LARGEST_IN_HALF = 64.0


def is_vector_image(path: Path) -> bool:
    """Whether a file is NIfTI of ``(X, Y, Z, 3)`` that does not say what its vectors are."""
    if not path.name.lower().endswith(_NIFTI):
        return False
    header, _ = read_header(path)
    shape = tuple(int(n) for n in header.get_data_shape())
    return len(shape) == 4 and shape[3] == 3 and int(header["intent_code"]) == 0


def _key(path: Path) -> str | None:
    """The name of the one array of an ``.npz``; None of another file."""
    if path.suffix.lower() != ".npz" or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
    return names[0].removesuffix(".npy") if len(names) == 1 else None


def _read_array(path: Path) -> NDArray[np.float32]:
    """A field of three components, moved to the front: ``(3, X, Y, Z)``."""
    loaded = np.load(path, allow_pickle=False)
    array = loaded if isinstance(loaded, np.ndarray) else loaded[next(iter(loaded))]
    if array.dtype.kind != "f":
        raise TypeError(f"{path}: expected floating-point numbers, got {array.dtype}")
    array = array[0] if array.ndim == 5 and len(array) == 1 else array
    if array.ndim != 4 or 3 not in (array.shape[0], array.shape[-1]):
        raise ValueError(f"{path}: expected (X, Y, Z, 3) or (3, X, Y, Z), got {array.shape}")
    if array.shape[-1] == 3:
        array = np.moveaxis(array, -1, 0)
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: the displacement holds NaN or infinite values")
    return np.ascontiguousarray(array, dtype=np.float32)


def _read(path: Path, ends: Ends, *, learn2reg: bool) -> Transform:
    """A field on the fixed image's voxels; Learn2Reg's may have half of them along each axis."""
    if path.name.lower().endswith(_NIFTI):
        return DisplacementField.of(*read_displacement(path, vectors="voxels"))
    fixed, field = ends.fixed_for(path, _title(learn2reg)), _read_array(path)
    half = tuple(n // 2 for n in fixed.shape)
    if field.shape[1:] not in (fixed.shape, *((half,) if learn2reg else ())):
        or_half = f" or half of them {half}" if learn2reg else ""
        raise ValueError(
            f"{path}: expected the fixed image's voxels {fixed.shape}{or_half}, got "
            f"{field.shape[1:]}"
        )
    # At half resolution the first and the last voxels lie on the fixed image's, as the
    # challenge's evaluation has it; the numbers are the fixed image's voxels all the same.
    ratio = [
        (n - 1) / (m - 1) if m > 1 else 1.0
        for n, m in zip(fixed.shape, field.shape[1:], strict=True)
    ]
    x, y, z = field.shape[1:]
    grid = Grid((x, y, z), fixed.affine @ np.diag([*ratio, 1.0]))
    own = field / np.array(ratio, np.float32).reshape(3, 1, 1, 1)
    return DisplacementField(torch.from_numpy(own), grid)


def _write(path: Path, transform: Transform, ends: Ends, *, learn2reg: bool) -> None:
    """``(X, Y, Z, 3)`` in NIfTI; in ``.npz`` as ``vol``, or ``(3, X, Y, Z)`` in float16."""
    title = _title(learn2reg)
    field = as_field(path, transform, ends, title)
    if field.ndim == 2:
        raise ValueError(f"{path}: fields of {title} have three axes, got one of a plane")
    vectors = np.moveaxis(field.displacement.numpy(), 0, -1)
    if path.name.lower().endswith(_NIFTI):
        save_nifti(path, vectors, field.grid.affine, ends.note)
        return
    if not learn2reg:
        np.savez_compressed(path, vol=vectors)
    else:
        largest = float(np.abs(vectors).max(initial=0))
        if largest >= _LARGEST_IN_HALF:
            raise ValueError(
                f"{path}: float16 would round a displacement of {largest:.4g} voxels by more than "
                "0.02: write .nii.gz"
            )
        np.savez_compressed(path, np.moveaxis(vectors, -1, 0).astype(np.float16))
    beside(path, ends)


def _title(learn2reg: bool) -> str:
    return "Learn2Reg" if learn2reg else "VoxelMorph"


def _format(key: str, *, learn2reg: bool) -> Format:
    """Either format; their ``.npz`` differ in the key of the array."""
    return Format(
        name=_title(learn2reg).lower(),
        title=_title(learn2reg),
        suffixes=(*_NIFTI, ".npz"),
        recognises=lambda path: is_vector_image(path) or _key(path) == key,
        read=functools.partial(_read, learn2reg=learn2reg),
        write=functools.partial(_write, learn2reg=learn2reg),
        holds=("displacement",),
        beside=(".npz",),
    )


VOXELMORPH, LEARN2REG = _format("vol", learn2reg=False), _format("arr_0", learn2reg=True)
