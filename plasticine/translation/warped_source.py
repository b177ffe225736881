"""The source warped by φ: what the denoiser is to recolour."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from torch import Tensor

from plasticine.ops.compose import compose
from plasticine.ops.warp import warp
from plasticine.registration.network import VelocityNetwork


@dataclass(frozen=True)
class WarpedSource:
    """A batch of source images and their structure maps, warped by φ = id + u.

    Attributes:
        x: (N, 1, *spatial) within [-1, 1].
        structure_of_x: (N, channels, *spatial) within [0, 1], S(x).
        displacement: (N, d, *spatial) voxels, u.
        inverse_displacement: (N, d, *spatial) voxels, that of φ⁻¹.
        image: (N, 1, *spatial), x∘φ.
        structure: (N, channels, *spatial), S(x)∘φ, the denoiser's condition.
    """

    x: Tensor
    structure_of_x: Tensor
    displacement: Tensor
    inverse_displacement: Tensor
    image: Tensor = field(init=False)
    structure: Tensor = field(init=False)

    def __post_init__(self) -> None:
        for name, source in (("image", self.x), ("structure", self.structure_of_x)):
            object.__setattr__(self, name, warp(source, self.displacement))

    @classmethod
    def undeformed(cls, x: Tensor, structure_of_x: Tensor) -> WarpedSource:
        """φ = id."""
        zero = x.new_zeros(len(x), x.ndim - 2, *x.shape[2:])
        return cls(x, structure_of_x, zero, zero)

    def refined(self, network: VelocityNetwork, y: Tensor, noise: Tensor) -> WarpedSource:
        """x warped by φ∘δ, where δ = exp(δv) carries x∘φ on to an image of the target domain.

        δv is what the network's pair stem sees; its affine map, which φ holds already, is not
        taken again. The whole φ∘δ is applied to x: x∘φ, interpolated once, is not interpolated
        again.

        Args:
            network: the registration network.
            y: (N, 1, *spatial) within [-1, 1], the target image.
            noise: like y, the denoiser's noise estimate for it.
        """
        step = network(self.image, y, noise)
        step = dataclasses.replace(step, affine=None, inverse_affine=None)
        forward, backward = step.displacements()
        return WarpedSource(
            self.x,
            self.structure_of_x,
            compose(self.displacement, forward),
            compose(backward, self.inverse_displacement),  # (φ∘δ)⁻¹ = δ⁻¹∘φ⁻¹
        )
