"""Points and surfaces in files, carried from one image to another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.fiducials import read_fiducials
from plasticine.io.itk import LPS, LPS_TO_RAS
from plasticine.io.point_table import PointTable, read_point_table
from plasticine.io.surface import Surface, read_surface
from plasticine.io.volume import Volume
from plasticine.nn.points import move_points

Points = PointTable | Surface

_READERS: dict[str, Callable[[Path], Points]] = {
    ".csv": read_point_table,
    ".fcsv": read_fiducials,
    ".vtk": read_surface,
    ".vtp": read_surface,
}
POINT_SUFFIXES = tuple(_READERS)


@dataclasses.dataclass(frozen=True)
class CarriedPoints:
    """Points of one image, brought to the other.

    Attributes:
        points: As they were read.
        places: ``(N, 3)`` or ``(N, 2)``, where they lie in the other image, as ITK has points.
        outside: ``(N,)``, which lie outside of their own image by more than half a voxel: where the
            displacement is not known, and that of the nearest voxel was taken.
    """

    points: Points
    places: NDArray[np.float64]
    outside: NDArray[np.bool_]

    def write(self, path: Path) -> None:
        """Writes a file of the kind that was read, the points outside flagged.

        Raises:
            OSError: The file cannot be written.
        """
        self.points.write(path, self.places, self.outside)


def read_points(path: Path) -> Points:
    """Reads points as ITK has them: millimetres along LPS+ axes; of a picture, column and row.

    Args:
        path: ``.csv`` with columns x, y and z, ``.fcsv`` of 3D Slicer, or a surface, ``.vtk`` or
            ``.vtp``.

    Returns:
        The points, and all else that the file holds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another kind, damaged, or without points.
        RuntimeError: It is a surface, and VTK is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"{path}: expected points in {', '.join(POINT_SUFFIXES)}")
    return _READERS[suffix](path)


def carry_points(
    points: Points,
    of: Volume,
    displacement: NDArray[np.float32],
    physical: NDArray[np.float64],
) -> CarriedPoints:
    """Brings points of one image to the other, by P∘(id + u).

    Beyond the image u is that of its border; P, the affine part, goes on.

    Args:
        points: Of the first image.
        of: The first image, placed in space.
        displacement: ``(3, X, Y, Z)`` of the first image and in its voxels, u.
        physical: ``(4, 4)``, P, from millimetres to millimetres (RAS+).

    Returns:
        The same points in the other image.

    Raises:
        ValueError: Points of a plane meet a volume or a slice that is not axial.
    """
    assert of.affine is not None
    back = np.linalg.inv(of.affine)
    voxels = in_ras(points, of) @ back[:3, :3].T + back[:3, 3]
    field = torch.from_numpy(displacement)[None]
    moved = move_points(torch.from_numpy(voxels)[None], field)[0].numpy()
    there = LPS @ physical @ of.affine
    carried = moved @ there[:3, :3].T + there[:3, 3]
    last = np.array(displacement.shape[1:]) - 1
    outside = ((voxels < -0.5) | (voxels > last + 0.5)).any(1)
    return CarriedPoints(points, carried[:, : points.places.shape[1]], outside)


def in_ras(points: Points, volume: Volume) -> NDArray[np.float64]:
    """Places in space, ``(N, 3)`` millimetres (RAS+), of points of a volume."""
    places: NDArray[np.float64] = _with_third(points, volume) * LPS_TO_RAS
    return places


def _with_third(points: Points, volume: Volume) -> NDArray[np.float64]:
    """Places ``(N, 3)``: those of a plane lie in that of the slice."""
    places = points.places
    if places.shape[1] == 3:
        return places
    assert volume.affine is not None
    across = [axis for axis, size in enumerate(volume.data.shape) if size == 1]
    row = (np.linalg.inv(volume.affine) @ LPS)[across[0]] if across else np.zeros(4)
    if not abs(row[2]) > np.linalg.norm(row[:2]):
        raise ValueError(
            f"{points.path}: expected columns x, y and z of {volume.path}, which is no axial "
            "slice; got x and y"
        )
    third = -(places @ row[:2] + row[3]) / row[2]
    return np.column_stack([places, third])
