"""Where a registration of two files begins: transforms of a file, as the tensors take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticine.io.pair_space import PairSpace
from plasticine.io.volume import Volume
from plasticine.nn.validity import validity_mask
from plasticine.transforms.ends import Ends
from plasticine.transforms.files import read_transform
from plasticine.transforms.places import Grid
from plasticine.transforms.transform import (
    AffineTransform,
    Chain,
    DisplacementField,
    Transform,
    simplified,
)

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
        ValueError: A file is no transform or one of another place, or the matrix does not fit the
            images.
    """
    if isinstance(initial, np.ndarray):
        return Start(space.within(_checked(initial)))
    files = [initial] if isinstance(initial, Path) else list(initial or ())
    if not files:
        return Start()
    ends = Ends(Grid.of(fixed), Grid.of(moving))
    transforms = []
    for path in files:
        transform = read_transform(path, ends)
        if transform.ndim == 2 and 1 not in fixed.data.shape:
            raise ValueError(
                f"{path}: expected a transform of three axes for volumes, got one of a plane"
            )
        if isinstance(transform, DisplacementField):
            # A jump at its edge is no place to begin from.
            transform = dataclasses.replace(transform, edge_repeated=True)
        transforms.append(transform)
    whole = simplified(transforms)
    if isinstance(whole, AffineTransform):
        return Start(space.within(whole.matrix))
    _check_meets(files, whole, Grid.of(fixed))
    field = whole.sampled(Grid.of(fixed)).displacement[None]
    return Start(displacement=space.field_to_tensor(field, fixed))


def _check_meets(files: Sequence[Path], whole: Transform, fixed: Grid) -> None:
    """Refuses a displacement field of another place, which moves nothing."""
    matrix = np.eye(4)
    for part in whole.transforms if isinstance(whole, Chain) else (whole,):
        if isinstance(part, AffineTransform):
            matrix = part.matrix @ matrix
        elif isinstance(part, DisplacementField):
            places = torch.from_numpy(np.linalg.inv(part.grid.affine) @ matrix @ fixed.affine)
            if not _meet(places[None, :3], fixed.shape, part.grid.shape):
                raise ValueError(
                    f"{', '.join(map(str, files))}: expected a displacement field of where the "
                    "fixed image lies, got one of a grid that holds none of its voxels"
                )
            return


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
