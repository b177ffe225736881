"""The random numbers of a batch, of which a process may work on a part."""

from __future__ import annotations

import torch
from torch import Tensor


class Draws:
    """Draws for a whole batch, and gives those of some of its samples.

    However a batch is divided among processes and passes, its samples then get the same
    random numbers, because every part draws all of them in the same order.

    Args:
        generator: a CPU generator, in the same state for every part of the batch.
        batch: samples of the whole batch.
        samples: which of them are this part; all where None.
    """

    def __init__(
        self, generator: torch.Generator, batch: int, samples: slice | None = None
    ) -> None:
        self.generator, self.batch = generator, batch
        self.samples = slice(batch) if samples is None else samples
        self.count = len(range(batch)[self.samples])

    def uniform(self, *shape: int) -> Tensor:
        """(count, *shape) float32, uniform within [0, 1)."""
        return torch.rand(self.batch, *shape, generator=self.generator)[self.samples]

    def normal(self, *shape: int) -> Tensor:
        """(count, *shape) float32, standard normal."""
        return torch.randn(self.batch, *shape, generator=self.generator)[self.samples]

    def integers(self, low: int, high: int) -> Tensor:
        """(count,) int64, uniform within low … high - 1."""
        return torch.randint(low, high, (self.batch,), generator=self.generator)[self.samples]
