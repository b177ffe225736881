"""Reading a file that must lie on another's voxels: a label map, a mask, a true image."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.checks import SAME_PLACE, corner_distance
from plasticine.io.grid import ModelGrid
from plasticine.io.labels import whole_numbers
from plasticine.io.reading import read_stored
from plasticine.io.volume import Volume


def read_same_grid(
    path: Path, grid: ModelGrid, affine: NDArray[np.float64], orientation: str
) -> Volume:
    """Reads an image of the same voxels as another, as float32.

    Args:
        path: The file.
        grid: How the other lies on the model's grid.
        affine: ``(4, 4)``, voxel index to millimetres (RAS+) of the other.
        orientation: Where slices, rows and columns of a file without spacing run.

    Returns:
        The volume, placed in space. Its notes are of its values: where it lies is checked.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, or on another grid.
        TypeError: Its elements are no real numbers.
    """
    return _read_stored_on(path, grid, affine, orientation).as_float32()


def _read_stored_on(
    path: Path, grid: ModelGrid, affine: NDArray[np.float64], orientation: str
) -> Volume:
    """The same, of the file's own element type."""
    stored = read_stored(path)
    # Files that know where they lie have no notes but on that.
    notes = stored.notes if stored.affine is None else ()
    volume = dataclasses.replace(stored.placed(orientation), notes=notes)
    assert volume.affine is not None
    if volume.data.shape != grid.file_shape:
        raise ValueError(
            f"{path}: expected the input's shape {grid.file_shape}, got {volume.data.shape}"
        )
    voxels, millimetres = corner_distance(affine, volume.affine, grid.file_shape)
    if voxels > SAME_PLACE:
        raise ValueError(
            f"{path}: expected the input's position in space, got one whose corners are up to "
            f"{voxels:.3g} voxels ({millimetres:.3g} mm) off; at most {SAME_PLACE} voxels are taken"
        )
    return volume


def read_labels(
    path: Path, grid: ModelGrid, affine: NDArray[np.float64], orientation: str
) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Reads a label map of the same voxels as an image.

    Args:
        path: The file.
        grid: How the image lies on the model's grid.
        affine: ``(4, 4)``, voxel index to millimetres (RAS+) of the image.
        orientation: Where slices, rows and columns of a file without spacing run.

    Returns:
        ``(N, 1, *input_shape)``, int64, in the model's layout: the file's own whole numbers,
        exactly. And notes on how they were read, the file named in each.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, on another grid, or `whole_numbers` refuses its values.
        TypeError: Its elements are no real numbers.
    """
    volume = _read_stored_on(path, grid, affine, orientation)
    labels, rounded = whole_numbers(volume.data, str(path))
    notes = (*(f"{path}: {note}" for note in volume.notes), *rounded)
    return grid.to_images(labels), notes
