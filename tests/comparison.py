"""What the tests of the operators compare by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from plasticine.conformance import ROUNDING

PADDINGS = ("zeros", "border", "reflection")
# Of an image and a displacement, one of them or both without voxels, channels or samples.
EMPTY_SHAPES = (
    ((0, 2, 4, 5), (0, 2, 4, 5)),
    ((2, 0, 4, 5), (2, 2, 4, 5)),
    ((2, 3, 4, 5), (2, 2, 0, 5)),
    ((2, 3, 0, 5), (2, 2, 4, 0)),
    ((0, 1, 3, 4, 5), (0, 3, 3, 4, 5)),
    ((1, 2, 3, 4, 5), (1, 3, 3, 0, 5)),
)


def assert_close(
    actual: Tensor,
    expected: Tensor,
    dtype: torch.dtype,
    rounding: Mapping[torch.dtype, float] = ROUNDING,
    equal_nan: bool = False,
) -> None:
    """Equal but for the rounding of ``dtype`` at what is expected's magnitude."""
    expected = expected.detach().double().cpu()
    finite = expected[expected.isfinite()].abs()
    scale = max(1.0, finite.max().item()) if finite.numel() else 1.0
    torch.testing.assert_close(
        actual.detach().double().cpu(),
        expected,
        rtol=0,
        atol=rounding[dtype] * scale,
        equal_nan=equal_nan,
    )


def order_of_sums(x: Tensor) -> float:
    """What gradcheck may find two gradients of one call to differ by, in float64, as nondet_tol.

    On a GPU atomics add what is scattered, in any order.
    """
    return 0.0 if x.is_cpu else 1e-10


def assert_same_sums(actual: Tensor, expected: Tensor) -> None:
    """The same bits of what is scattered; on a GPU up to the order in which its atomics add."""
    if actual.is_cpu:
        assert torch.equal(actual, expected)
    else:
        assert_close(actual, expected, actual.dtype)


def away_from(result: Tensor, places: Iterable[tuple[Any, ...]]) -> Tensor:
    """Which voxels of ``result`` are none of the places (sample, channels, *voxel): bool (N, *)."""
    away = torch.ones_like(result[:, 0], dtype=torch.bool)
    for sample, _, *voxel in places:
        away[(sample, *voxel)] = False
    return away


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
