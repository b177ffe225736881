"""Grids of voxels in space, and where a transform takes them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticine.io.checks import SAME_PLACE, corner_distance
from plasticine.io.volume import Volume
from plasticine.ops.warp import warp
from plasticine.registration.deformation import affine_displacement, turned

# Voxels that are worked on at once: some 50 MB for a coordinate in float32 and its scratch.
_BLOCK = 1 << 20

Advance = Callable[[int, int], None]
"""Is told how much of how much is done."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Voxels in space.

    Attributes:
        shape: ``(X, Y, Z)``.
        affine: ``(4, 4)`` float64, voxel index to millimetres (RAS+).
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume) -> Grid:
        """The voxels of a volume that is placed in space.

        Raises:
            ValueError: It is not.
        """
        if volume.affine is None:
            raise ValueError(f"{volume.path}: expected an image that is placed in space")
        x, y, z = volume.data.shape
        return cls((x, y, z), volume.affine)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Millimetres from a voxel to the next along each axis, ``(3,)``."""
        lengths: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return lengths

    def with_spacing(self, spacing: float | tuple[float, float, float]) -> Grid:
        """The same region of space in voxels of another size; an axis of one voxel stays.

        The outer faces of the first voxels stay where they are, those of the last ones move
        outwards by less than a voxel.

        Args:
            spacing: Millimetres along all axes, or along each of the array's.

        Raises:
            ValueError: It is not more than 0.
        """
        wanted = np.broadcast_to(np.asarray(spacing, np.float64), 3)
        if not (np.isfinite(wanted) & (wanted > 0)).all():
            raise ValueError(f"spacing: expected millimetres, more than 0, got {spacing}")
        ratio = np.where(np.array(self.shape) == 1, 1.0, wanted / self.spacing)
        x, y, z = (math.ceil(n / r - 1e-6) for n, r in zip(self.shape, ratio, strict=True))
        step = np.diag([*ratio, 1.0])
        step[:3, 3] = (ratio - 1) / 2
        return Grid((x, y, z), self.affine @ step)

    def same_place(self, other: Grid, voxels: float = SAME_PLACE) -> bool:
        """Whether both have as many voxels, whose corners lie no further apart than so many."""
        return (
            self.shape == other.shape
            and corner_distance(self.affine, other.affine, self.shape)[0] <= voxels
        )

    def blocks(self) -> Iterator[tuple[slice, Places]]:
        """The voxels by slabs along the first axis: which they are, and their places."""
        step = max(1, _BLOCK // math.prod(self.shape[1:]))
        for begin in range(0, self.shape[0], step):
            end = min(begin + step, self.shape[0])
            affine = self.affine.copy()
            affine[:3, 3] += begin * affine[:3, 0]
            yield slice(begin, end), Places((end - begin, *self.shape[1:]), affine)


@dataclasses.dataclass(frozen=True)
class Places:
    """Points of space, one for each voxel p of a block: A p + u(p), in millimetres (RAS+).

    What is linear of a chain of transforms stays in A, in float64, however large.

    Attributes:
        shape: The block's, three axes.
        affine: A, ``(4, 4)``, from the block's voxels.
        displacement: u, ``(1, 3, *shape)``; None for 0.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    displacement: Tensor | None = None

    @classmethod
    def of_points(cls, points: NDArray[np.float64]) -> Places:
        """Any points, ``(N, 3)`` millimetres (RAS+), as a block of N voxels in a row."""
        row = torch.from_numpy(np.ascontiguousarray(points.T, np.float64))
        origin = np.diag([0.0, 0.0, 0.0, 1.0])
        return cls((len(points), 1, 1), origin, row.reshape(1, 3, -1, 1, 1))

    @property
    def points(self) -> NDArray[np.float64]:
        """``(N, 3)``, the voxels in the order of the block's elements."""
        whole = affine_displacement(rows(self.affine), torch.Size(self.shape))[0].numpy()
        whole = whole + np.indices(self.shape)
        if self.displacement is not None:
            whole = whole + self.displacement[0].double().numpy()
        flat: NDArray[np.float64] = whole.reshape(3, -1).T
        return flat

    def mapped(self, matrix: NDArray[np.float64]) -> Places:
        """The places that an affine map of millimetres, ``(4, 4)``, takes these to."""
        u = self.displacement
        moved = None if u is None else turned(rows(matrix).to(u), u)
        return Places(self.shape, matrix @ self.affine, moved)

    def moved_by(self, vectors: Tensor) -> Places:
        """These, each moved by its vector: ``(1, 3, *shape)`` millimetres (RAS+)."""
        u = self.displacement
        whole = vectors if u is None else u + vectors.to(u.dtype)
        return Places(self.shape, self.affine, whole)

    def corrected(self, wanted: Places, got: Places) -> Places:
        """Each place moved by what leads from one of ``got`` to its like of ``wanted``."""
        affine = self.affine + wanted.affine - got.affine
        parts = (self.displacement, wanted.displacement, got.displacement)
        if all(part is None for part in parts):
            return Places(self.shape, affine)
        u, to, of = (torch.zeros(()) if part is None else part for part in parts)
        return Places(self.shape, affine, u + to - of)

    def where(self, condition: Tensor, other: Places) -> Places:
        """Each of these where a condition, ``(1, 1, *shape)`` bool, holds, else the other's."""
        mine, theirs = self._displacement_from(other.affine), other.displacement
        if theirs is None:
            theirs = torch.zeros_like(mine)
        return Places(self.shape, other.affine, torch.where(condition, mine.to(theirs), theirs))

    def distance(self, other: Places) -> Tensor:
        """How far each place is from its like, in millimetres: ``(1, 1, *shape)``."""
        theirs = 0 if other.displacement is None else other.displacement
        apart = self._displacement_from(other.affine) - theirs
        # torch.linalg.vector_norm of so few components takes ten times as long.
        x, y, z = apart.unbind(1)
        return (x.square() + y.square() + z.square()).sqrt()[:, None]

    def _displacement_from(self, affine: NDArray[np.float64]) -> Tensor:
        """The displacement that makes these places of another affine part."""
        straight = rows(self.affine - affine + np.eye(4))
        moved = affine_displacement(straight, torch.Size(self.shape))
        return moved if self.displacement is None else moved + self.displacement

    def sample(
        self,
        image: Tensor,
        grid: Grid,
        *,
        mode: str = "linear",
        padding: str = "border",
        planar: bool = False,
    ) -> Tensor:
        """An image at these places.

        Args:
            image: ``(1, C, *grid.shape)``, float32 or float64.
            grid: Where its voxels lie.
            mode: Of ``plasticine.warp``, "bspline" without its prefilter.
            padding: Likewise.
            planar: The image is the same at every place across its plane, the third axis.

        Returns:
            ``(1, C, *shape)``.
        """
        offset, matrix = self.in_voxels(grid, image.dtype, planar=planar)
        if planar:
            # The same plane on both sides, which splines weigh, too.
            image = image.expand(*image.shape[:-1], 3)
            matrix[:, 2, 3] = 1
        return warp(image, offset, affine=matrix, mode=mode, padding=padding, prefilter=False)

    def inside(self, grid: Grid, *, planar: bool = False) -> Tensor:
        """Whether each place is within a grid's voxels, as ITK has it.

        Args:
            grid: The halves of the voxels at its border are within, too.
            planar: It does not matter how far across the grid's plane, its third axis.

        Returns:
            ``(1, 1, *shape)`` float32, 1 or 0.
        """
        offset, matrix = self.in_voxels(grid, planar=planar)
        ones = torch.ones(1).expand(1, 1, *grid.shape)
        return warp(ones, offset, affine=matrix, mode="nearest", padding="zeros")

    def in_voxels(
        self, grid: Grid, dtype: torch.dtype = torch.float32, *, planar: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The places in voxels of a grid, as ``plasticine.warp`` takes them.

        Args:
            grid: Its affine may be any.
            dtype: Of both results.
            planar: All lie in the grid's first plane, across its third axis.

        Returns:
            The displacement, ``(1, 3, *shape)``, and the affine, ``(1, 3, 4)``.
        """
        at = self.mapped(inverted(grid.affine))
        matrix, u = rows(at.affine), at.displacement
        if planar:
            matrix[:, 2] = 0
            u = None if u is None else torch.cat([u[:, :2], torch.zeros_like(u[:, :1])], 1)
        offset = torch.zeros(1, dtype=dtype).expand(1, 3, *self.shape) if u is None else u
        return offset.to(dtype), matrix.to(dtype)


def rows(matrix: NDArray[np.float64]) -> Tensor:
    """An affine map ``(4, 4)`` as the operators take it, ``(1, 3, 4)`` float64."""
    return torch.from_numpy(matrix[:3].copy())[None]


def inverted(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of an affine map ``(4, 4)``."""
    back: NDArray[np.float64] = np.asarray(np.linalg.inv(matrix), np.float64)
    return back
