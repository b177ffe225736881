"""The files that a folder of results speaks of."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from plasticine.io import Volume, read_volume
from plasticine.io.checks import SAME_PLACE, corner_distance
from plasticine.io.labels import whole_numbers
from plasticine.io.reading import read_stored


def find_file(recorded: str, folder: Path, given: Path | None, option: str) -> Path:
    """Where a file is now.

    Args:
        recorded: Its path when the folder was written.
        folder: The folder of results: the file may lie in it, or beside it.
        given: Where the user says that it is.
        option: By which option they would say so.

    Raises:
        FileNotFoundError: It is nowhere.
    """
    if given is not None:
        if not given.exists():
            raise FileNotFoundError(f"no file {given}")
        return given
    path = Path(recorded)
    for candidate in (path, folder / path.name, folder.parent / path.name):
        if candidate.exists():
            return candidate
    raise FileNotFoundError(
        f"{folder}: the image {recorded} is not there any more; say with {option} where it is"
    )


def find_labels(recorded: str | None, folder: Path, given: Path | None) -> Path | None:
    """Where a label map is now; None where it was not given and is no longer there.

    Args:
        recorded: Its path when the folder was written, if there was one.
        folder: The folder of results.
        given: Where the user says that it is.

    Raises:
        FileNotFoundError: There is no such file as was given.
    """
    if given is None and recorded is None:
        return None
    try:
        return find_file(str(recorded), folder, given, "--labels")
    except FileNotFoundError:
        if given is not None:
            raise
        return None


def read_image(path: Path, affine: NDArray[np.float64], shape: tuple[int, ...]) -> Volume:
    """An image on a known grid.

    Args:
        path: Its file.
        affine: ``(4, 4)`` that it must have; of a file that knows no place, that it is given.
        shape: ``(X, Y, Z)`` that it must have.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, or on another grid.
    """
    return _on_grid(read_volume(path), affine, shape)


def read_label_map(
    path: Path, affine: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """A label map on a known grid, ``(X, Y, Z)``; otherwise as `read_image`."""
    volume = _on_grid(read_stored(path), affine, shape)
    labels, _ = whole_numbers(volume.data, str(path))
    return labels


def _on_grid(volume: Volume, affine: NDArray[np.float64], shape: tuple[int, ...]) -> Volume:
    if volume.data.shape != tuple(shape):
        raise ValueError(
            f"{volume.path}: expected an image of {tuple(shape)} voxels, got {volume.data.shape}"
        )
    if volume.affine is not None:
        voxels, millimetres = corner_distance(affine, volume.affine, volume.data.shape)
        if voxels > SAME_PLACE:
            raise ValueError(
                f"{volume.path}: lies up to {voxels:.3g} voxels ({millimetres:.3g} mm) off what "
                "the results are of"
            )
    return dataclasses.replace(volume, affine=affine)


def optional_maps(folder: Path, name: str, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Channels of a map of the target, ``(C, X, Y, Z)``; None where there is no such file.

    Raises:
        ValueError: It is of another shape.
    """
    path = folder / name
    if not path.is_file():
        return None
    image: Any = nibabel.load(path)
    data = np.asarray(image.dataobj, dtype=np.float32)
    if data.shape[:3] != tuple(shape):
        raise ValueError(f"{path}: expected {tuple(shape)} voxels, got {data.shape[:3]}")
    if data.ndim == 3:
        return data[None]
    return np.moveaxis(data.reshape(*data.shape[:3], -1), -1, 0)
