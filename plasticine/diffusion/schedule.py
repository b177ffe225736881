"""Noise schedules: how much of the image is left at each diffusion step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class NoiseSchedule(nn.Module):
    """The levels a_k and s_k of y_k = a_k·y + s_k·ε at each of ``steps`` steps, k = 1 … steps.

    a_0 = 1 and s_0 = 0: the image. "cosine" and "linear" keep a² + s² = 1, with a² = ᾱ.

    "cosine": Nichol and Dhariwal, "Improved denoising diffusion probabilistic models",
    2021, equation 17, each β clipped at 0.999. "linear": Ho et al., "Denoising diffusion
    probabilistic models", 2020: β from 1e-4 to 0.02 over 1000 steps, scaled to other counts.
    "flow": Liu et al., "Flow straight and fast" (rectified flow), 2022: a = 1 − t and s = t
    with t = k / steps, a straight line from the image to the noise.

    Args:
        kind: "cosine", "linear" or "flow".
        steps: the number of steps T.

    Attributes:
        signal: (steps + 1,) float64, a_0 … a_T.
        spread: (steps + 1,) float64, s_0 … s_T.
    """

    signal: Tensor
    spread: Tensor

    def __init__(self, kind: str = "cosine", steps: int = 1000) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"a noise schedule has at least one step; got {steps}")
        time = torch.arange(steps + 1, dtype=torch.float64) / steps
        if kind == "flow":
            signal, spread = 1 - time, time
        else:
            alpha_bar = torch.cumprod(1 - _betas(kind, time), 0)
            alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar])
            signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        self.kind = kind
        self.steps = steps
        self.register_buffer("signal", signal, persistent=False)
        self.register_buffer("spread", spread, persistent=False)

    def levels(self, k: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        """a_k and s_k as float32 tensors of shape (N, 1, …).

        Args:
            k: (N,) int64, diffusion steps within 0 … steps.
            ndim: spatial axes of the images that they multiply.
        """
        shape = (-1, 1, *([1] * ndim))
        return self.signal[k].view(shape).float(), self.spread[k].view(shape).float()

    def add_noise(self, image: Tensor, noise: Tensor, k: Tensor) -> Tensor:
        """y_k = a_k · image + s_k · noise; image and noise (N, C, *spatial), k (N,)."""
        signal, spread = self.levels(k, image.ndim - 2)
        return signal * image + spread * noise


def _betas(kind: str, time: Tensor) -> Tensor:
    """The variance β_k that each step adds, k = 1 … steps: (steps,) float64."""
    steps = len(time) - 1
    if kind == "cosine":
        level = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = 1 - level[1:] / level[:-1]
    elif kind == "linear":
        scale = 1000 / steps
        beta = torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64)
    else:
        raise ValueError(f'noise schedule must be "cosine", "linear" or "flow"; got {kind!r}')
    return beta.clamp(max=0.999)
