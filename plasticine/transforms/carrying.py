"""Carrying images, label maps and points by a transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.itk import LPS_TO_RAS
from plasticine.io.points import Points
from plasticine.nn.labels import warp_labels
from plasticine.ops.spline_coefficients import spline_coefficients
from plasticine.transforms.places import Advance, Grid, Places
from plasticine.transforms.transform import Inverse, Transform

IMAGE_INTERPOLATIONS = ("linear", "nearest", "cubic", "bspline")


def carry_image(
    image: NDArray[np.float32],
    grid: Grid,
    transform: Transform,
    reference: Grid,
    *,
    interpolation: str = "linear",
    outside: float = 0.0,
    advance: Advance | None = None,
) -> NDArray[np.float32]:
    """Pulls an image onto other voxels, slab by slab, with one interpolation.

    Args:
        image: ``(X, Y, Z)`` float32, the moving image.
        grid: Its voxels.
        transform: From points of the reference to points of the image.
        reference: The voxels of the result.
        interpolation: "linear", "nearest", "cubic" (convolution) or "bspline" (cubic, through
            every voxel, mirrored at the border).
        outside: What stands where the transform leads out of the image by more than half a voxel.
        advance: Is told of the progress.

    Returns:
        ``(X, Y, Z)`` of the reference, float32.

    Raises:
        ValueError: The interpolation is not one of these.
    """
    if interpolation not in IMAGE_INTERPOLATIONS:
        raise ValueError(
            f"interpolation: expected one of {', '.join(IMAGE_INTERPOLATIONS)}, "
            f"got {interpolation!r}"
        )
    values = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    padding = "reflection" if interpolation == "bspline" else "border"
    if interpolation == "bspline":
        values = spline_coefficients(values, padding=padding)
    planar = _within_plane(transform, grid)
    result = np.empty(reference.shape, np.float32)
    for slab, places in reference.blocks():
        there = transform.at(places)
        carried = there.sample(values, grid, mode=interpolation, padding=padding, planar=planar)
        inside = there.inside(grid, planar=planar)
        result[slab] = torch.where(inside > 0, carried, outside)[0, 0].numpy()
        if advance is not None:
            advance(slab.stop, reference.shape[0])
    return result


def carry_labels(
    labels: NDArray[np.int64],
    grid: Grid,
    transform: Transform,
    reference: Grid,
    *,
    interpolation: str = "linear",
    advance: Advance | None = None,
) -> NDArray[np.int64]:
    """Pulls a label map onto other voxels; exact whole numbers, 0 outside of it.

    Args:
        labels: ``(X, Y, Z)``, of the moving image.
        grid: Its voxels.
        transform: From points of the reference to points of the labels.
        reference: The voxels of the result.
        interpolation: "linear", the label of the greatest linear weight, or "nearest".
        advance: Is told of the progress.

    Returns:
        ``(X, Y, Z)`` of the reference.

    Raises:
        ValueError: The interpolation is neither, or the transform is NaN somewhere.
    """
    values = torch.from_numpy(np.ascontiguousarray(labels))[None, None]
    planar = _within_plane(transform, grid)
    result = np.empty(reference.shape, np.int64)
    for slab, places in reference.blocks():
        there = transform.at(places)
        offset, matrix = there.in_voxels(grid, planar=planar)
        moved = warp_labels(values, offset, matrix, interpolation=interpolation)
        result[slab] = (moved * (there.inside(grid, planar=planar) > 0))[0, 0].numpy()
        if advance is not None:
            advance(slab.stop, reference.shape[0])
    return result


@dataclasses.dataclass(frozen=True)
class TakenPoints:
    """Points that a transform took to another image.

    Attributes:
        points: As they were read.
        places: ``(N, 3)`` or ``(N, 2)``, where they lie there, as ITK has points.
        error: ``(N,)``, millimetres by which the way back misses a point: not 0 where the inverse
            of a transform was asked for that folds, or that leads out of what it is known on.
    """

    points: Points
    places: NDArray[np.float64]
    error: NDArray[np.float64]

    def write(self, path: Path, tolerance: float = 0.01) -> int:
        """Writes a file of the kind that was read.

        Args:
            path: The file.
            tolerance: Millimetres of `error` from which on a point is flagged as outside.

        Returns:
            How many are.

        Raises:
            OSError: The file cannot be written.
        """
        off = self.error > tolerance
        self.points.write(path, self.places, off)
        return int(off.sum())


def take_points(points: Points, transforms: Sequence[Transform]) -> TakenPoints:
    """Takes points through transforms, in their order.

    Args:
        points: Millimetres along LPS+ axes, as `read_points` gives them; of a plane at height 0.
        transforms: The maps.

    Returns:
        Where they end.
    """
    given = points.places
    at = np.zeros((len(given), 3))
    at[:, : given.shape[1]] = given
    places, error = Places.of_points(at * LPS_TO_RAS), np.zeros(len(given))
    for transform in transforms:
        if isinstance(transform, Inverse):
            places, missed = transform.solved(places)
            error = np.maximum(error, missed.flatten().double().numpy())
        else:
            places = transform.at(places)
    found = (places.points * LPS_TO_RAS)[:, : given.shape[1]]
    return TakenPoints(points, found, error)


def _within_plane(transform: Transform, grid: Grid) -> bool:
    """Whether a slice is carried by a transform of its plane: its height does not matter then."""
    return transform.ndim == 2 and grid.shape[2] == 1
