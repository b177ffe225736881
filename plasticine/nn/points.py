"""Moving points by a displacement."""

from __future__ import annotations

from torch import Tensor

from plasticine.ops.warp import warp


def move_points(points: Tensor, displacement: Tensor) -> Tensor:
    """points + displacement(points), the displacement interpolated, its edge repeated.

    Args:
        points: (N, M, d) voxel coordinates, floating point.
        displacement: (N, d, *spatial) voxels.

    Raises:
        ValueError: the shapes do not fit.
        TypeError: the points are not floating point.
    """
    count, ndim = displacement.shape[:2]
    if points.ndim != 3 or points.shape[0] != count or points.shape[2] != ndim:
        raise ValueError(
            f"points must be (N, M, d) = ({count}, M, {ndim}); got {tuple(points.shape)}"
        )
    if not points.is_floating_point():
        raise TypeError(f"points must be floating point; got {points.dtype}")
    # The points are the sample locations of a warp onto a grid of M voxels in a row: an
    # affine map that sends the whole grid to the origin, and the points as displacement.
    row = points.mT.reshape(count, ndim, points.shape[1], *([1] * (ndim - 1)))
    origin = points.new_zeros(count, ndim, ndim + 1)
    moved = warp(displacement.to(points.dtype), row, affine=origin)
    return points + moved.reshape(count, ndim, -1).mT
