"""Peers made of diffusion models that know one domain each and no condition: SDEdit, DDIB."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from benchmarks.translation.learning import Draw, autocast
from plasticine.diffusion import Denoiser, NoiseSchedule, sample


def unconditional_denoiser(schedule: dict[str, Any], network: dict[str, Any]) -> Denoiser:
    """A denoiser whose condition has no channels."""
    return Denoiser(2, 0, NoiseSchedule(**schedule), **network)


def no_condition(image: Tensor) -> Tensor:
    """The condition of such a denoiser, (N, 0, *spatial)."""
    return image[:, :0]


class UnconditionalLoss:
    """Noise prediction on the images of one domain.

    Args:
        denoiser: what is trained.
        draw: batches of that domain.
    """

    def __init__(self, denoiser: Denoiser, draw: Draw) -> None:
        self.denoiser, self.draw = denoiser, draw

    def __call__(self, generator: torch.Generator) -> Tensor:
        (image,) = self.draw(generator)
        noise = torch.randn(image.shape, generator=generator).to(image.device)
        steps = self.denoiser.schedule.steps
        k = torch.randint(1, steps + 1, (len(image),), generator=generator).to(image.device)
        keep = torch.ones_like(k, dtype=torch.bool)
        with autocast(image.device):
            return self.denoiser.loss(image, no_condition(image), noise, k, keep)


def sdedit(
    denoiser: Denoiser,
    source: Tensor,
    *,
    start: float,
    steps: int,
    generator: torch.Generator,
    samples: int = 1,
) -> Tensor:
    """Noise added to the source up to step K, and taken away by the target's diffusion.

    Source: Meng et al., "SDEdit", ICLR 2022.

    Args:
        denoiser: of the target domain.
        source: (N, 1, *spatial) within [-1, 1].
        start: K as a fraction of the schedule's steps: how much of the source is forgotten.
        steps: network runs of DPM-Solver++.
        generator: a CPU generator for the noise.
        samples: samples whose mean is taken.
    """
    k = round(start * denoiser.schedule.steps)
    total = torch.zeros_like(source)
    for _ in range(samples):
        noise = torch.randn(source.shape, generator=generator).to(source.device)
        at_k = torch.full((len(source),), k, device=source.device)
        noisy = denoiser.schedule.add_noise(source, noise, at_k)
        total += sample(
            denoiser,
            noisy,
            no_condition(source),
            solver="dpm-solver++",
            start=k,
            steps=steps,
        )
    return total / samples


def ddib(
    source_denoiser: Denoiser, target_denoiser: Denoiser, source: Tensor, *, steps: int
) -> Tensor:
    """The source followed to noise by its own diffusion's ODE, and back by the target's.

    Source: Su et al., "Dual diffusion implicit bridges", ICLR 2023.

    Args:
        source_denoiser: of the source domain.
        target_denoiser: of the target domain, with the same schedule.
        source: (N, 1, *spatial) within [-1, 1].
        steps: network runs in each direction.
    """
    latent = to_noise(source_denoiser, source, steps=steps)
    start = target_denoiser.schedule.steps
    return sample(
        target_denoiser, latent, no_condition(source), solver="ddim", start=start, steps=steps
    )


@torch.no_grad()
def to_noise(denoiser: Denoiser, image: Tensor, *, steps: int) -> Tensor:
    """DDIM run backwards (Song et al., 2021): the noise at step T that the image comes from.

    Args:
        denoiser: of the image's domain.
        image: (N, 1, *spatial) within [-1, 1].
        steps: network runs.
    """
    schedule = denoiser.schedule
    signal, spread = schedule.signal.tolist(), schedule.spread.tolist()
    noisy = image
    visited = [round(schedule.steps * index / steps) for index in range(steps + 1)]
    for here, there in itertools.pairwise(visited):
        # The network knows no step 0; 1 is as good as clean.
        k = torch.full((len(image),), max(here, 1), device=image.device)
        clean, noise = denoiser.predict(noisy, no_condition(image), k)
        noisy = signal[there] * clean + spread[there] * noise
    return noisy
