"""What a transform is: a map from points of a fixed image to points of a moving one."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticine.ops.exponential import exponential
from plasticine.ops.invert import invert
from plasticine.registration.deformation import affine_displacement, nearest_affine, turned
from plasticine.transforms.places import Advance, Grid, Places, inverted, rows

# How often an inverse is mended; each time its error falls to a tenth or less where it is smooth.
_MENDINGS = 4
# Voxels that tell what is affine of a field.
_ENOUGH = 1 << 21


class Transform(abc.ABC):
    """A map of space, from points of a fixed image to points of a moving one.

    Points are millimetres along RAS+ axes. An image is carried from the moving to the fixed
    voxels by it, points from the fixed to the moving image. One of a plane, `ndim` 2, moves
    nothing across the plane of the first two axes, and is the same at every height.
    """

    ndim: Literal[2, 3]

    @abc.abstractmethod
    def at(self, places: Places) -> Places:
        """Where it takes places."""

    @abc.abstractmethod
    def inverse(self, grid: Grid | None = None) -> Transform:
        """The map back.

        Args:
            grid: Voxels of the fixed image, where this has none of its own to be inverted on.

        Raises:
            ValueError: It cannot be inverted, or a grid is needed.
        """

    def points(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where it takes points, ``(N, 3)`` millimetres (RAS+), in float64."""
        return self.at(Places.of_points(points)).points if len(points) else points.copy()

    def sampled(self, grid: Grid, advance: Advance | None = None) -> DisplacementField:
        """The same map as a displacement at every voxel of a grid, worked out slab by slab."""
        field = torch.empty(3, *grid.shape)
        to_voxels = inverted(grid.affine)
        for slab, places in grid.blocks():
            there = self.at(places).mapped(to_voxels)
            # Less the voxel itself, which the slab counts from its first row.
            there.affine[0, 3] -= slab.start
            moved = affine_displacement(rows(there.affine), torch.Size(there.shape))[0]
            if there.displacement is not None:
                moved += there.displacement[0]
            field[:, slab] = moved
            if advance is not None:
                advance(slab.stop, grid.shape[0])
        return DisplacementField(field, grid, self.ndim)


@dataclasses.dataclass(frozen=True)
class AffineTransform(Transform):
    """A linear map and a translation.

    Attributes:
        matrix: ``(4, 4)`` float64, millimetres (RAS+) to millimetres; of a plane the third axis is
            left alone.
        ndim: Axes, 2 of a plane.
    """

    matrix: NDArray[np.float64]
    ndim: Literal[2, 3] = 3

    def at(self, places: Places) -> Places:
        """Where it takes places."""
        return places.mapped(self.matrix)

    def inverse(self, grid: Grid | None = None) -> AffineTransform:
        """The map back; needs no grid."""
        return AffineTransform(inverted(self.matrix), self.ndim)


