"""What the tests of the operators compare by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# A rounding of a result of magnitude 1.
ROUNDING = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}


def assert_close(
    actual: Tensor,
    expected: Tensor,
    dtype: torch.dtype,
    rounding: Mapping[torch.dtype, float] = ROUNDING,
) -> None:
    """Equal but for the rounding of ``dtype`` at what is expected's magnitude; NaN equals NaN."""
    expected = expected.detach().double().cpu()
    finite = expected[expected.isfinite()].abs()
    scale = max(1.0, finite.max().item()) if finite.numel() else 1.0
    torch.testing.assert_close(
        actual.detach().double().cpu(),
        expected,
        rtol=0,
        atol=rounding[dtype] * scale,
        equal_nan=True,
    )


def leaf(x: Tensor, **options: Any) -> Tensor:
    """A copy that autograd collects a gradient for."""
    return x.detach().to(copy=True, **options).requires_grad_()


def assert_same_when_compiled(function: Any, inputs: list[Tensor], compiler: str) -> None:
    """Compiles ``function`` into one graph and compares its result and the gradients of its sum."""
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    result, expected = compiled(*inputs), function(*inputs)
    torch.testing.assert_close(result, expected)
    for x, y in zip(
        torch.autograd.grad(result.sum(), inputs),
        torch.autograd.grad(expected.sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(x, y)
