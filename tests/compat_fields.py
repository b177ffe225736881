"""Images, fields and comparisons that the tests of ``plasticine.compat`` share."""

from __future__ import annotations

import torch
from torch import Tensor

SIZES = ((7, 10), (5, 8, 9))
DTYPES = (torch.float32, torch.float64)


def image(size, dtype=torch.float32, channels=1, batch=2, seed=0) -> Tensor:
    """Smooth, in [0, 1], so that no difference of precision is magnified."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(batch, channels, *size, generator=generator, dtype=torch.float64)
    kernel = torch.ones(channels, 1, *[3] * len(size), dtype=torch.float64) / 3 ** len(size)
    convolution = getattr(torch.nn.functional, f"conv{len(size)}d")
    smooth = convolution(noise, kernel, padding=1, groups=channels)
    return (0.5 * noise + 0.5 * smooth).clamp(0.01, 0.99).to(dtype)


def field(size, dtype=torch.float32, batch=2, seed=1, greatest=2.0) -> Tensor:
    """Displacements that reach out of the grid."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(batch, len(size), *size, generator=generator, dtype=torch.float64)
    return ((2 * noise - 1) * greatest).to(dtype)


def same(ours, theirs, *inputs, rtol=1e-4, atol=1e-5, precise=(1e-7, 1e-9)) -> None:
    """Values and gradients of two functions, to float tolerance; ``precise`` is that of float64."""
    found = []
    for function in (ours, theirs):
        leaves = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
        result = function(*leaves)
        weight = torch.linspace(0.5, 1.5, result.numel(), dtype=result.dtype).view_as(result)
        wanted = [x for x in leaves if x.requires_grad]
        gradients = torch.autograd.grad((result * weight).sum(), wanted, allow_unused=True)
        found.append([result.detach(), *gradients])
    if inputs[0].dtype == torch.float64:
        rtol, atol = precise
    for got, expected in zip(*found, strict=True):
        expected = torch.zeros_like(got) if expected is None else expected
        got = torch.zeros_like(expected) if got is None else got
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol, check_dtype=False)