@dataclasses.dataclass(frozen=True)
class DisplacementField(Transform):
    """A displacement at every voxel, linear in between.

    Attributes:
        displacement: ``(3, X, Y, Z)`` float32, voxels, component i along axis i; of a plane the
            third is 0.
        grid: Where the voxels lie; of a plane one slice, whose height does not matter.
        ndim: Axes, 2 of a plane.
        edge_repeated: Whether the displacement goes on outside of the grid as at its edge; else
            there is none, as ITK has it.
    """

    displacement: Tensor
    grid: Grid
    ndim: Literal[2, 3] = 3
    edge_repeated: bool = False

    @classmethod
    def of(
        cls,
        displacement: NDArray[np.float32],
        affine: NDArray[np.float64],
        *,
        planar: bool = False,
    ) -> DisplacementField:
        """A field of an array.

        Args:
            displacement: ``(3, X, Y, Z)``, or ``(2, X, Y)`` of a plane, voxels.
            affine: ``(4, 4)``, voxel index to millimetres (RAS+).
            planar: Take one of three components and one slice for one of a plane.
        """
        if len(displacement) == 2:
            planar = True
            still = np.zeros_like(displacement[:1])
            displacement = np.concatenate([displacement, still])[..., None]
        x, y, z = displacement.shape[1:]
        field = torch.from_numpy(np.ascontiguousarray(displacement))
        return cls(field, Grid((x, y, z), affine), 2 if planar else 3)

    @classmethod
    def of_vectors(
        cls, vectors: NDArray[np.floating[Any]], grid: Grid, ndim: Literal[2, 3] = 3
    ) -> DisplacementField:
        """A field of millimetres along RAS+ axes, ``(3, X, Y, Z)``."""
        back = inverted(grid.affine)[:3, :3].astype(vectors.dtype)
        voxels = np.einsum("ij,j...->i...", back, vectors).astype(np.float32)
        return cls(torch.from_numpy(voxels), grid, ndim)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The displacement in millimetres along RAS+ axes, ``(3, X, Y, Z)``."""
        axes = self.grid.affine[:3, :3].astype(np.float32)
        found: NDArray[np.float32] = np.einsum("ij,j...->i...", axes, self.displacement.numpy())
        return found

    def at(self, places: Places) -> Places:
        """Where it takes places."""
        planar = self.ndim == 2
        voxels = places.sample(self.displacement[None], self.grid, planar=planar)
        if not self.edge_repeated:
            voxels *= places.inside(self.grid, planar=planar)
        return places.moved_by(turned(rows(self.grid.affine).to(voxels), voxels))

    def inverse(self, grid: Grid | None = None) -> Inverse:
        """The map back, looked for at every place.

        It begins where the inverse of the field on its own voxels leads, of which what is affine
        is kept apart: it may lead far out of them.

        Raises:
            ValueError: It cannot be inverted: what is affine of it has no inverse.
        """
        affine = AffineTransform(
            self.grid.affine @ _affine_part(self.displacement) @ inverted(self.grid.affine),
            self.ndim,
        ).inverse()
        rest = Chain((self, affine)).sampled(self.grid)
        inverse = invert(rest.displacement[None]).displacement[0]
        return Inverse(self, Chain((affine, DisplacementField(inverse, self.grid, self.ndim))))


@dataclasses.dataclass(frozen=True)
class VelocityField(Transform):
    """The exponential of a stationary velocity, one unit of time along it.

    Attributes:
        velocity: ``(3, X, Y, Z)`` float32, voxels, component i along axis i.
        grid: Where the voxels lie.
        ndim: Axes, 2 of a plane.
        squarings: Of scaling and squaring.
    """

    velocity: Tensor
    grid: Grid
    ndim: Literal[2, 3] = 3
    squarings: int = 7

    @functools.cached_property
    def displacement_field(self) -> DisplacementField:
        """What it comes to, on the velocity's voxels."""
        field = exponential(self.velocity[None], steps=self.squarings)[0]
        return DisplacementField(field, self.grid, self.ndim)

    def at(self, places: Places) -> Places:
        """Where it takes places; those outside of the grid stay."""
        return self.displacement_field.at(places)

    def inverse(self, grid: Grid | None = None) -> VelocityField:
        """The exponential of the opposite velocity."""
        return dataclasses.replace(self, velocity=-self.velocity)


@dataclasses.dataclass(frozen=True)
class BSplineTransform(Transform):
    """A free-form deformation: a displacement that cubic B-splines of control points give.

    Rueckert et al., "Nonrigid registration using free-form deformations", IEEE TMI 1999.

    Attributes:
        coefficients: ``(3, X, Y, Z)`` float32, control points' displacements in millimetres (RAS+).
        grid: Where the control points lie.
        ndim: Axes, 2 of a plane.
    """

    coefficients: Tensor
    grid: Grid
    ndim: Literal[2, 3] = 3

    def at(self, places: Places) -> Places:
        """Where it takes places; those whose four control points an axis are not all there stay."""
        planar = self.ndim == 2
        values = places.sample(
            self.coefficients[None], self.grid, mode="bspline", padding="zeros", planar=planar
        )
        return places.moved_by(values * self._supported(places))

    def inverse(self, grid: Grid | None = None) -> Transform:
        """The map back, of the displacement on a grid.

        Raises:
            ValueError: No grid is given.
        """
        if grid is None:
            raise ValueError(
                "a B-spline transform is inverted on the voxels of the fixed image, which were not "
                "given"
            )
        return self.sampled(grid).inverse()

    def _supported(self, places: Places) -> Tensor:
        """1 where a place is between the second and the last but one control point, else 0."""
        inner = list(self.grid.shape)
        affine = self.grid.affine.copy()
        for axis in range(self.ndim):
            # One voxel, whose faces are those two control points.
            inner[axis] = 1
            affine[:3, 3] += affine[:3, axis] * (self.grid.shape[axis] - 1) / 2
            affine[:3, axis] *= self.grid.shape[axis] - 3
        x, y, z = inner
        return places.inside(Grid((x, y, z), affine), planar=self.ndim == 2)


