"""Where two volumes lie to one another: in space, or two single slices in a plane."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.volume import Volume

# Cosine of the angle between the planes of two slices: beyond 45 degrees they show other things.
_LEAST_COSINE = 0.7


@dataclasses.dataclass(frozen=True)
class _Plane:
    """A slice's plane: the axis across it, coordinates within it, and how far along the normal."""

    axis: int
    basis: NDArray[np.float64]
    normal: NDArray[np.float64]
    offset: float

    def coordinates(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(3, 3)``, voxel index in the slice to millimetres in the plane."""
        within = [axis for axis in range(3) if axis != self.axis]
        matrix = np.eye(3)
        matrix[:2, :2] = self.basis.T @ affine[:3, within]
        matrix[:2, 2] = self.basis.T @ affine[:3, 3]
        return matrix


@dataclasses.dataclass(frozen=True)
class PairSpace:
    """How two volumes become tensors, and what is found of the tensors holds of the volumes.

    Two volumes keep their three axes. Of two single slices, each in a file of three axes or two,
    the plane is what is registered: of slices that are not quite parallel the moving one's plane
    is turned onto the fixed one's by the smallest rotation.

    Attributes:
        moving_affine: ``(d + 1, d + 1)``, voxel index to millimetres of the moving tensor.
        fixed_affine: Likewise.
        planes: Of the moving and the fixed slice; None for volumes.
    """

    moving_affine: torch.Tensor
    fixed_affine: torch.Tensor
    planes: tuple[_Plane, _Plane] | None

    @classmethod
    def of(cls, moving: Volume, fixed: Volume) -> PairSpace:
        """Lays out two volumes that are placed in space.

        Raises:
            ValueError: One is a slice and the other is not, a line of voxels, or the slices cross.
        """
        affines = [volume.affine for volume in (moving, fixed)]
        single = [_single_axis(volume) for volume in (moving, fixed)]
        first, second = affines
        assert first is not None
        assert second is not None
        if single[0] is None and single[1] is None:
            return cls(torch.from_numpy(first.copy()), torch.from_numpy(second.copy()), None)
        if single[0] is None or single[1] is None:
            raise ValueError(
                "moving and fixed must both be volumes, or both single slices; got shapes "
                f"{moving.data.shape} and {fixed.data.shape}"
            )
        fixed_plane = _plane_of(second, single[1])
        normal = _plane_of(first, single[0]).normal
        normal = normal if normal @ fixed_plane.normal >= 0 else -normal
        if normal @ fixed_plane.normal < _LEAST_COSINE:
            raise ValueError(
                f"the slices of {moving.path} and {fixed.path} lie across each other in space, "
                f"by {np.degrees(np.arccos(normal @ fixed_plane.normal)):.0f} degrees"
            )
        turn = _smallest_rotation(fixed_plane.normal, normal)
        offset = float(normal @ first[:3, 3])
        moving_plane = _Plane(single[0], turn @ fixed_plane.basis, normal, offset)
        return cls(
            torch.from_numpy(moving_plane.coordinates(first)),
            torch.from_numpy(fixed_plane.coordinates(second)),
            (moving_plane, fixed_plane),
        )

    def to_tensor(self, data: NDArray[Any], *, moving: bool) -> torch.Tensor:
        """A volume's data as ``(1, 1, *spatial)``."""
        if self.planes is not None:
            data = data.squeeze(self.planes[0 if moving else 1].axis)
        return torch.from_numpy(np.ascontiguousarray(data))[None, None]

    def places_to_tensor(self, places: NDArray[np.float64], *, moving: bool) -> NDArray[np.float64]:
        """Places in space, ``(N, 3)`` millimetres, as ``(N, d)`` of the tensor's millimetres."""
        if self.planes is None:
            return places
        within: NDArray[np.float64] = places @ self.planes[0 if moving else 1].basis
        return within

    def to_file(self, tensor: torch.Tensor, *, moving: bool) -> torch.Tensor:
        """``(1, C, *spatial)`` as ``(C, X, Y, Z)`` of the file."""
        channels = tensor.detach().cpu()[0]
        if self.planes is None:
            return channels
        return channels.unsqueeze(self.planes[0 if moving else 1].axis + 1)

    def field_to_file(self, displacement: torch.Tensor, *, moving: bool) -> torch.Tensor:
        """A displacement ``(1, d, *spatial)`` as ``(1, 3, X, Y, Z)``, 0 across a slice."""
        field = self.to_file(displacement, moving=moving)
        if self.planes is not None:
            axis = self.planes[0 if moving else 1].axis
            across = field.new_zeros(1, *field.shape[1:])
            field = torch.cat([field[:axis], across, field[axis:]])
        return field[None].to(displacement.device)

    def field_to_tensor(self, displacement: torch.Tensor, fixed: Volume) -> torch.Tensor:
        """The whole displacement of φ, ``(1, 3, X, Y, Z)``, as ``(1, d, *fixed spatial)``.

        Both in voxels of the fixed image; of slices, φ is seen within the moving slice's plane.
        """
        if self.planes is None:
            return displacement
        moving, plane = self.planes
        assert fixed.affine is not None
        voxels = np.indices(fixed.data.shape) + displacement[0].double().numpy()
        places = np.einsum("ij,jxyz->ixyz", fixed.affine[:3, :3], voxels)
        places += fixed.affine[:3, 3, None, None, None]
        back = np.linalg.inv(self.fixed_affine.numpy())
        within = np.einsum("ij,jxyz->ixyz", back[:2, :2] @ moving.basis.T, places)
        within = within.squeeze(plane.axis + 1) + back[:2, 2, None, None]
        field = within - np.indices(within.shape[1:])
        return torch.from_numpy(field)[None].to(displacement.dtype)

    def within(self, matrix: NDArray[np.float64]) -> torch.Tensor:
        """A map in space, ``(4, 4)``, as one of the tensors' millimetres: `physical`, undone.

        Of slices, it is what the map does of points of the fixed plane, seen within the moving one.
        """
        if self.planes is None:
            return torch.from_numpy(matrix.astype(np.float64))
        moving, fixed = self.planes
        into = np.zeros((4, 3))
        into[:3, :2], into[:3, 2], into[3, 2] = fixed.basis, fixed.normal * fixed.offset, 1
        onto = np.zeros((3, 4))
        onto[:2, :3], onto[2, 3] = moving.basis.T, 1
        return torch.from_numpy(onto @ matrix @ into)

    def physical(self, matrix: torch.Tensor) -> torch.Tensor:
        """A map of millimetres between the tensors as one in space, ``(4, 4)`` float64.

        The fixed slice's plane goes to the moving slice's.
        """
        if self.planes is None:
            return matrix
        moving, fixed = self.planes
        to, of = (np.column_stack([plane.basis, plane.normal]) for plane in self.planes)
        within = np.eye(4)
        within[np.ix_([0, 1, 3], [0, 1, 3])] = matrix.numpy()
        within[2, 3] = moving.offset - fixed.offset
        left, right = np.eye(4), np.eye(4)
        left[:3, :3], right[:3, :3] = to, of.T
        return torch.from_numpy(left @ within @ right)


def _single_axis(volume: Volume) -> int | None:
    """The axis across a single slice; None of a volume.

    Raises:
        ValueError: It has two such axes or three.
    """
    single = [axis for axis, size in enumerate(volume.data.shape) if size == 1]
    if len(single) > 1:
        raise ValueError(
            f"{volume.path}: expected a slice or a volume, got {volume.data.shape} voxels"
        )
    return single[0] if single else None


def _plane_of(affine: NDArray[np.float64], axis: int) -> _Plane:
    first, second = (affine[:3, other] for other in range(3) if other != axis)
    first = first / np.linalg.norm(first)
    second = second - first * (first @ second)
    second = second / np.linalg.norm(second)
    normal = np.cross(first, second)
    return _Plane(axis, np.column_stack([first, second]), normal, float(normal @ affine[:3, 3]))


def _smallest_rotation(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation that takes one unit vector to another, less than half a turn away."""
    x, y, z = np.cross(start, end)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: NDArray[np.float64] = np.eye(3) + cross + cross @ cross / (1 + start @ end)
    return turn
