"""Which seeds there are."""

from __future__ import annotations

import operator

TRANSLATION_BITS = 48
"""A translation's seed leaves 16 of the 64 bits of torch's own to the number of the sample."""
TRAINING_BITS = 32
"""A training's seed leaves 32 of the 64 bits of torch's own to the number of the step."""


def seed_of(seed: int, bits: int) -> int:
    """A seed as Python's int; what is none is refused.

    Args:
        seed: any whole number, NumPy's too.
        bits: ``TRANSLATION_BITS`` or ``TRAINING_BITS``.

    Returns:
        The seed.

    Raises:
        TypeError: the seed is not a whole number.
        ValueError: it is negative, or has more bits.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be a whole number; got {type(seed).__name__}") from None
    if not 0 <= number < 2**bits:
        raise ValueError(f"seed must lie within 0 … {2**bits - 1} (2^{bits} - 1); got {number}")
    return number
