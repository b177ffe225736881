"""A pair of images on coarser grids, and the affine map between these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plasticine.nn.resampling import resample, sample_affinely
from plasticine.ops.gaussian_smooth import gaussian_smooth
from plasticine.ops.warp import warp

# The longest axis is not shrunk below so many voxels, in which windows would see all of an image,
# and no axis below so few.
_LEAST_LENGTH, _LEAST_SIZE = 24, 8


@dataclass(frozen=True)
class LevelPair:
    """Two images at one resolution.

    Attributes:
        moving: (N, C, *any).
        fixed: (N, C, *spatial).
        affine: (N, d, d + 1), from voxels of this fixed image to voxels of this moving one.
        moving_mask: (N or 1, 1, *of moving), or None.
        fixed_mask: (N or 1, 1, *of fixed), or None.
        spacing: of the fixed image's voxels along each axis, in any unit; None: all alike.
        on_one_grid: whether ``aligned`` made it: both are shrunk alike then.
    """

    moving: Tensor
    fixed: Tensor
    affine: Tensor
    moving_mask: Tensor | None = None
    fixed_mask: Tensor | None = None
    spacing: Sequence[float] | None = None
    on_one_grid: bool = False

    def filled(self) -> LevelPair:
        """With what surrounds it where a mask is 0, for windows and smoothing to meet."""
        moving, fixed = (
            image if mask is None else _filled(image, mask)
            for image, mask in ((self.moving, self.moving_mask), (self.fixed, self.fixed_mask))
        )
        return replace(self, moving=moving, fixed=fixed)

    def aligned(self) -> LevelPair:
        """The moving image on the fixed one's grid: no affine map is left between the two."""
        near = self.shrunk(1)
        size = near.fixed.shape[2:]
        count, ndim = len(near.fixed), len(size)
        mask = near.moving_mask
        if mask is not None:
            mask = mask.expand(count, *mask.shape[1:])
            still = mask.new_zeros(1).expand(1, ndim, *size)
            mask = warp(mask, still, affine=near.affine, padding="zeros")
        moving = sample_affinely(near.moving, near.affine, size)
        unit = torch.eye(ndim, ndim + 1, dtype=moving.dtype, device=moving.device)
        affine = unit.expand(count, -1, -1).contiguous()
        return replace(near, moving=moving, affine=affine, moving_mask=mask, on_one_grid=True)

    def swapped(self) -> LevelPair:
        """Of an aligned pair, the images in each other's place."""
        return replace(
            self,
            moving=self.fixed,
            fixed=self.moving,
            moving_mask=self.fixed_mask,
            fixed_mask=self.moving_mask,
        )

    def shrunk(self, factor: int) -> LevelPair:
        """Both smoothed and sampled on grids whose corners lie on these images' corners.

        Args:
            factor: by how much, along each of the fixed image's axes: less where an axis is short,
                or its voxels are long. The moving image is brought to one resolution with the fixed
                one.
        """
        fixed, moving = self.fixed.shape[2:], self.moving.shape[2:]
        factors = self._factors(factor)
        fixed_size = _shrunk_size(fixed, factors)
        # Voxels of the moving image, along each of its axes, from one fixed voxel to the next: by
        # so many it is shrunk. In whole numbers, for to be resampled blurs it.
        reach = (self.affine[:, :, :-1] * self.affine.new_tensor(factors)).norm(dim=2).amax(0)
        moving_size = _shrunk_size(moving, reach.round().tolist())
        if self.on_one_grid:
            moving_size = fixed_size
        moving_mask, fixed_mask = (
            None if mask is None else _shrink(mask, size)
            for mask, size in ((self.moving_mask, moving_size), (self.fixed_mask, fixed_size))
        )
        return replace(
            self,
            moving=_shrink(self.moving, moving_size),
            fixed=_shrink(self.fixed, fixed_size),
            affine=_between(self.affine, fixed, fixed_size, moving, moving_size),
            moving_mask=moving_mask,
            fixed_mask=fixed_mask,
        )

    def _factors(self, factor: int) -> list[float]:
        """By how much each axis is shrunk: thick slices only where the others are as coarse."""
        size = self.fixed.shape[2:]
        spacing = [1.0] * len(size) if self.spacing is None else self.spacing
        lengths = [length / min(spacing) for length in spacing]
        longest = max(n * length for n, length in zip(size, lengths, strict=True))
        coarse = min(float(factor), longest / _LEAST_LENGTH)
        return [max(1.0, coarse / length) for length in lengths]


def steps_between(size: Sequence[int], other: Sequence[int]) -> list[float]:
    """From a voxel of one grid to the next, in voxels of another one with the same corners."""
    return [max(m - 1, 1) / max(n - 1, 1) for n, m in zip(size, other, strict=True)]


def _shrunk_size(size: Sequence[int], factors: Sequence[float]) -> list[int]:
    return [
        max(math.ceil(n / max(factor, 1.0)), min(n, _LEAST_SIZE))
        for n, factor in zip(size, factors, strict=True)
    ]


def _shrink(image: Tensor, size: Sequence[int]) -> Tensor:
    step = steps_between(size, image.shape[2:])
    if all(m == n for m, n in zip(size, image.shape[2:], strict=True)):
        return image
    smooth = gaussian_smooth(image, [0.5 * factor if factor > 1 else 0.0 for factor in step])
    return resample(smooth, size, step)


def _filled(image: Tensor, mask: Tensor) -> Tensor:
    counts = (mask > 0).to(image.dtype)
    total = gaussian_smooth(counts, 2.0)
    around = gaussian_smooth(image * counts, 2.0) / total.clamp_min(1e-6)
    return torch.where(counts > 0, image, around)


def _between(
    affine: Tensor,
    fixed: Sequence[int],
    fixed_level: Sequence[int],
    moving: Sequence[int],
    moving_level: Sequence[int],
) -> Tensor:
    """An affine map between whole grids, between their shrunk ones."""
    to_level = affine.new_tensor(steps_between(moving, moving_level))[:, None]
    of_level = affine.new_tensor([*steps_between(fixed, fixed_level), 1.0])
    return to_level * affine / of_level
