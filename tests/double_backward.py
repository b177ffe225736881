"""What the tests of second derivatives share: their inputs, the pass itself and its rounding."""

from __future__ import annotations

import functools

import comparison
import torch
from torch import Tensor

import plasticine

ROUNDING = comparison.ROUNDING | {
    torch.float32: 5e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
}
assert_close = functools.partial(comparison.assert_close, rounding=ROUNDING)


def make_inputs(
    generator: torch.Generator,
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    *,
    batch: int = 2,
    channels: int = 3,
    device: str = "cpu",
) -> tuple[list[Tensor], list[Tensor]]:
    """Float64 gradient, image, displacement and affine, and directions of the last three."""
    image_size, size = sizes
    ndim = len(size)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)

    def fields() -> list[Tensor]:
        return [
            randn(batch, channels, *image_size),
            randn(batch, ndim, *size) * 2.5,
            randn(batch, ndim, ndim + 1) * 0.2,
        ]

    inputs = fields()
    inputs[2] += torch.eye(ndim, ndim + 1, dtype=torch.float64, device=device)
    return [randn(batch, channels, *size), *inputs], fields()


def second(
    directions: list[Tensor | None],
    inputs: list[Tensor | None],
    backend: str,
    *,
    mode: str = "linear",
    padding: str = "border",
) -> tuple[Tensor, ...]:
    """All gradients of the backward's, through autograd."""
    leaves = [None if x is None else x.detach().requires_grad_() for x in inputs]
    grad, image, displacement, affine = leaves
    result = plasticine.warp(
        image, displacement, affine=affine, mode=mode, padding=padding, backend=backend
    )
    variables = [x for x in leaves[1:] if x is not None]
    gradients = torch.autograd.grad(result, variables, grad, create_graph=True)
    along = [x for x, y in zip(directions, leaves[1:], strict=True) if y is not None]
    given = [(x, y) for x, y in zip(gradients, along, strict=True) if y is not None]
    return torch.autograd.grad(
        [x for x, _ in given], [grad, *variables], [y for _, y in given], materialize_grads=True
    )
