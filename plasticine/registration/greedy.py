"""Greedy registration of a pair: small diffeomorphisms, composed one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from plasticine.ops.compose import COMPOSE
from plasticine.registration.descent import Descent, FieldGradient, Level, four_levels
from plasticine.registration.displaced import AffineDisplacement
from plasticine.registration.forces import Forces
from plasticine.registration.landmarks import Landmarks
from plasticine.registration.pyramid import LevelPair
from plasticine.registration.similarity import similarities_of
from plasticine.registration.unfolding import unfolded


@dataclass(frozen=True)
class GreedyRegistration(Descent):
    """Compositive updates of a displacement, each along the gradient of a similarity.

    φ = A∘(id + u). Every iteration warps the moving image, takes the gradient of its similarity
    with the fixed image to the displacement, and composes u with the small update d that
    ``Descent`` makes of it:

        u <- K_total * (u∘(id + d) + d)

    A field that folds at the end of a level is smoothed there. It starts from a displacement.

    Source of the scheme: P. A. Yushkevich et al., "Fast automatic segmentation of hippocampal
    subfields and medial temporal lobe subregions in 3 Tesla and 7 Tesla T2-weighted MRI",
    Alzheimer's & Dementia 12 (2016).
    """

    def _gradient(
        self, level: Level, field: Tensor, pair: LevelPair, landmarks: Landmarks | None
    ) -> FieldGradient:
        similarities = similarities_of(self.similarity)
        return Forces(pair, field, similarities, landmarks, level.update_sigma)

    def _add(self, field: Tensor, update: Tensor, result: Tensor) -> None:
        COMPOSE.into(result, field, update, "border", "auto")

    def _mended(self, field: Tensor) -> Tensor:
        return unfolded(field)

    def _mapping(
        self, field: Tensor, affine: Tensor | None, moving_size: Sequence[int]
    ) -> AffineDisplacement:
        return AffineDisplacement(field, affine, moving_size)


#: Settings by how long they take: "fast", "default" and "best".
BUDGETS = {
    "fast": GreedyRegistration(four_levels(10, 15, 15, 4)),
    "default": GreedyRegistration(),
    "best": GreedyRegistration(four_levels(30, 40, 40, 25), decay=0.99),
}
