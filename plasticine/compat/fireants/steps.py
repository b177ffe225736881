"""What FireANTs' optimisers and pyramids call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def adam_update_fused(
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    beta_correction1: float,
    beta_correction2: float,
    eps: float,
) -> None:
    """Overwrites ``grad`` with Adam's step from both averages."""
    torch.div(exp_avg_sq, beta_correction2, out=grad)
    grad.sqrt_().add_(eps).reciprocal_().mul_(exp_avg).div_(beta_correction1)


def _blur(spectrum: Tensor, starts: Sequence[int], ends: Sequence[int], multiplier: float) -> None:
    for axis, (start, end) in enumerate(zip(starts, ends, strict=True)):
        # FireANTs crops to one frequency more on both sides than the smaller image has.
        frequency = torch.arange(start, end, device=spectrum.device) / (end - start - 2)
        line = torch.exp(frequency.square() * (-(math.pi**2) / 2)).to(spectrum.real.dtype)
        spectrum.mul_(line.view([-1 if i == axis else 1 for i in range(len(starts))]))
    spectrum.mul_(float(multiplier))


def gaussian_blur_fft2(im_fft: Tensor, *numbers: Any) -> None:
    """Blurs a centred spectrum in place: its first and last frequencies, then a factor."""
    _blur(im_fft, numbers[:2], numbers[2:4], numbers[4])


def gaussian_blur_fft3(im_fft: Tensor, *numbers: Any) -> None:
    """The same in 3D."""
    _blur(im_fft, numbers[:3], numbers[3:6], numbers[6])
