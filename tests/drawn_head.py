"""A head drawn at any place in millimetres: on any grid, after any map, never resampled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.io import Volume

Places = NDArray[np.float64]


def head(places: Places) -> NDArray[np.float32]:
    """Brightness at RAS+ millimetres, ``(3, ...)`` to ``(...)``; about 120 x 150 x 110 mm large."""
    x, y, z = places
    radius = np.sqrt((x / 60) ** 2 + (y / 75) ** 2 + ((z + 3) / 55) ** 2)
    folds = np.sin(x / 7 + 1.5 * np.sin(z / 15)) + np.sin(y / 9 - x / 23) + np.sin(z / 8 + y / 31)
    ventricle = np.exp(-(((x - 8) / 12) ** 2) - ((y - 10) / 22) ** 2 - ((z - 6) / 9) ** 2)
    nose = np.exp(-((x / 9) ** 2) - ((y - 78) / 10) ** 2 - ((z + 15) / 12) ** 2)
    inside = 1 / (1 + np.exp(25 * (radius - 1)))
    brightness = inside * (110 + 22 * folds - 90 * ventricle) + 60 * nose
    return np.clip(brightness, 0, 255).astype(np.float32)


def labels(places: Places) -> NDArray[np.int64]:
    """Seven octant-like regions of the head and a ventricle, 0 outside."""
    x, y, z = places
    inside = (x / 60) ** 2 + (y / 75) ** 2 + ((z + 3) / 55) ** 2 < 1
    region = 10 + (x > 4) + 2 * (y > -5) + 4 * (z > 2)
    ventricle = ((x - 8) / 14) ** 2 + ((y - 10) / 26) ** 2 + ((z - 6) / 12) ** 2 < 1
    found: NDArray[np.int64] = np.where(inside, np.where(ventricle, 300, region), 0)
    return found


def grid(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Places:
    """The millimetres of every voxel, ``(3, X, Y, Z)``."""
    return moved(np.indices(shape, dtype=np.float64), affine)


def centred(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """The affine with the middle of its grid at the origin."""
    placed = affine.copy()
    placed[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return placed


def moved(places: Places, matrix: NDArray[np.float64]) -> Places:
    """A matrix ``(4, 4)`` applied to places ``(3, ...)``."""
    linear = np.einsum("ij,j...->i...", matrix[:3, :3], places)
    return linear + matrix[:3, 3].reshape(3, *[1] * (places.ndim - 1))


def turned(degrees: float, shift: tuple[float, float, float]) -> NDArray[np.float64]:
    """A rotation about the axis (1, 1, 2), and a shift in millimetres."""
    axis = np.array([1.0, 1, 2]) / np.sqrt(6)
    cross = np.cross(np.eye(3), axis)
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = shift
    return matrix


def bent(places: Places) -> Places:
    """A smooth deformation of up to 5 millimetres."""
    x, y, z = places
    return np.stack([x + 5 * np.sin(y / 25), y + 4 * np.sin(z / 22 + 1), z + 4 * np.cos(x / 24)])


def volume(data: Any, affine: NDArray[np.float64] | None, name: str = "a.nii.gz") -> Volume:
    """As a file would hold it."""
    from pathlib import Path

    kind = "nifti" if affine is not None else "array"
    return Volume(data, affine, Path(name), kind, str(data.dtype), data.shape)
