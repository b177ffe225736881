"""Random arguments of the operators that sample, for Hypothesis.

What Hypothesis draws is small and printed with a failure: shapes, options and a seed; the tensors
come from the seed. Displacements are multiples of 1/64 and affines of 1/8, small enough that every
coordinate is exact in float32: ties of "nearest" and kinks at voxels mean the same in every dtype,
and no tolerance has to be wide enough for a coordinate on the wrong side of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import search_profiles  # noqa: F401  loads how long is searched
import torch
from comparison import ROUNDING
from hypothesis import strategies as st
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALF)
PADDINGS = ("zeros", "border", "reflection")
MODES = ("linear", "nearest", "cubic", "bspline")
LAYOUTS = ("contiguous", "transposed", "channels_last", "strided", "window", "expanded")
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))

# Up to here, in 64ths, every whole number is one of the dtype's, and p + u is exact in float32.
_LARGEST = {
    torch.float64: 2**18,
    torch.float32: 2**18,
    torch.float16: 2**11 - 1,
    torch.bfloat16: 2**8 - 1,
}

seeds = st.integers(0, 2**32 - 1)
layouts = st.sampled_from(LAYOUTS)
scales = st.sampled_from((0.0, 0.3, 2.0, 12.0, 1000.0))
paddings = st.sampled_from(PADDINGS)


# Nothing at all is the simplest there is, and Hypothesis would try little else.
counts = st.sampled_from((1, 2, 3, 1, 2, 3, 1, 2, 3, 0))
_empty_axes = st.sampled_from((*[None] * 11, 0, 1))


@st.composite
def spatial_sizes(
    draw: st.DrawFn, ndim: int, most: int = 9, *, maybe_empty: bool = False
) -> tuple[int, ...]:
    """A spatial shape; in 2D the rows may be long enough for several vectors."""
    rows = st.integers(1, most)
    if ndim == 2:
        rows |= st.integers(15, 40)
    sizes = [*(draw(st.integers(1, most)) for _ in range(ndim - 1)), draw(rows)]
    empty = draw(_empty_axes) if maybe_empty else None
    if empty is not None:
        sizes[empty] = 0
    return tuple(sizes)


@st.composite
def batches(draw: st.DrawFn, count: int) -> tuple[int, ...]:
    """Batch sizes of ``count`` tensors: N, or 1."""
    batch = draw(counts)
    return tuple(draw(st.sampled_from((batch, batch, 1))) for _ in range(count))


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The values in memory of another order, with NaN between them; "expanded" repeats some."""
    if layout == "transposed":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":
        memory = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan)
        memory[..., ::2] = x
        return memory[..., ::2]
    if layout == "window":
        memory = x.new_full([n + 2 for n in x.shape], torch.nan)
        window = memory[tuple(slice(1, 1 + n) for n in x.shape)]
        window.copy_(x)
        return window
    if layout == "expanded" and 0 not in x.shape:
        return x[:1, :, :1].expand(x.shape)
    return x


class Source:
    """Random numbers of a seed, on a device."""

    def __init__(self, seed: int, device: str) -> None:
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)

    def values(
        self,
        shape: Any,
        dtype: torch.dtype,
        layout: str = "contiguous",
        others: tuple[float, ...] = (),
    ) -> Tensor:
        """Of a normal distribution; ``others`` stand in place of a few."""
        found = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return lay_out(self._sprinkled(found, others).to(dtype).to(self.device), layout)

    def displacement(
        self,
        shape: Any,
        dtype: torch.dtype,
        scale: float,
        layout: str = "contiguous",
        others: tuple[float, ...] = (),
        *,
        between: bool = False,
        halves: bool = False,
    ) -> Tensor:
        """Multiples of 1/64 up to a scale.

        Those ``between`` voxels are never on one nor in the middle of two; ``halves`` always are.
        """
        steps = self._integers(shape, min(int(64 * scale), _LARGEST[dtype]))
        if halves:
            steps = 32 * (steps / 32).round()
        if between:
            steps = 2 * (steps / 2).floor() + 1
        found = self._sprinkled(steps / 64, others)
        return lay_out(found.to(dtype).to(self.device), layout)

    def affine(self, batch: int, ndim: int, dtype: torch.dtype) -> Tensor:
        """Multiples of 1/8 about the identity, ``(N, d, d + 1)``."""
        steps = self._integers((batch, ndim, ndim + 1), 4)
        return (torch.eye(ndim, ndim + 1) + steps / 8).to(dtype).to(self.device)

    def _sprinkled(self, x: Tensor, others: tuple[float, ...]) -> Tensor:
        if not others:
            return x
        at = torch.rand(x.shape, generator=self.generator) < 0.05
        which = torch.randint(len(others), x.shape, generator=self.generator)
        return torch.where(at, torch.tensor(others, dtype=x.dtype)[which], x)

    def _integers(self, shape: Any, limit: int) -> Tensor:
        return torch.randint(-limit, limit + 1, tuple(shape), generator=self.generator).double()


def float64(x: Tensor) -> Any:
    """The values as NumPy has them."""
    return x.detach().double().cpu().numpy()


def agrees(
    actual: Tensor,
    expected: Any,
    magnitude: Any,
    certain: Any = False,
    possible: Any = False,
    *,
    least: float = 0.0,
) -> None:
    """Equal up to a rounding of what was added up.

    Args:
        actual: the result.
        expected: in float64.
        magnitude: the sum of the absolute values of the terms.
        certain: where a value that is not finite was read: nothing else will do there.
        possible: where one was read with a weight of 0, too: there it may, and may not be.
        least: the error of what is expected itself.
    """
    found = float64(actual)
    assert found.shape == expected.shape
    assert not np.isfinite(found[np.broadcast_to(certain, found.shape)]).any()
    rounding = max(ROUNDING[actual.dtype], least)
    scale = np.maximum(np.maximum(1.0, magnitude), np.abs(expected))
    close = np.abs(found - expected) <= rounding * scale
    close |= np.isnan(found) & np.isnan(expected)
    close |= possible & ~np.isfinite(found)
    close |= certain
    assert close.all(), (
        f"{(~close).sum()} of {close.size} differ, the first at {np.argwhere(~close)[0].tolist()}: "
        f"{found[~close][0]} in place of {expected[~close][0]}"
    )
