"""Landmarks: places of a fixed image and those of a moving one that show the same."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from plasticine.nn.finite import check_finite
from plasticine.ops._checks import is_tensor

# Fewer than so many of an affine map's points more than it needs, and it follows their error.
_SPARE = 2
# A spread of points along an axis, of that along their longest, below which they lie on a plane.
_FLAT = 1e-3


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """Pairs of points: what is at ``fixed[:, k]`` of one image is at ``moving[:, k]`` of the other.

    Attributes:
        moving: (N or 1, K, d), floating point: millimetres, or voxels, as is said where they go.
        fixed: likewise.
        weight: how strongly they pull beside the images: of one that lies a voxel off, the pull is
            so many times the usual gradient of a similarity.
    """

    moving: Tensor
    fixed: Tensor
    weight: float = 4.0

    def __post_init__(self) -> None:
        for name in ("moving", "fixed"):
            points = getattr(self, name)
            is_tensor(points, f"landmarks.{name}")
            if points.ndim != 3 or points.shape[2] not in (2, 3) or 0 in points.shape:
                raise ValueError(
                    f"landmarks.{name} must be (N, K, d) of 2 or 3 axes; got {tuple(points.shape)}"
                )
            if not points.is_floating_point():
                raise TypeError(f"landmarks.{name} must be floating point; got {points.dtype}")
            check_finite(points, f"landmarks.{name}")
        if self.moving.shape != self.fixed.shape:
            raise ValueError(
                "there must be as many landmarks of both images; got "
                f"{tuple(self.moving.shape)} and {tuple(self.fixed.shape)}"
            )
        if not 0 < self.weight < math.inf:
            raise ValueError(f"landmarks' weight must be positive and finite; got {self.weight}")

    def swapped(self) -> Landmarks:
        """With the images in each other's place."""
        return dataclasses.replace(self, moving=self.fixed, fixed=self.moving)

    def mapped(self, moving: Tensor, fixed: Tensor) -> Landmarks:
        """With each image's points carried by a map, as ``mapped`` takes it."""
        both = torch.broadcast_tensors(mapped(moving, self.moving), mapped(fixed, self.fixed))
        return dataclasses.replace(self, moving=both[0], fixed=both[1])


def fitted(landmarks: Landmarks, transform: str) -> Tensor:
    """The map of fixed places to moving ones of the least squared error.

    Args:
        landmarks: (1, K, d), millimetres.
        transform: "rigid", "similarity" or "affine". Of fewer than d + 3 landmarks, or of some that
            lie in a plane (in 2D on a line), no affine map is taken but a similarity; of fewer than
            d, or of some on a line (in 2D at one place), a translation.

    Returns:
        (d + 1, d + 1) float64 on the CPU.

    Source: S. Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns", IEEE PAMI 13 (1991).
    """
    both = landmarks.moving, landmarks.fixed
    moving, fixed = (points[0].detach().double().cpu() for points in both)
    count, ndim = fixed.shape
    centres = moving.mean(0), fixed.mean(0)
    moving, fixed = moving - centres[0], fixed - centres[1]
    dimensions = min(_dimensions(moving), _dimensions(fixed))
    linear = torch.eye(ndim, dtype=torch.float64)
    if transform == "affine" and dimensions == ndim and count > ndim + _SPARE:
        linear = torch.linalg.lstsq(fixed, moving).solution.T
    elif dimensions >= ndim - 1 and count >= ndim:
        left, values, right = torch.linalg.svd(moving.T @ fixed)
        signs = torch.ones(ndim, dtype=torch.float64)
        signs[-1] = torch.sign(torch.linalg.det(left @ right))
        linear = left * signs @ right
        if transform != "rigid":
            linear = linear * ((values * signs).sum() / (fixed**2).sum())
    matrix = torch.eye(ndim + 1, dtype=torch.float64)
    matrix[:-1, :-1] = linear
    matrix[:-1, -1] = centres[0] - linear @ centres[1]
    return matrix


def check_landmarks(landmarks: Landmarks, to_voxels: Tensor, fixed: Tensor) -> None:
    """Refuses landmarks that do not suit the fixed image.

    Args:
        landmarks: in any coordinates.
        to_voxels: from those of the fixed image to its voxels, as ``mapped`` takes it.
        fixed: (N, C, *spatial).

    Raises:
        ValueError: they have other axes, are neither one set nor N, or some lie outside.
    """
    count, ndim = len(fixed), fixed.ndim - 2
    shape = tuple(landmarks.fixed.shape)
    if shape[0] not in (1, count) or shape[2] != ndim:
        raise ValueError(
            f"landmarks must be ({count}{'' if count == 1 else ' or 1'}, K, {ndim}) for images of "
            f"{tuple(fixed.shape)}; got {shape}"
        )
    points = mapped(to_voxels, landmarks.fixed)
    last = points.new_tensor(fixed.shape[2:]) - 0.5
    outside = ((points < -0.5) | (points > last)).any(2).nonzero()
    if len(outside):
        sample, number = outside[0].tolist()
        place = [round(coordinate, 2) for coordinate in points[sample, number].tolist()]
        raise ValueError(
            f"landmarks of the fixed image must lie within its {tuple(fixed.shape[2:])} voxels; "
            f"{len(outside)} do not, first of them number {number + 1}, at voxel {place}"
        )


def _dimensions(points: Tensor) -> int:
    """Of the plane, line or space that points (K, d) about the origin fill."""
    spread = torch.linalg.svdvals(points)
    return int((spread > _FLAT * spread[0]).sum())


def mapped(matrix: Tensor, points: Tensor) -> Tensor:
    """Points (N, K, d) carried by (N or 1, d, d + 1) or (d + 1, d + 1), in float64."""
    ndim = points.shape[2]
    matrix = matrix.to(points.device).double()
    matrix = (matrix[None] if matrix.ndim == 2 else matrix)[:, :ndim]
    return points.double() @ matrix[:, :, :-1].mT + matrix[:, None, :, -1]
