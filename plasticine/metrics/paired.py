"""Whether two methods differ on the same cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

_EXACT = 14
_DRAWS = 20_000


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """What `paired_test` found.

    Attributes:
        cases: How many pairs there were.
        first: Mean of the first method.
        second: Mean of the second one.
        difference: Mean of first minus second.
        p_value: Chance of a mean difference as large in either direction, if the methods did not
            differ; at least 2 / 2^cases for few cases.
    """

    cases: int
    first: float
    second: float
    difference: float
    p_value: float


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Two-sided paired permutation test of the mean difference.

    If the methods do not differ, each case's difference may as well have the other sign (Fisher's
    randomisation test). All signs are tried up to 14 cases, and beyond that 20,000 random draws,
    the same every time.

    Args:
        first: One finite value for each case.
        second: As many, of the same cases in the same order.

    Returns:
        Means, their difference and the p-value.

    Raises:
        ValueError: There are no cases, not as many of both, or a value is not finite.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(
            f"expected values of the same cases, at least one; got shapes {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("expected finite values, got NaN or infinity")
    differences = a - b
    count = len(differences)
    exact = count <= _EXACT
    if exact:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        bits = np.random.default_rng(0).integers(0, 2, (_DRAWS, count))
    sums = np.abs((1.0 - 2.0 * bits) @ differences)
    observed = abs(float(differences.sum()))
    # Sums of the same numbers in another order differ by roundings.
    as_large = int((sums >= observed - 1e-9 * float(np.abs(differences).sum())).sum())
    p_value = as_large / len(sums) if exact else (as_large + 1) / (len(sums) + 1)
    return PairedTest(
        count, float(a.mean()), float(b.mean()), float(differences.mean()), float(p_value)
    )
