"""Moving label maps without a detour of the labels through floating-point numbers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def move_labels(labels: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Samples a label map; exact for labels of any size.

    The ranks of the labels that occur take the labels' place on the way.

    Args:
        labels: any shape, any integer dtype or bool.
        move: takes a float64 map of the labels' shape and gives one of its values at each place
            of the result: ``warp`` or ``resample`` of mode "nearest", padded by its border.

    Returns:
        The labels, of the result's shape and the labels' dtype.

    Raises:
        ValueError: a place of the result has no value (its displacement is NaN).
    """
    values, ranks = labels.unique(return_inverse=True)
    moved = move(ranks.double())
    if moved.isnan().any():
        raise ValueError(f"labels cannot follow a map that is NaN at {int(moved.isnan().sum())}")
    return values[moved.long()]
