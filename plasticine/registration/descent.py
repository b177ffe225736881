"""Registering pairs by descent on a field, coarse to fine: what the ways to do so share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from plasticine.nn.finite import check_finite, not_finite
from plasticine.nn.modes import plain_modes, recordable
from plasticine.nn.resampling import resize_displacement
from plasticine.ops._checks import is_tensor
from plasticine.ops.gaussian_smooth import GAUSSIAN_SMOOTH
from plasticine.registration.displaced import AffineDisplacement, inverted
from plasticine.registration.image_pair import check_pair
from plasticine.registration.landmarks import Landmarks, check_landmarks
from plasticine.registration.pyramid import LevelPair, steps_between
from plasticine.registration.similarity import Similarity, similarities_of

#: (field, result, spare): writes the gradient at the field to ``result``; ``spare`` is overwritten.
FieldGradient = Callable[[Tensor, Tensor, Tensor], None]

# A gradient per voxel of movement below which there is nothing to follow but rounding.
_NO_GRADIENT = 0.05
# The longest update is scaled to the step, unless it has come to less than this of the usual one.
_LEAST_UPDATE = 0.2


@dataclass(frozen=True)
class Level:
    """One resolution of a registration.

    Attributes:
        factor: by how much the images are shrunk.
        iterations: how many updates are composed.
        update_sigma: how wide the Gaussian is that smooths the gradient, voxels of the level.
    """

    factor: int
    iterations: int
    update_sigma: float = 1.0

    def __post_init__(self) -> None:
        if self.factor < 1 or self.iterations < 0 or not 0 <= self.update_sigma < math.inf:
            raise ValueError(
                "a level needs a factor of at least 1, and iterations and an update_sigma of at "
                f"least 0; got {self}"
            )


def four_levels(*iterations: int) -> tuple[Level, ...]:
    """Four resolutions, smoother the coarser they are."""
    return tuple(map(Level, (8, 4, 2, 1), iterations, (1.7, 1.4, 1.0, 0.7)))


@dataclass(frozen=True)
class Descent(ABC):
    """Updates of a field, each along the gradient of similarities, coarse to fine.

    With g the gradient smoothed by K_update, m a running mean of it, |g| the root of a running mean
    of its square, at every voxel, and both K Gaussians, an iteration is

        field <- K_total * (field + d),   d ∝ m / (|g| + relative mean |g|)

    where + is what a subclass makes of it. d is scaled so that its longest vector has the length
    ``step``. |g| evens out how far voxels move; what is added to it keeps still those where there
    is little to see. The voxels are those of the level's grid. Of several similarities and
    landmarks the gradient is as ``Forces`` adds them up.

    Attributes:
        levels: the resolutions, in order.
        similarity: what the images are compared by: one, or several whose weights are relative.
        step: the longest update, voxels, in a level's first iteration.
        decay: what each further iteration leaves of it.
        momentum: how much of the running mean of gradients remains at each iteration.
        memory: the same of the running mean of squares.
        relative: see there.
        total_sigma: standard deviation of K_total, voxels.
        tolerance: where an iteration changes the field by less than this on average, in voxels of
            the level, the level ends early; of a batch, where it does so in every pair. 0: never.

    Source of the moments: D. P. Kingma and J. Ba, "Adam", ICLR 2015.
    """

    levels: Sequence[Level] = four_levels(20, 25, 25, 8)
    similarity: Similarity | Sequence[Similarity] = field(default_factory=Similarity)
    step: float = 1.0
    decay: float = 0.95
    momentum: float = 0.9
    memory: float = 0.99
    relative: float = 2.0
    total_sigma: float = 0.7
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("a registration needs a level; got none")
        similarities_of(self.similarity)
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be positive and finite, in voxels; got {self.step}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be above 0 and up to 1; got {self.decay}")
        for name in ("momentum", "memory"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1; got {getattr(self, name)}")
        for name in ("relative", "total_sigma", "tolerance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite; got {getattr(self, name)}")

    @property
    def iterations(self) -> int:
        """How many there are at all levels together."""
        return sum(level.iterations for level in self.levels)

    def work(self, done: int, ndim: int) -> float:
        """How long so many iterations take, in iterations at the full resolution."""
        total = 0.0
        for level in self.levels:
            of_level = min(done, level.iterations)
            total += of_level / level.factor**ndim
            done -= of_level
        return total

    @torch.no_grad()
    def __call__(
        self,
        moving: Tensor,
        fixed: Tensor,
        *,
        affine: Tensor | None = None,
        initial: Tensor | None = None,
        spacing: Sequence[float] | None = None,
        moving_mask: Tensor | None = None,
        fixed_mask: Tensor | None = None,
        landmarks: Landmarks | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> AffineDisplacement:
        """The map that carries each moving image to its fixed one.

        Nothing is recorded for autograd, and nothing is random: the same bits every time. Pairs do
        not see each other.

        Args:
            moving: (N, C, *spatial), float32 or float64, in any unit.
            fixed: (N, C, *spatial) of the same dtype, channels and number of axes; its grid may
                have another size.
            affine: (N or 1, d, d + 1), from voxels of the fixed image to voxels of the moving one:
                spacing, orientation and an affine registration in one. None is the identity.
            initial: (N, d, *fixed spatial), the field to start from, voxels of the fixed image.
                None is 0.
            spacing: of the fixed image's voxels along each axis, in any unit: thick slices are
                shrunk only where the voxels in them are as coarse. None is the same along all.
            moving_mask: (N or 1, 1, *moving spatial), bool or floating: how much each voxel counts.
            fixed_mask: (N or 1, 1, *fixed spatial), the same of the fixed image.
            landmarks: in voxels of each image; those of the fixed one within it.
            progress: called as (iterations done, iterations in all).

        Returns:
            The map on the fixed image's grid, without folds.

        Raises:
            TypeError: the images are not tensors of one floating-point dtype.
            ValueError: shapes do not fit, a spacing is not positive and finite, or an argument
                holds NaN or infinity.
            RuntimeError: the field became NaN or infinite.
        """
        _check(moving, fixed, affine, initial, moving_mask, fixed_mask, landmarks)
        count, ndim = len(moving), moving.ndim - 2
        if spacing is not None and not (
            len(spacing) == ndim and all(0 < length < math.inf for length in spacing)
        ):
            raise ValueError(f"spacing must be {ndim} positive, finite numbers; got {spacing}")
        if affine is None:
            whole = torch.eye(ndim, ndim + 1, dtype=fixed.dtype, device=fixed.device)[None]
        else:
            whole = recordable(affine)
        whole = whole.to(fixed.dtype).expand(count, -1, -1)
        # Contiguous, as arrays of NIfTI files are not, and what is made like them.
        moving, fixed = (recordable(image).contiguous() for image in (moving, fixed))
        moving_mask, fixed_mask = (
            None if mask is None else recordable(mask).to(fixed.dtype).contiguous()
            for mask in (moving_mask, fixed_mask)
        )
        pair = LevelPair(moving, fixed, whole, moving_mask, fixed_mask, spacing).filled()
        if landmarks is not None:
            # Where the moving ones would lie, were there nothing but the affine map.
            back = inverted(whole.double())
            still = torch.eye(ndim, ndim + 1, dtype=torch.float64)[None]
            landmarks = landmarks.mapped(back, still)
        done = ended = 0

        def advance(iterations: int) -> None:
            nonlocal done
            if progress is not None and iterations:
                progress(done + iterations, self.iterations)
            done += iterations

        with plain_modes(), torch.no_grad():
            pair = self._prepared(pair)
            field = None if initial is None else recordable(initial).contiguous()
            for level in self.levels:
                ended += level.iterations
                if level.iterations == 0:
                    continue
                level_pair = pair.shrunk(level.factor)
                size = level_pair.fixed.shape[2:]
                if field is None:
                    field = fixed.new_zeros(count, ndim, *size)
                field = resize_displacement(field.to(fixed.dtype), size)
                points = None if landmarks is None else _at_level(landmarks, fixed, size)
                field = self._descend(level, field, level_pair, points, advance)
                advance(ended - done)
                broken = not_finite(field)
                if broken is not None:
                    raise RuntimeError(
                        f"the registration diverged at {level}: of the field, {broken}; "
                        f"lower step, {self.step}"
                    )
                field = self._mended(field)
            if field is None:
                field = fixed.new_zeros(count, ndim, *fixed.shape[2:])
            if field.shape[2:] != fixed.shape[2:]:
                field = self._mended(resize_displacement(field, fixed.shape[2:]))
            return self._mapping(field, whole if affine is not None else None, moving.shape[2:])

    def _descend(
        self,
        level: Level,
        field: Tensor,
        pair: LevelPair,
        landmarks: Landmarks | None,
        advance: Callable[[int], None],
    ) -> Tensor:
        """The field after a level's iterations, on its grid."""
        gradient = self._gradient(level, field, pair, landmarks)
        update_sigma, total_sigma = (
            [sigma] * (field.ndim - 2) for sigma in (level.update_sigma, self.total_sigma)
        )
        # All of the memory that the iterations take.
        field = field.clone()
        mean, square = torch.zeros_like(field), torch.zeros_like(field[:, :1])
        g, update, length = (
            torch.empty_like(field),
            torch.empty_like(field),
            torch.empty_like(square),
        )
        every = tuple(range(1, field.ndim))
        for iteration in range(1, level.iterations + 1):
            gradient(field, update, g)
            GAUSSIAN_SMOOTH.into(g, update, update_sigma, False, "auto")
            mean.lerp_(g, 1 - self.momentum)
            square.lerp_(_squared_length(g, length), 1 - self.memory)
            torch.sqrt(square, out=length)
            usual = length.mean(every, keepdim=True)
            # Both running means begin at 0, and are small by as much as they have not seen.
            seen = math.sqrt(1 - self.memory**iteration)
            length.add_(self.relative * usual + _NO_GRADIENT * seen)
            torch.div(mean, length, out=update)
            longest = _squared_length(update, length).amax(every, keepdim=True).sqrt_()
            least = _LEAST_UPDATE * (1 - self.momentum**iteration) / seen
            step = self.step * self.decay ** (iteration - 1)
            update.mul_(step / longest.clamp_min(least))
            self._add(field, update, g)
            if self.tolerance:
                update.copy_(field)
            GAUSSIAN_SMOOTH.into(field, g, total_sigma, False, "auto")
            advance(1)
            if self.tolerance:
                change = _squared_length(update.sub_(field), length).sqrt_().mean(every)
                if float(change.max()) < self.tolerance:
                    break
        return field

    def _prepared(self, pair: LevelPair) -> LevelPair:
        """The images that levels are made of."""
        return pair

    @abstractmethod
    def _gradient(
        self, level: Level, field: Tensor, pair: LevelPair, landmarks: Landmarks | None
    ) -> FieldGradient:
        """The gradient of a level's similarities and landmarks to the field."""

    @abstractmethod
    def _add(self, field: Tensor, update: Tensor, result: Tensor) -> None:
        """Writes the field, changed by an update, to ``result``."""

    @abstractmethod
    def _mended(self, field: Tensor) -> Tensor:
        """The field, without folds."""

    @abstractmethod
    def _mapping(
        self, field: Tensor, affine: Tensor | None, moving_size: Sequence[int]
    ) -> AffineDisplacement:
        """φ of a field on the fixed image's grid."""


