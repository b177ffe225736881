"""Labels as whole numbers, from whatever number type a file keeps them in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_TOLERANCE = 1e-3
"""How far a label may lie from a whole number: what a header's scaling leaves of rounding."""


def whole_numbers(values: NDArray[Any], name: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels as int64, exactly.

    Args:
        values: Any shape; integers, booleans or floating-point numbers.
        name: The file or array, for messages.

    Returns:
        The labels, and a note where numbers within 1e-3 of a whole one were rounded to it.

    Raises:
        TypeError: They are no real numbers.
        ValueError: A value is beyond int64, NaN, infinite, no whole number, or so large that
            its floating-point type does not hold every whole number there.
    """
    kind = values.dtype.kind
    if kind not in "biuf":
        raise TypeError(f"{name}: expected labels, whole numbers, got {values.dtype}")
    if kind == "u" and values.dtype.itemsize == 8 and (values > np.iinfo(np.int64).max).any():
        raise ValueError(
            f"{name}: expected labels of at most {np.iinfo(np.int64).max}, got {values.max()}"
        )
    if kind != "f":
        return values.astype(np.int64), ()
    finite = np.isfinite(values)
    if not finite.all():
        count = values.size - int(finite.sum())
        raise ValueError(f"{name}: expected labels, got {count} that are NaN or infinite")
    rounded = np.rint(values)
    away = np.abs(values - rounded)
    if (away > _TOLERANCE).any():
        first = values.flat[int(np.argmax(away))]
        raise ValueError(f"{name}: expected labels, whole numbers, got fractions such as {first}")
    # From here on two whole numbers may share one floating-point number.
    bits = min(np.finfo(values.dtype).nmant + 1, 63)
    if (np.abs(rounded) >= 2.0**bits).any():
        raise ValueError(
            f"{name}: expected labels below {2**bits}, from where {values.dtype} does not hold "
            f"every whole number, got {int(np.abs(rounded).max())}: store them as integers"
        )
    labels = rounded.astype(np.int64)
    if not away.any():
        return labels, ()
    count, most = int((away > 0).sum()), float(away.max())
    return labels, (f"{name}: {count} labels were rounded to whole numbers, by {most:.1g} at most",)
