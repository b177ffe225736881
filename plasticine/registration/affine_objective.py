"""What an affine registration lowers, and the transforms among which it looks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from plasticine.ops._mutual_information import mutual_information
from plasticine.ops.lncc import lncc
from plasticine.ops.mind_distance import mind_distance
from plasticine.ops.warp import warp
from plasticine.registration.affine_levels import PlacedImage, homogeneous
from plasticine.registration.quasi_newton import Vector, descend

METRICS = ("mutual_information", "lncc", "mind")
TRANSFORMS = ("rigid", "similarity", "affine")

_BINS = 32
_WINDOW = 5
"""Of LNCC, voxels of the level."""
_STRAIN = 0.05
"""Weight of half the squared logarithms of how far a map stretches, in the metric's unit: next to
nothing for a body's size, too much for a slab squeezed flat."""

_TURNED = 0.3
"""Part of a value that a map loses which turns the headers upside down, in choosing among maps."""


class Objective:
    """How badly two images on a level agree where they overlap, for a physical map between them.

    Voxels of the fixed image that the map sends out of the moving one, or to what does not count
    there, do not count. Were that all, two corners of background would agree best: of the
    overlap that could be, the smaller volume of the two, a part is asked for, and a value of less
    is scaled down (a distance up) in proportion.

    Args:
        moving: on the level.
        fixed: likewise.
        metric: of ``METRICS``; the larger is taken negative.
        before: (d + 1, d + 1) float64, the map whose stretches are no fault.
        overlap: the part of what could overlap that is asked for.
    """

    def __init__(
        self,
        moving: PlacedImage,
        fixed: PlacedImage,
        metric: str,
        before: Tensor,
        overlap: float = 0.5,
    ) -> None:
        self._overlap = overlap
        moving_range = moving.focused().value_range()
        fixed = fixed.focused().cropped()
        self.moving, self.fixed, self.metric = moving, fixed, metric
        image = fixed.image
        self._places = image.new_zeros(1).expand(1, fixed.ndim, *fixed.size)
        counts = moving.image.new_ones(1, 1, *moving.size)
        self._counts = counts if moving.weight is None else moving.weight
        # Every channel has a histogram of its own: its images are samples of a batch.
        self._channels = image.transpose(0, 1)
        self._range = torch.stack([moving_range, fixed.value_range()], 1)
        self._unstretch = torch.linalg.inv(before)
        self._to_voxels = torch.linalg.inv(moving.affine)
        self._voxel = abs(float(torch.linalg.det(fixed.affine)))

    def __call__(self, physical: Tensor) -> Tensor:
        """The value, (), of (d + 1, d + 1) float64 millimetres to millimetres; differentiable."""
        stretches = torch.linalg.svdvals((self._unstretch @ physical)[:-1, :-1])
        return self._disagreement(physical) + _STRAIN / 2 * (stretches.log() ** 2).sum()

    def _disagreement(self, physical: Tensor) -> Tensor:
        """The metric's part of the value."""
        voxels = self._to_voxels @ physical @ self.fixed.affine
        affine = voxels[None, :-1].to(self._places)
        warped = warp(self.moving.image, self._places, affine=affine)
        weight = warp(self._counts, self._places, affine=affine.detach(), padding="zeros")
        if self.fixed.weight is not None:
            weight = weight * self.fixed.weight
        share = self._share(float(weight.sum()), physical)
        if self.metric == "mutual_information":
            value = mutual_information(
                warped.transpose(0, 1),
                self._channels,
                bins=_BINS,
                mask=weight,
                value_range=self._range,
            )
            return -share * value.mean()
        if self.metric == "lncc":
            return -share * lncc(warped, self.fixed.image, window=_WINDOW, mask=weight).mean()
        distance = mind_distance(warped, self.fixed.image, dilations=(1,), mask=weight)
        return distance.mean() / max(share, 1e-6)

    def _share(self, voxels: float, physical: Tensor) -> float:
        """1, or less where the overlap of so many voxels is too small."""
        growth = abs(float(torch.linalg.det(physical.detach()[:-1, :-1])))
        possible = min(self.fixed.volume, self.moving.volume / max(growth, 1e-6))
        return min(1.0, voxels * self._voxel / max(self._overlap * possible, 1e-6))


