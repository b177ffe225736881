"""Registering two images by an affine map, wherever they begin and whatever shows in them how."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticine.nn.modes import plain_modes, recordable
from plasticine.ops import _checks
from plasticine.registration.affine_levels import PlacedImage, level_spacings
from plasticine.registration.affine_objective import METRICS, TRANSFORMS, Objective, best, refine
from plasticine.registration.affine_starts import STARTS, offsets, starts, with_turns
from plasticine.registration.deformation import nearest_affine
from plasticine.registration.image_pair import check_pair

_MOST_VOXELS = 400_000
"""Of the finest level."""
_LEAST_VOXELS = {2: 1_000, 3: 4_000}
"""Of the coarsest level, on which the starts are compared, by the number of axes."""
_TRIAL = {2: 40, 3: 12}
"""Evaluations that each start gets before they are compared, by the number of axes."""
_OFFSETS = 12
"""How many of the offsets are started from."""
_TURNED_OFFSETS = 20
"""How many of the offsets are tried with turns, too."""
_ONE = 1e-3
"""Millimetres within which two starts are one."""
_RIVAL = 0.8
"""Part of the best value that a start must reach to go on beside it."""
_EVALUATIONS = 60
"""At most, of a level."""


@dataclass(frozen=True)
class AffineMap:
    """An affine map from a fixed image to a moving one.

    Attributes:
        physical: (d + 1, d + 1) float64, fixed millimetres to moving millimetres.
        voxels: (d, d + 1) float64, fixed voxels to moving voxels: ``plasticine.warp`` takes it,
            as (1, d, d + 1) in the displacement's dtype, to bring the moving image to the fixed.
        inverse_voxels: (d, d + 1) float64, moving voxels to fixed voxels.
        start: which of the starts led to it, or "initial"; of a map that was not looked for,
            "initial displacement".
        value: of the metric on the finest level: mutual information in nats, LNCC, or the
            distance of MIND descriptors negated, less a little for how far the map stretches; the
            higher the better. NaN of a map that was not looked for.
    """

    physical: Tensor
    voxels: Tensor
    inverse_voxels: Tensor
    start: str
    value: float


@dataclass(frozen=True)
class AffineRegistration:
    """Finds the affine map that brings a moving image to a fixed one, coarse to fine.

    On a coarse level a few steps are made from every start by a rigid map; the best go on with
    all of the transform's parameters, fewer of them on each finer level. Every level is lowered by
    BFGS on the Lie algebra of the transforms about the fixed image's centre. Each image keeps its
    own grid, size and orientation: all happens in millimetres. Voxels that the map sends out of the
    moving image do not count, nor, where the fixed image has no mask, does what is further than a
    voxel of the level from the body: from what is brighter than the background, holes filled.
    Nothing is drawn at random: the result is the same every time.

    What the header says goes on through all levels but the last: what is returned is no worse.

    Attributes:
        transform: "affine", "similarity" (rotation, translation and one scale) or "rigid".
        metric: "lncc", which sees neither the sign of a contrast nor its strength; or
            "mutual_information" or "mind". Each channel is compared with its own.
        starts: which of these are tried: "header", the images as their matrices place them;
            "centre", the middle of one on that of the other; "mass", the centres of the bodies;
            "axes", these and their principal axes, with all choices of signs that are rotations;
            "offsets", the best of a grid of translations, with rotations by 30 degrees, for images
            of which one shows a part of the other.
        rotations: how many more starts there are, of rotations spread over all that there are, for
            images that may be turned in any way; 60 leave no turn further than 61 degrees from one.
        levels: spacings of the levels in millimetres, coarse to fine. None: each twice as fine as
            the one before, up to 400,000 voxels of the fixed image or its own resolution.
        keep: how many of the starts go on after the first steps, if their values are within a
            fifth of the best one's.
    """

    transform: str = "affine"
    metric: str = "lncc"
    starts: Sequence[str] = STARTS
    rotations: int = 0
    levels: Sequence[float] | None = None
    keep: int = 12

    def __post_init__(self) -> None:
        for name, word, words in (
            ("transform", self.transform, TRANSFORMS),
            ("metric", self.metric, METRICS),
            *(("starts", start, STARTS) for start in self.starts),
        ):
            if word not in words:
                raise ValueError(f"{name} must be of {', '.join(words)}; got {word!r}")
        if self.rotations < 0 or self.keep < 1 or not (self.starts or self.rotations):
            raise ValueError(
                "a registration needs a start, rotations of at least 0 and keep of at least 1; "
                f"got {self}"
            )
        levels = self.levels
        if levels is not None and (
            not levels
            or not all(level > 0 for level in levels)
            or sorted(levels, reverse=True) != list(levels)
        ):
            raise ValueError(f"levels must be positive and fall, in millimetres; got {levels}")

    def __call__(
        self,
        moving: Tensor,
        fixed: Tensor,
        moving_affine: Tensor | None = None,
        fixed_affine: Tensor | None = None,
        *,
        moving_mask: Tensor | None = None,
        fixed_mask: Tensor | None = None,
        initial: Tensor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> AffineMap:
        """The map that carries fixed places to moving ones.

        Args:
            moving: (1, C, *spatial), 2D or 3D, float32 or float64, in any unit of intensity.
            fixed: (1, C, *its own spatial), of the moving image's dtype and device.
            moving_affine: (d + 1, d + 1), voxel index to millimetres: oblique, flipped,
                anisotropic as it may be. None: voxels of 1 mm.
            fixed_affine: likewise.
            moving_mask: (1, 1, *spatial of moving), bool or floating: voxels of more than 0
                count. None: all.
            fixed_mask: likewise of fixed.
            initial: (d + 1, d + 1), fixed to moving millimetres: where to begin, in place of the
                starts. What is found is it after a map of ``transform``.
            progress: called as (levels done, levels in all).

        Returns:
            The map, on the CPU.

        Raises:
            TypeError: an argument is no tensor, or the images are not of one floating dtype.
            ValueError: shapes do not fit, an image or a matrix is not finite, a matrix has no
                inverse, the initial one mirrors, or a mask is empty.
        """
        check_pair(moving, fixed)
        if len(moving) != 1:
            raise ValueError(f"one pair is registered at a time; got {len(moving)}")
        with plain_modes(), torch.enable_grad():
            source = _placed("moving", moving, moving_affine, moving_mask)
            target = _placed("fixed", fixed, fixed_affine, fixed_mask)
            begin = None if initial is None else _matrix(initial, "initial", target.ndim)
            if begin is not None and not float(torch.linalg.det(begin)) > 0:
                raise ValueError(f"initial must not mirror the image; got {begin.tolist()}")
            return self._register(source, target, begin, progress)

    def _register(
        self,
        moving: PlacedImage,
        fixed: PlacedImage,
        initial: Tensor | None,
        progress: Callable[[int, int], None] | None,
    ) -> AffineMap:
        cropped = fixed.cropped()
        levels = self.levels or level_spacings(cropped, _MOST_VOXELS, _LEAST_VOXELS[fixed.ndim])
        before = torch.eye(fixed.ndim + 1, dtype=torch.float64) if initial is None else initial
        found: list[tuple[str, Tensor, float]] = []
        for number, spacing in enumerate(levels):
            source, target = moving.at(spacing), cropped.at(spacing)
            if number == 0:
                found = self._begin(source, target, initial, spacing)
            objective = Objective(source, target, self.metric, before)
            found = _kept(
                [
                    (name, *refine(objective, start, self.transform, spacing, _EVALUATIONS))
                    for name, start, _ in found
                ],
                self.keep >> (number + 1),
                target,
                header=number + 2 < len(levels),
            )
            if progress is not None:
                progress(number + 1, len(levels))
        name, physical, value = found[0]
        return map_of(physical, moving.affine, fixed.affine, name, -value)

    def _begin(
        self, moving: PlacedImage, fixed: PlacedImage, initial: Tensor | None, spacing: float
    ) -> list[tuple[str, Tensor, float]]:
        """Where to begin, the best first."""
        if initial is not None:
            return [("initial", initial, 0.0)]
        identity = torch.eye(fixed.ndim + 1, dtype=torch.float64)
        objective = Objective(moving, fixed, self.metric, identity, overlap=1.0)
        tried = starts(moving, fixed, self.starts, self.rotations)
        if "offsets" in self.starts:
            tried += _best_offsets(objective, offsets(moving, fixed))
        return _kept(
            [
                (name, *refine(objective, start, "rigid", spacing, _TRIAL[fixed.ndim]))
                for name, start in tried
            ],
            self.keep,
            fixed,
            header=True,
        )


@torch.no_grad()
def _best_offsets(
    objective: Objective, tried: Sequence[tuple[str, Tensor]]
) -> list[tuple[str, Tensor]]:
    """Those of the least values; the better ones are tried turned, too."""

    def valued(maps: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor, float]]:
        return [(name, physical, float(objective(physical))) for name, physical in maps]

    seen = valued(tried)
    fixed = objective.fixed
    for _, physical, _ in best(seen, _TURNED_OFFSETS, fixed, _ONE):
        seen += valued(with_turns(physical, fixed.centre))
    return [(name, physical) for name, physical, _ in best(seen, _OFFSETS, fixed, _ONE)]


def _kept(
    candidates: list[tuple[str, Tensor, float]], keep: int, fixed: PlacedImage, *, header: bool
) -> list[tuple[str, Tensor, float]]:
    """The best one and its rivals, and, with ``header``, the header's however bad it is.

    Of maps within a voxel of the level of each other the best alone: they lead to one place.
    """
    apart = float(fixed.spacing.min())
    found = best(candidates, max(1, keep), fixed, apart)
    least = found[0][2]
    found = [one for one in found if one[2] <= (_RIVAL * least if least < 0 else least / _RIVAL)]
    if header:
        found += [one for one in candidates if one[0] == "header"]
    return best(found, len(found), fixed, apart)


def map_of(
    physical: Tensor, moving: Tensor, fixed: Tensor, start: str, value: float = math.nan
) -> AffineMap:
    """A map of millimetres between two images, whose matrices are (d + 1, d + 1) float64."""
    voxels = torch.linalg.inv(moving) @ physical @ fixed
    return AffineMap(physical, voxels[:-1], torch.linalg.inv(voxels)[:-1], start, value)


def nearest_map(
    displacement: Tensor, moving_affine: Tensor | None, fixed_affine: Tensor | None
) -> AffineMap:
    """The affine map nearest to a whole displacement, on average over its grid.

    Args:
        displacement: (1, d, *fixed spatial), φ - id, voxels of the fixed image.
        moving_affine: as `AffineRegistration` takes it.
        fixed_affine: likewise.

    Returns:
        The map, on the CPU, of the start "initial displacement".

    Raises:
        ValueError: it mirrors the image or has no inverse, or a matrix is none.
    """
    ndim = displacement.ndim - 2
    identity = torch.eye(ndim + 1, dtype=torch.float64)
    moving, fixed = (
        identity if matrix is None else _matrix(matrix, name, ndim)
        for name, matrix in (("moving_affine", moving_affine), ("fixed_affine", fixed_affine))
    )
    in_fixed = identity.clone()
    in_fixed[:-1] = nearest_affine(displacement).cpu()
    if not float(torch.linalg.det(in_fixed)) > 0:
        raise ValueError(
            "an initial displacement must not mirror or flatten the image; the affine map nearest "
            f"to it is {in_fixed.tolist()}"
        )
    physical = fixed @ in_fixed @ torch.linalg.inv(fixed)
    return map_of(physical, moving, fixed, "initial displacement")


def _placed(name: str, image: Tensor, affine: Tensor | None, mask: Tensor | None) -> PlacedImage:
    ndim = image.ndim - 2
    if affine is None:
        matrix = torch.eye(ndim + 1, dtype=torch.float64)
    else:
        matrix = _matrix(affine, f"{name}_affine", ndim)
    weight = None
    if mask is not None:
        _checks.is_tensor(mask, f"{name}_mask")
        if mask.shape != (1, 1, *image.shape[2:]):
            raise ValueError(
                f"{name}_mask must be (1, 1, *spatial) of {name}, {tuple(image.shape)}; "
                f"got {tuple(mask.shape)}"
            )
        weight = (mask > 0).to(image)
        if not weight.any():
            raise ValueError(f"{name}_mask must count some voxels; all are 0")
    return PlacedImage(recordable(image), weight, matrix)


def _matrix(matrix: Tensor, name: str, ndim: int) -> Tensor:
    """A matrix of homogeneous coordinates in float64 on the CPU."""
    _checks.is_tensor(matrix, name)
    if matrix.shape != (ndim + 1, ndim + 1):
        raise ValueError(
            f"{name} must be ({ndim + 1}, {ndim + 1}) for {ndim} axes; got {tuple(matrix.shape)}"
        )
    found = matrix.detach().double().cpu()
    last = torch.eye(ndim + 1, dtype=torch.float64)[-1]
    if not found.isfinite().all() or not torch.equal(found[-1], last) or _flat(found):
        raise ValueError(
            f"{name} must be finite and invertible, its last row {last.tolist()}; "
            f"got {matrix.tolist()}"
        )
    return found


def _flat(matrix: Tensor) -> bool:
    lengths = torch.linalg.vector_norm(matrix[:-1, :-1], dim=0)
    return not abs(float(torch.linalg.det(matrix[:-1, :-1]))) > 1e-9 * float(lengths.prod())
