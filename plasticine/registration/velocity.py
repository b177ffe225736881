"""Registration of a pair in both directions, by a stationary velocity field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from plasticine.ops.exponential import EXPONENTIAL, EXPONENTIAL_BACKWARD, exponential
from plasticine.registration.descent import Descent, FieldGradient, Level, four_levels
from plasticine.registration.displaced import AffineDisplacement
from plasticine.registration.forces import Forces
from plasticine.registration.landmarks import Landmarks
from plasticine.registration.pyramid import LevelPair
from plasticine.registration.similarity import Similarity, similarities_of
from plasticine.registration.unfolding import unfolded

# Of the exponential: as exact as Euler's seven squarings, in half of the passes. Always as many, so
# that pairs of one batch do not see each other.
_STEPS, _METHOD = 3, "midpoint"
_WORDS = _STEPS, _METHOD, "border", True


@dataclass(frozen=True)
class VelocityRegistration(Descent):
    """Updates of a stationary velocity, along the gradient of a similarity in both directions.

    φ = A∘exp(v), and φ⁻¹ = exp(-v)∘A⁻¹. The moving image is brought to the fixed one's grid by A
    once. What rises is the mean of the similarity of that at exp(v) and the fixed image, and of the
    fixed image at exp(-v) and that. Both gradients are brought to v through the exponential, and

        v <- K_total * (v + d)

    with d as ``Descent`` makes it. Where exp(v) or exp(-v) folds at the end of a level, v is
    smoothed. It starts from a velocity.

    Source of the parametrisation: V. Arsigny et al., "A log-Euclidean framework for statistics on
    diffeomorphisms", MICCAI 2006; of both directions: T. Vercauteren et al., "Symmetric log-domain
    diffeomorphic registration", MICCAI 2008, whose update leaves out the exponential's derivative.
    """

    total_sigma: float = 0.9

    def _prepared(self, pair: LevelPair) -> LevelPair:
        # So that both images are treated alike: directly sampled, one would be the sharper.
        return pair.aligned()

    def _gradient(
        self, level: Level, field: Tensor, pair: LevelPair, landmarks: Landmarks | None
    ) -> FieldGradient:
        similarities = similarities_of(self.similarity)
        return _BothDirections(pair, field, similarities, landmarks, level.update_sigma)

    def _add(self, field: Tensor, update: Tensor, result: Tensor) -> None:
        result.copy_(field).add_(update)

    def _mended(self, field: Tensor) -> Tensor:
        return unfolded(field, _both)

    def _mapping(
        self, field: Tensor, affine: Tensor | None, moving_size: Sequence[int]
    ) -> AffineDisplacement:
        return AffineDisplacement(_both(field)[0], affine, moving_size, field)


class _BothDirections:
    """The gradient of the mean similarity of two directions to the velocity.

    Arguments as those of ``Forces``, with the velocity in place of u.
    """

    def __init__(
        self,
        pair: LevelPair,
        velocity: Tensor,
        similarities: Sequence[Similarity],
        landmarks: Landmarks | None,
        sigma: float,
    ) -> None:
        ways = (
            (pair, landmarks),
            (pair.swapped(), None if landmarks is None else landmarks.swapped()),
        )
        self._forth, self._back = (
            Forces(images, field, similarities, points, sigma)
            for (images, points), field in zip(ways, _both(velocity), strict=True)
        )

    def __call__(self, velocity: Tensor, result: Tensor, spare: Tensor) -> None:
        """Writes the gradient at ``velocity`` to ``result``; ``spare`` is overwritten."""
        u, inverse, stages = EXPONENTIAL(velocity, *_WORDS, True, "auto")
        # What a direction was warped by is not needed again: its gradient takes its place.
        of_u, of_inverse = result, u
        self._forth(u, of_u, spare)
        self._back(inverse, of_inverse, spare)
        found = EXPONENTIAL_BACKWARD(of_u, of_inverse, velocity, stages, *_WORDS, "auto")
        result.copy_(found).mul_(0.5)


def _both(velocity: Tensor) -> tuple[Tensor, Tensor]:
    """exp(v) and exp(-v)."""
    return exponential(velocity, steps=_STEPS, method=_METHOD, inverse=True)


#: Settings by how long they take: "fast", "default" and "best".
BUDGETS = {
    "fast": VelocityRegistration(four_levels(10, 15, 15, 4)),
    "default": VelocityRegistration(),
    "best": VelocityRegistration(four_levels(30, 40, 40, 15), decay=0.97),
}

#: Of images of two modalities on one grid, with far to go, where there is but a plane to see:
#: smoother the finer the level, for what MIND says of a single voxel is little.
REFINEMENT = VelocityRegistration(
    (Level(4, 60, 3.0), Level(2, 60, 6.0), Level(1, 30, 8.0)),
    Similarity("mind"),
    decay=0.97,
    total_sigma=0.7,
)