@dataclasses.dataclass(frozen=True)
class Chain(Transform):
    """Transforms one after the other.

    Attributes:
        transforms: In the order in which a point of the fixed image passes through them.
    """

    transforms: tuple[Transform, ...]

    @property
    def ndim(self) -> Literal[2, 3]:  # type: ignore[override]
        """Axes: 2 if all are of a plane."""
        return 2 if self.transforms and all(t.ndim == 2 for t in self.transforms) else 3

    def at(self, places: Places) -> Places:
        """Where they take places."""
        for transform in self.transforms:
            places = transform.at(places)
        return places

    def inverse(self, grid: Grid | None = None) -> Chain:
        """Their inverses, the last one first."""
        return Chain(tuple(t.inverse(grid) for t in reversed(self.transforms)))


@dataclasses.dataclass(frozen=True)
class Inverse(Transform):
    """The map back of a transform that has no closed one: T(x) = y, solved at every place y.

    An approximate inverse B is mended by its own error: x + B(y) - B(T(x)), while T(x) comes closer
    to y. What is left is far below what interpolating B leaves.

    Attributes:
        transform: T.
        approximation: B.
    """

    transform: Transform
    approximation: Transform

    @property
    def ndim(self) -> Literal[2, 3]:  # type: ignore[override]
        """Axes of the transform."""
        return self.transform.ndim

    def at(self, places: Places) -> Places:
        """Where it takes places."""
        return self.solved(places)[0]

    def solved(self, places: Places) -> tuple[Places, Tensor]:
        """Where it takes places, and how far T misses them from there: ``(1, 1, *shape)``, mm."""
        first = found = self.approximation.at(places)
        there = self.transform.at(found)
        error = there.distance(places)
        for _ in range(_MENDINGS):
            better = found.corrected(first, self.approximation.at(there))
            beyond = self.transform.at(better)
            error_there = beyond.distance(places)
            closer = error_there < error
            if not closer.any():
                break
            found = better.where(closer, found)
            there = beyond.where(closer, there)
            error = torch.where(closer, error_there, error)
        return found, error

    def inverse(self, grid: Grid | None = None) -> Transform:
        """The transform itself."""
        return self.transform


def simplified(transforms: Iterable[Transform]) -> Transform:
    """The same map in as few parts as can be told exactly: chains unpacked, matrices multiplied."""
    parts: list[Transform] = []
    for part in _unpacked(transforms):
        last = parts[-1] if parts else None
        if isinstance(part, AffineTransform) and isinstance(last, AffineTransform):
            parts[-1] = AffineTransform(part.matrix @ last.matrix, max(part.ndim, last.ndim))
        else:
            parts.append(part)
    if not parts:
        return AffineTransform(np.eye(4))
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


def _unpacked(transforms: Iterable[Transform]) -> Iterator[Transform]:
    for transform in transforms:
        if isinstance(transform, Chain):
            yield from _unpacked(transform.transforms)
        else:
            yield transform


def _affine_part(displacement: Tensor) -> NDArray[np.float64]:
    """The affine map of voxels, ``(4, 4)``, that is nearest to a displacement ``(3, *shape)``."""
    whole = np.eye(4)
    # Of a large field every n-th voxel tells as much.
    step = max(1, round((displacement[0].numel() / _ENOUGH) ** (1 / 3)))
    axes = [axis for axis, size in enumerate(displacement.shape[1:]) if size > 1]
    if axes:
        kept = displacement[axes, ::step, ::step, ::step]
        kept = kept.reshape(len(axes), *(n for n in kept.shape[1:] if n > 1))
        part = nearest_affine(kept[None] / step).numpy()
        whole[np.ix_(axes, axes)] = part[:, :-1]
        whole[axes, 3] = part[:, -1] * step
    if not abs(np.linalg.det(whole)) > 1e-6:
        raise ValueError("the displacement cannot be inverted: what is affine of it collapses")
    return whole
