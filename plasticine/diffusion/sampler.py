"""Samplers: from noise to an image, step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from plasticine.diffusion.denoiser import Denoiser


def sampling_steps(start: int, steps: int) -> list[int]:
    """The diffusion steps that a sampler of ``steps`` network runs visits, ending at 0.

    Evenly spaced in k, beginning at ``start``; fewer when ``start`` is smaller than
    ``steps``.

    Raises:
        ValueError: start or steps is less than 1.
    """
    if start < 1 or steps < 1:
        raise ValueError(f"start and steps must be at least 1; got start={start}, steps={steps}")
    steps = min(start, steps)
    return [round(start * (steps - index) / steps) for index in range(steps + 1)]


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    noisy: Tensor,
    condition: Tensor,
    *,
    start: int,
    steps: int,
    guidance: float = 1.0,
    progress: Callable[[], None] | None = None,
) -> Tensor:
    """Denoise deterministically (DDIM with η = 0: Song et al., 2021).

    The clean image is held within [-1, 1] at every step, and the noise that goes with it is
    worked out anew, so that the two always add up to the image at hand.

    Args:
        denoiser: the noise predictor.
        noisy: (N, 1, *spatial), the image at diffusion step ``start``.
        condition: (N, channels, *spatial), its structure map.
        start: the diffusion step to begin from; T for pure noise.
        steps: network runs.
        guidance: strength of classifier-free guidance; 1 is none.
        progress: called after every network run.

    Returns:
        (N, 1, *spatial) float32 within [-1, 1].
    """
    visited = sampling_steps(start, steps)
    for here, there in itertools.pairwise(visited):
        k = torch.full((len(noisy),), here, device=noisy.device)
        clean = denoiser.guided(noisy, condition, k, guidance)[0].clamp(-1, 1)
        signal, spread = denoiser.schedule.levels(k, noisy.ndim - 2)
        noise = (noisy - signal * clean) / spread
        noisy = denoiser.schedule.add_noise(clean, noise, torch.full_like(k, there))
        if progress is not None:
            progress()
    return noisy
