"""Where a registration of two files begins: transforms of a file, as the tensors take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticine.io.itk_transform import in_space
from plasticine.io.pair_space import PairSpace
from plasticine.io.transform import AffineTransform, DisplacementField, read_transform
from plasticine.io.volume import Volume
from plasticine.nn.resampling import sample_affinely
from plasticine.nn.validity import validity_mask
from plasticine.registration.deformation import affine_displacement, turned

Initial = Path | NDArray[np.float64] | Sequence[Path]
"""One file of a transform or several, or a matrix (4, 4) of RAS+ millimetres."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a registration begins; at most one of the two is given.

    Attributes:
        matrix: ``(d + 1, d + 1)``, fixed to moving millimetres of the tensors.
        displacement: ``(1, d, *fixed spatial)``, φ - id in fixed voxels, what is affine of it too.
    """

    matrix: Tensor | None = None
    displacement: Tensor | None = None


def start_from(initial: Initial | None, moving: Volume, fixed: Volume, space: PairSpace) -> Start:
    """Reads where to begin.

    Args:
        initial: A point of the fixed image passes through several files in their order, as in
            ``antsApplyTransforms -t 1Warp.nii.gz -t 0GenericAffine.mat``. None: nowhere.
        moving: Placed in space.
        fixed: Likewise.
        space: How the two became tensors.

    Returns:
        A matrix, or a displacement where a file holds a displacement field.

    Raises:
        FileNotFoundError: There is no file of that name.
        ValueError: A file is no transform, there are several displacement fields or one of another
            place, or the matrix does not fit the images.
    """
    if isinstance(initial, np.ndarray):
        return Start(space.within(_checked(initial)))
    files = [initial] if isinstance(initial, Path) else list(initial or ())
    if not files:
        return Start()
    before, after = np.eye(4), np.eye(4)
    of_field, field = files[0], None
    for path in files:
        transform = read_transform(path)
        if isinstance(transform, DisplacementField):
            if field is not None:
                raise ValueError(f"{path}: expected one displacement field to begin with, got two")
            of_field, field = path, transform
            continue
        matrix = _in_ras(path, transform, moving, fixed)
        if field is None:
            before = matrix @ before
        else:
            after = matrix @ after
    if field is None:
        return Start(space.within(before))
    whole = _on_grid(of_field, field, before, after, fixed)
    return Start(displacement=space.field_to_tensor(whole, fixed))


def _meet(places: Tensor, shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether a map of voxels (1, 3, 4) brings one of a grid into another, of slices within it."""
    across = [axis for axis, size in enumerate(other) if size == 1]
    within = places.clone()
    within[:, across] = 0
    half = torch.full((1,), 0.5, dtype=places.dtype).expand(1, 3, *shape)
    # Half a voxel around the outermost centres is within, too.
    return bool(validity_mask(half, within, [size + 1 for size in other]).any())


def _checked(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    if matrix.shape != (4, 4):
        raise ValueError(f"initial: expected a matrix (4, 4), got {matrix.shape}")
    return np.asarray(matrix, dtype=np.float64)


def _in_ras(
    path: Path, transform: AffineTransform, moving: Volume, fixed: Volume
) -> NDArray[np.float64]:
    """A linear transform of a file as ``(4, 4)``, between RAS+ millimetres."""
    if len(transform.matrix) == 3 and 1 not in fixed.data.shape:
        raise ValueError(
            f"{path}: expected a transform of three axes for volumes, got one of a plane"
        )
    matrix = in_space(transform.matrix)
    if transform.axes == "ras":
        return matrix
    whole: NDArray[np.float64] = moving.itk_to_ras @ matrix @ np.linalg.inv(fixed.itk_to_ras)
    return whole


def _on_grid(
    path: Path,
    field: DisplacementField,
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    fixed: Volume,
) -> Tensor:
    """φ - id of a field between two affine maps: ``(1, 3, X, Y, Z)``, in the fixed file's voxels.

    Beyond the field's own grid its edge is repeated.

    Raises:
        ValueError: The grid of the field holds none of the fixed voxels.
    """
    assert fixed.affine is not None
    back = np.linalg.inv(fixed.affine)

    def rows(matrix: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(matrix[:3])[None]

    places = rows(np.linalg.inv(field.affine) @ before @ fixed.affine)
    if not _meet(places, fixed.data.shape, field.displacement.shape[1:]):
        raise ValueError(
            f"{path}: expected a displacement field of where {fixed.path} lies, got one of a grid "
            "that holds none of its voxels"
        )
    values = torch.from_numpy(field.displacement)[None].double()
    sampled = sample_affinely(values, places, fixed.data.shape)
    straight = affine_displacement(
        rows(back @ after @ before @ fixed.affine), torch.Size(fixed.data.shape)
    )
    return (turned(rows(back @ after @ field.affine), sampled) + straight).float()
