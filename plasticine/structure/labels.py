"""The user's own label map as structure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.structure.structure_map import StructureMap

_LARGEST = 2**63 - 1


class Labels(StructureMap):
    """One-hot channels of a label map that comes with the image.

    Whatever crosses the domains was decided by whoever drew the labels, so the same value must
    mean the same thing in both. Carried by a deformation, the channels become soft at their
    borders, as those of every map.

    Args:
        ndim: 2 or 3.
        labels: the number n of labels, whose values are 0 … n - 1, or the values that have a
            channel each, in this order. With a number, any other value is refused; with a list,
            a voxel of a value that is not in it is 0 in every channel.
    """

    needs_labels = True

    def __init__(self, ndim: int, labels: int | Sequence[int]) -> None:
        super().__init__(ndim)
        self.complete = isinstance(labels, int)
        if not isinstance(labels, int) and any(v != int(v) or abs(v) > _LARGEST for v in labels):
            raise ValueError(f"labels must be whole numbers within ±(2^63 - 1); got {labels}")
        self.values = list(range(labels)) if isinstance(labels, int) else [int(v) for v in labels]
        if not self.values or len(set(self.values)) < len(self.values):
            raise ValueError(
                f"labels must be a positive number of them or different values; got {labels}"
            )
        self.channels = len(self.values)

    def check(self, image: Tensor, *, labels: Tensor | None = None) -> None:
        """Raise what ``forward`` would raise, also where a value is none of the n labels."""
        super().check(image, labels=labels)
        if self.complete and labels is not None and labels.numel():
            low, high = (int(value) for value in (labels.min(), labels.max()))
            if low < 0 or high >= self.channels:
                raise ValueError(
                    f"labels must lie within 0 … {self.channels - 1}; got {low} to {high}"
                )

    def compute_from_labels(self, labels: Tensor) -> Tensor:
        """The channels of a label map that ``forward`` has checked, bool."""
        values = torch.tensor(self.values, device=labels.device)
        return labels == values.view(1, -1, *([1] * self.ndim))