def refine(
    objective: Objective, physical: Tensor, transform: str, step: float, evaluations: int
) -> tuple[Tensor, float]:
    """Lowers an objective over the maps ``physical · C exp(sum of θ_i G_i) C⁻¹``.

    C moves the origin to the fixed image's centre. The generators G are translations, rotations
    and, by ``transform``, a common scale, ratios of scales and shears, each of a length that moves
    the fixed image's points by a millimetre in the root mean square.

    Args:
        objective: of a level.
        physical: (d + 1, d + 1) float64, where to begin.
        transform: of ``TRANSFORMS``.
        step: millimetres, the level's spacing: the first step is half of it, none is longer than
            twice, and one below a fiftieth ends the descent.
        evaluations: of the objective, at most.

    Returns:
        The map and the objective's value there.
    """
    fixed = objective.fixed
    extent = fixed.spacing * torch.tensor(fixed.size, dtype=torch.float64)
    axes = generators(fixed.ndim, transform, float((extent**2).mean() / 12) ** 0.5)
    identity = torch.eye(fixed.ndim, dtype=torch.float64)
    before = physical @ homogeneous(identity, fixed.centre)
    after = homogeneous(identity, -fixed.centre)

    def placed(parameters: Tensor) -> Tensor:
        return before @ torch.linalg.matrix_exp(torch.tensordot(parameters, axes, dims=1)) @ after

    def function(parameters: Vector) -> tuple[float, Vector]:
        variables = torch.tensor(parameters, requires_grad=True)
        value = objective(placed(variables))
        (gradient,) = torch.autograd.grad(value, variables)
        return float(value.detach()), gradient.numpy()

    found, value = descend(
        function,
        np.zeros(len(axes)),
        first=step / 2,
        longest=2 * step,
        shortest=step / 50,
        evaluations=evaluations,
    )
    return placed(torch.tensor(found)), value


def generators(ndim: int, transform: str, radius: float) -> Tensor:
    """A basis of a Lie algebra, each of whose elements moves points by 1 in the root mean square.

    Args:
        ndim: 2 or 3.
        transform: of ``TRANSFORMS``.
        radius: root mean square of the points' coordinates along an axis.

    Returns:
        (n, d + 1, d + 1) float64.
    """
    found = [_matrix(ndim, {(axis, ndim): 1.0}) for axis in range(ndim)]
    planes = [(i, j) for i in range(ndim) for j in range(i + 1, ndim)]
    linear: list[dict[tuple[int, int], float]] = [{(i, j): -1.0, (j, i): 1.0} for i, j in planes]
    if transform != "rigid":
        linear.append({(axis, axis): 1.0 for axis in range(ndim)})
    if transform == "affine":
        for last in range(1, ndim):
            linear.append({**{(i, i): 1.0 for i in range(last)}, (last, last): -float(last)})
        linear += [{(i, j): 1.0, (j, i): 1.0} for i, j in planes]
    for entries in linear:
        length = sum(value**2 for value in entries.values()) ** 0.5
        found.append(_matrix(ndim, entries) / (radius * length))
    return torch.stack(found)


def _matrix(ndim: int, entries: dict[tuple[int, int], float]) -> Tensor:
    matrix = torch.zeros(ndim + 1, ndim + 1, dtype=torch.float64)
    for place, value in entries.items():
        matrix[place] = value
    return matrix


def best(
    candidates: Sequence[tuple[str, Tensor, float]], keep: int, fixed: PlacedImage, apart: float
) -> list[tuple[str, Tensor, float]]:
    """Those of the least values, no two of which are nearly one.

    Values are worse the further a map turns from what the headers say: of images that are nearly
    symmetric, or hardly alike, an end over end map may look a little better than the right one.

    Args:
        candidates: a name, a (d + 1, d + 1) float64 matrix and its value.
        keep: at most so many.
        fixed: the image whose corners the maps move.
        apart: millimetres by which two maps must differ at a corner.
    """
    corners = fixed.corners
    found: list[tuple[str, Tensor, float]] = []
    for candidate in sorted(candidates, key=_judged):
        if len(found) == keep:
            break
        places = candidate[1] @ corners
        if all(float((places - other[1] @ corners).norm(dim=0).max()) > apart for other in found):
            found.append(candidate)
    return found


def _judged(candidate: tuple[str, Tensor, float]) -> float:
    _, physical, value = candidate
    u, _, v = torch.linalg.svd(physical[:-1, :-1])
    ndim = len(u)
    cosine = float((torch.trace(u @ v) - (ndim - 2)) / 2)
    trust = 1 - _TURNED * (1 - cosine) / 2
    return value * trust if value < 0 else value / trust
