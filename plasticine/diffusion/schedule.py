"""Noise schedules: how much of the image is left at each diffusion step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class NoiseSchedule(nn.Module):
    """The signal level ᾱ_k of a diffusion of ``steps`` steps, k = 1 … steps; ᾱ_0 = 1.

    "cosine": Nichol and Dhariwal, "Improved denoising diffusion probabilistic models",
    2021, equation 17, each β clipped at 0.999. "linear": Ho et al., "Denoising diffusion
    probabilistic models", 2020: β from 1e-4 to 0.02 over 1000 steps, scaled to other counts.

    Args:
        kind: "cosine" or "linear".
        steps: the number of diffusion steps T.

    Attributes:
        alpha_bar: (steps + 1,) float64, ᾱ_0 … ᾱ_T.
    """

    alpha_bar: Tensor

    def __init__(self, kind: str = "cosine", steps: int = 1000) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"a noise schedule has at least one step; got {steps}")
        if kind == "cosine":
            time = torch.arange(steps + 1, dtype=torch.float64) / steps
            level = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = (1 - level[1:] / level[:-1]).clamp(max=0.999)
        elif kind == "linear":
            scale = 1000 / steps
            beta = torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64)
            beta = beta.clamp(max=0.999)
        else:
            raise ValueError(f'noise schedule must be "cosine" or "linear"; got {kind!r}')
        alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])
        self.kind = kind
        self.steps = steps
        self.register_buffer("alpha_bar", alpha_bar, persistent=False)

    def levels(self, k: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        """√ᾱ_k and √(1−ᾱ_k) as float32 tensors of shape (N, 1, …).

        Args:
            k: (N,) int64, diffusion steps within 0 … steps.
            ndim: spatial axes of the images that they multiply.
        """
        alpha_bar = self.alpha_bar[k].view(-1, 1, *([1] * ndim))
        return alpha_bar.sqrt().float(), (1 - alpha_bar).sqrt().float()

    def add_noise(self, image: Tensor, noise: Tensor, k: Tensor) -> Tensor:
        """y_k = √ᾱ_k · image + √(1−ᾱ_k) · noise; image and noise (N, C, *spatial), k (N,)."""
        signal, spread = self.levels(k, image.ndim - 2)
        return signal * image + spread * noise
