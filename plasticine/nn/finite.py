"""Refusal of NaN and infinity, which would spread over all of a result."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor


def not_finite(tensor: Tensor) -> str | None:
    """Says how much of a tensor is NaN or infinite, and where the first of it is.

    Args:
        tensor: any shape, floating point; on a GPU this waits for it.

    Returns:
        Such as "3 of 4096 values are NaN or infinite, the first at (0, 0, 5, 7)"; None where all
        is finite.
    """
    finite = tensor.isfinite()
    if finite.all():
        return None
    index = int((~finite).flatten().int().argmax())
    place = tuple(int(n) for n in np.unravel_index(index, tuple(tensor.shape)))
    count = int((~finite).sum())
    verb = "is" if count == 1 else "are"
    return f"{count} of {tensor.numel()} values {verb} NaN or infinite, the first at {place}"


def check_finite(tensor: Tensor, name: str) -> None:
    """Refuses a tensor that holds NaN or infinity.

    Args:
        tensor: any shape, floating point.
        name: what the caller calls it.

    Raises:
        ValueError: it does; the message says how many values and where the first is.
    """
    found = not_finite(tensor)
    if found is not None:
        raise ValueError(f"{name} must be finite; {found}")


def check_all_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuses tensors of which one holds NaN or infinity, such as a model's weights.

    Args:
        tensors: any shapes, floating point, by name.
        where: what holds them.

    Raises:
        ValueError: one does; the message names it.
    """
    for name, tensor in tensors.items():
        check_finite(tensor, f"{where}: {name}")