def _squared_length(vectors: Tensor, out: Tensor) -> Tensor:
    """The squared length of (N, d, *spatial) at each voxel, (N, 1, *spatial)."""
    torch.mul(vectors[:, :1], vectors[:, :1], out=out)
    for axis in range(1, vectors.shape[1]):
        component = vectors[:, axis : axis + 1]
        out.addcmul_(component, component)
    return out


def _at_level(landmarks: Landmarks, fixed: Tensor, size: Sequence[int]) -> Landmarks:
    """Landmarks in voxels of the fixed image, in voxels of a level of this size."""
    steps = steps_between(fixed.shape[2:], size)
    scale = torch.cat([torch.diag(torch.tensor(steps)), torch.zeros(len(steps), 1)], 1)[None]
    return landmarks.mapped(scale, scale)


def _check(
    moving: Tensor,
    fixed: Tensor,
    affine: Tensor | None,
    initial: Tensor | None,
    moving_mask: Tensor | None,
    fixed_mask: Tensor | None,
    landmarks: Landmarks | None,
) -> None:
    check_pair(moving, fixed)
    count, ndim = len(fixed), fixed.ndim - 2
    for name, given, alone, shape in (
        ("affine", affine, True, (ndim, ndim + 1)),
        ("initial", initial, False, (ndim, *fixed.shape[2:])),
        ("moving_mask", moving_mask, True, (1, *moving.shape[2:])),
        ("fixed_mask", fixed_mask, True, (1, *fixed.shape[2:])),
    ):
        if given is None:
            continue
        is_tensor(given, name)
        if given.shape[1:] != shape or not (len(given) == count or (alone and len(given) == 1)):
            raise ValueError(
                f"{name} must be ({count}{' or 1' if alone else ''}, "
                f"{', '.join(map(str, shape))}); got {tuple(given.shape)}"
            )
        if given.device != fixed.device:
            raise ValueError(f"{name} must be on {fixed.device}; got {given.device}")
        check_finite(given, name)
    if landmarks is not None:
        check_landmarks(landmarks, torch.eye(ndim + 1), fixed)
