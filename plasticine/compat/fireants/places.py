"""Places in [-1, 1], (x, y, z) and channel-last, as affines and displacements in voxels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Where an image is sampled: as ``F.affine_grid`` and ``F.grid_sample`` have it.

    Attributes:
        affine: ``(B, d, d + 1)`` of the coordinates of the result; None for the identity.
        grid: ``(B, *size, d)`` that is added, or stands alone; None for the affine alone.
        grid_affine: ``(B, d, d)`` that is applied to the grid first, or None.
        size: of the result.
        least: the coordinates of its first voxel, (x, y, z).
        most: of its last.
        is_displacement: whether the grid is added; else it is where to sample, the affine aside.
        align_corners: whether -1 and 1 are centres of the outermost voxels, or their outer edges.
    """

    affine: Tensor | None
    grid: Tensor | None
    grid_affine: Tensor | None
    size: Sequence[int]
    least: Sequence[float]
    most: Sequence[float]
    is_displacement: bool
    align_corners: bool

    def leaves(
        self, affine: bool, grid: bool
    ) -> tuple[tuple[Tensor | None, Tensor | None], Places]:
        """Copies of the affine and the grid that autograd follows, and the places by them."""
        leaves = (_leaf(self.affine, affine), _leaf(self.grid, grid))
        return leaves, replace(self, affine=leaves[0], grid=leaves[1])

    def in_voxels(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The affine and the displacement of ``plasticine.warp`` for an image."""
        how: dict[str, Any] = {
            "dtype": torch.promote_types(image.dtype, torch.float32),
            "device": image.device,
        }
        # In float64: the identity is then exactly that, and sends voxels to voxels.
        precisely: dict[str, Any] = {"dtype": torch.float64, "device": image.device}
        ndim, batch = len(self.size), image.shape[0]
        sizes = torch.tensor(image.shape[2:], **precisely)
        scale = (sizes - 1) / 2 if self.align_corners else sizes / 2
        centre = ((sizes - 1) / 2).expand(batch, ndim)
        if self.grid is not None and not self.is_displacement:
            matrix = torch.zeros(batch, ndim, ndim, **precisely)
            offset = centre
        else:
            if self.affine is None:
                affine = torch.eye(ndim, ndim + 1, **precisely).expand(batch, -1, -1)
            else:
                affine = self.affine.to(**precisely).expand(batch, -1, -1)
            turned = affine[:, :, :-1].flip(1, 2)  # to (z, y, x)
            first, step = (torch.tensor(x, **precisely).flip(0) for x in self._lines())
            matrix = scale[:, None] * turned * step
            offset = scale * (turned @ first + affine[:, :, -1].flip(1)) + centre
        voxels = torch.cat([matrix, offset[..., None]], -1).to(how["dtype"])
        if self.grid is None:
            nothing = torch.zeros((1, ndim, *[1] * ndim), **how)
            return voxels, nothing.expand(batch, ndim, *self.size)
        grid = self.grid.to(**how)
        if self.grid_affine is not None:
            grid = grid @ self.grid_affine.to(**how).mT.reshape(-1, *[1] * (ndim - 1), ndim, ndim)
        grid = (grid.flip(-1) * scale.to(how["dtype"])).movedim(-1, 1)
        return voxels, grid.expand(batch, *grid.shape[1:])

    def _lines(self) -> tuple[list[float], list[float]]:
        """The first coordinate and the step of each axis; a single voxel is in the middle."""
        first, step = [], []
        for n, least, most in zip(reversed(self.size), self.least, self.most, strict=True):
            first.append(least if n > 1 else (least + most) / 2)
            step.append((most - least) / (n - 1) if n > 1 else 0.0)
        return first, step


def _leaf(x: Tensor | None, wanted: bool) -> Tensor | None:
    return None if x is None else x.detach().requires_grad_(wanted)


def coordinates(grid: Tensor, least: Sequence[float], most: Sequence[float]) -> Iterator[Tensor]:
    """Of each axis, x first: the coordinates of a grid's voxels, in a shape that meets its own."""
    ndim = grid.dim() - 2
    for axis, (first, last) in enumerate(zip(least, most, strict=True)):
        n = grid.shape[ndim - axis]
        if n == 1:
            first = last = (first + last) / 2
        line = torch.linspace(first, last, n, dtype=grid.dtype, device=grid.device)
        yield line.view(1, *[n if i == ndim - 1 - axis else 1 for i in range(ndim)])
