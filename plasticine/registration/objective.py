"""The training objective of the registration network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from plasticine.nn.losses import (
    alignment,
    inverse_consistency,
    soft_dice,
)
from plasticine.nn.validity import validity_mask
from plasticine.ops import mutual_information
from plasticine.ops.compose import compose
from plasticine.ops.jacobian_penalty import jacobian_penalty
from plasticine.ops.smoothness import smoothness
from plasticine.ops.warp import warp
from plasticine.registration.deformation import Deformation

# The upper bounds are for recipes; what lies below the lower ones, __post_init__ refuses, too.
Weight = Annotated[float, Field(le=1e6)]


@dataclass(frozen=True)
class RegistrationObjective:
    """The loss of one pair of images, for the pair stem and the single stem together.

    Each stem's deformation φ is charged

        - I(x∘φ, y) - I(y∘φ⁻¹, x) + smoothness (|grad v|² + |grad v⁻|²)
        + inverse_consistency C(φ, φ⁻¹) + structure (1 - Dice(S(x)∘φ, S(y)))
        + jacobian mean relu(threshold - J) + affine |log A|²

    and the loss is the mean of the two plus alignment |h_x - sg(h_pair)|². Mutual
    information (nats) and Dice count samples that land inside the image only.

    Attributes:
        smoothness: weight of the velocity's mean squared gradient.
        alignment: weight of the stems' feature difference.
        inverse_consistency: weight of the mean squared residual, in voxels².
        structure: weight of one minus the Dice overlap of structure maps.
        jacobian: weight of the folding hinge.
        affine: weight of the affine part's squared logarithm (its Frobenius norm, the
            translation as a fraction of half the image), which keeps it near the identity.
        jacobian_threshold: the volume ratio below which the hinge acts.
        bins: bins of the mutual information.
        jitter: images are compared at voxel centres shifted by up to this many voxels along
            each axis, one random shift a sample. Interpolation blurs, and blur raises mutual
            information (Pluim, Maintz and Viergever, CVIU 77, 2000): at the centres
            themselves, where no displacement means no blur, a shift of half a voxel would
            pay without aligning anything. 0 turns it off.
    """

    smoothness: Weight = 4.0
    alignment: Weight = 0.1
    inverse_consistency: Weight = 0.1
    structure: Weight = 0.5
    jacobian: Weight = 0.1
    affine: Weight = 30.0
    jacobian_threshold: Annotated[float, Field(ge=-1000, le=1000)] = 0.05
    bins: Annotated[int, Field(le=1024)] = 32
    jitter: Annotated[float, Field(le=64)] = 0.5

    def __post_init__(self) -> None:
        for name in (
            "smoothness",
            "alignment",
            "inverse_consistency",
            "structure",
            "jacobian",
            "affine",
            "jitter",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0; got {getattr(self, name)}")
        if self.bins < 5:
            raise ValueError(f"bins must be at least 5; got {self.bins}")

    def __call__(
        self,
        network: nn.Module,
        x: Tensor,
        y: Tensor,
        noise: Tensor | None = None,
        structure_x: Tensor | None = None,
        structure_y: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the pairs (x, y) and its terms.

        Args:
            network: a ``VelocityNetwork``, or a module that calls one the same way.
            x: (N, 1, *spatial) source images within [-1, 1].
            y: (N, 1, *spatial) target images, on the same grid.
            noise: (N, 1, *spatial), the denoiser's noise estimate for y, without gradient;
                None feeds zeros.
            structure_x: (N, K, *spatial) within [0, 1], S(x); None leaves the structure
                term out, and so does a weight of 0.
            structure_y: likewise S(y).
            shift: (N, d) within [0, 1), where within the jitter's range each sample is
                compared; None draws it from torch's own generator.

        Returns:
            The loss, a scalar with gradient, and its terms, unweighted scalars without
            gradient: "pair." and "single." mutual_information, inverse_mutual_information,
            smoothness, inverse_consistency, structure, jacobian, affine; and alignment.

        Raises:
            ValueError: one structure map is given without the other, or shapes do not fit.
            TypeError: dtypes do not fit.
        """
        if (structure_x is None) != (structure_y is None):
            raise ValueError("structure_x and structure_y must both be given, or neither")
        noise = None if noise is None else noise.detach()
        pair = network(x, y, noise)
        single = network(x)
        offset = self.offset(x, shift)
        terms: dict[str, Tensor] = {}
        loss = x.new_zeros(())
        for name, deformation in (("pair", pair), ("single", single)):
            charged = self.deformation_terms(deformation, x, y, structure_x, structure_y, offset)
            loss = loss + 0.5 * self.weighted(charged)
            terms.update({f"{name}.{term}": value.detach() for term, value in charged.items()})
        aligned = alignment(single.features, pair.features)
        terms["alignment"] = aligned.detach()
        return loss + self.alignment * aligned, terms

    def offset(self, image: Tensor, shift: Tensor | None = None) -> Tensor | None:
        """The jitter of a batch as a displacement (N, d, *spatial), constant in each sample."""
        if self.jitter == 0:
            return None
        count, ndim = len(image), image.ndim - 2
        if shift is None:
            shift = torch.rand(count, ndim, dtype=torch.float32, device="cpu")
        drawn = self.jitter * (2 * shift - 1)
        drawn = drawn.to(image.device, image.dtype).view(count, ndim, *([1] * ndim))
        return drawn.expand(count, ndim, *image.shape[2:])

    def deformation_terms(
        self,
        deformation: Deformation,
        x: Tensor,
        y: Tensor,
        structure_x: Tensor | None = None,
        structure_y: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The unweighted terms of one deformation, with gradient.

        Args:
            deformation: what is charged.
            x: as in a call, and so are y, structure_x and structure_y.
            y: target images.
            structure_x: S(x) or None.
            structure_y: S(y) or None.
            offset: from ``offset``; None compares at the voxel centres.

        Returns:
            Scalars by the names of a call's terms, without their "pair." or "single.".
        """
        u, u_inverse = deformation.displacements()
        rough = rough_inverse = smoothness(deformation.velocity).mean()
        if deformation.inverse_velocity is not None:
            rough_inverse = smoothness(deformation.inverse_velocity).mean()
        information, overlap = self._agreement(u, x, y, offset, structure_x, structure_y)
        terms = {
            "mutual_information": information,
            "inverse_mutual_information": self._agreement(u_inverse, y, x, offset)[0],
            "smoothness": rough + rough_inverse,
            "inverse_consistency": inverse_consistency(u, u_inverse),
            "jacobian": jacobian_penalty(u, threshold=self.jacobian_threshold).mean(),
        }
        if overlap is not None:
            terms["structure"] = 1 - overlap
        if deformation.log_affine is not None:
            half = u.new_tensor([n / 2 for n in u.shape[2:]])
            linear, translation = deformation.log_affine.split([len(half), 1], dim=2)
            relative = torch.cat([linear, translation / half[:, None]], 2)
            terms["affine"] = relative.square().sum((1, 2)).mean()
        return terms

    def _agreement(
        self,
        u: Tensor,
        moving: Tensor,
        fixed: Tensor,
        offset: Tensor | None,
        structure_moving: Tensor | None = None,
        structure_fixed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mutual information of moving∘φ with fixed and, with structure, the maps' Dice."""
        if offset is None:
            valid = validity_mask(u)
        else:
            u, fixed = compose(u, offset), warp(fixed, offset)
            valid = validity_mask(u) & validity_mask(offset)
        information = mutual_information(
            warp(moving, u), fixed, bins=self.bins, mask=valid, value_range=(-1.0, 1.0)
        ).mean()
        if structure_moving is None or structure_fixed is None or self.structure == 0:
            return information, None
        if offset is not None:
            structure_fixed = warp(structure_fixed, offset)
        return information, soft_dice(warp(structure_moving, u), structure_fixed, valid)

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """The loss of ``deformation_terms``: a scalar with gradient."""
        loss = -terms["mutual_information"] - terms["inverse_mutual_information"]
        for name, value in terms.items():
            if not name.endswith("mutual_information"):
                loss = loss + getattr(self, name) * value
        return loss
