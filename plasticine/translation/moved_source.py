"""The source moved by φ: what the denoiser is to recolour."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plasticine.diffusion.sampler import shared_noise
from plasticine.ops.warp import warp
from plasticine.translation.model import TranslationModel


@dataclass(frozen=True)
class MovedSource:
    """A batch of source images and their structure maps, warped by φ = id + u.

    Attributes:
        image: (N, 1, *spatial) within [-1, 1], x∘φ.
        structure: (N, channels, *spatial) within [0, 1], S(x)∘φ, the denoiser's condition.
        displacement: (N, d, *spatial) voxels, u.
        inverse_displacement: (N, d, *spatial) voxels, that of φ⁻¹.
    """

    image: Tensor
    structure: Tensor
    displacement: Tensor
    inverse_displacement: Tensor

    @classmethod
    def by(
        cls,
        displacements: tuple[Tensor, Tensor] | None,
        x: Tensor,
        structure: Tensor,
    ) -> MovedSource:
        """x and S(x), moved.

        Args:
            displacements: u and that of φ⁻¹; None moves nothing.
            x: (N, 1, *spatial) within [-1, 1].
            structure: (N, channels, *spatial), S(x).
        """
        if displacements is None:
            still = torch.zeros(len(x), x.ndim - 2, *x.shape[2:], dtype=x.dtype, device=x.device)
            displacements = still, still
        u = displacements[0]
        return cls(warp(x, u), warp(structure, u), *displacements)


def predicted_displacements(
    model: TranslationModel,
    x: Tensor,
    *,
    reference: Tensor | None,
    labels: Tensor | None,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """u of φ = affine∘exp(v), and that of φ⁻¹, as the registration network sees them.

    Args:
        model: the networks.
        x: (N, 1, *spatial) within [-1, 1], source images.
        reference: like x, target images to register to, which the network's pair stem reads
            with the denoiser's noise estimate for them; None reads x alone.
        labels: (N, 1, *spatial) integers, the reference's label maps, where the structure map
            needs them.
        seed: of the noise that the estimate is made for.

    Returns:
        Two of (N, d, *spatial), voxels.
    """
    if reference is None:
        return model.velocity(x).displacements()
    denoiser = model.denoiser
    k = torch.full((len(x),), max(1, denoiser.schedule.steps // 4), device=x.device)
    drawn = shared_noise(reference, torch.Generator().manual_seed(seed))
    noisy = denoiser.schedule.add_noise(reference, drawn, k)
    noise = denoiser.predict_noise(noisy, model.structure(reference, labels=labels), k)
    return model.velocity(x, reference, noise).displacements()
