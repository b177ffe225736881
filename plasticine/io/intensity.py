"""From a file's intensities to a model's [0, 1]."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """What was done to the intensities, for the record.

    Attributes:
        percentile: The percentile the intensities were divided by; None where the model takes
            them as they are, or a window of them.
        of: Which voxels the percentile is of: "positive" or "all".
        divisor: Its value; the window's width.
        clipped_below: How many voxels lay under 0, or the window, and were set to 0.
        clipped_above: How many voxels lay over 1 after the division and were set to 1.
        voxels: How many voxels the image has.
        low: What was subtracted before the division: the window's lower end.
    """

    percentile: float | None
    of: str
    divisor: float
    clipped_below: int
    clipped_above: int
    voxels: int
    low: float = 0.0


def normalise(
    data: NDArray[np.float32], rule: Mapping[str, Any] | None, name: str
) -> tuple[NDArray[np.float32], Normalisation]:
    """Divides by a percentile, or takes a window, and clips to [0, 1], as the card asks.

    Args:
        data: The whole volume, float32, any shape, finite.
        rule: ``{"percentile": 99.9, "of": "positive"}``; ``{"low": -160, "high": 240}``, a
            window of intensities that mean something, such as Hounsfield units; None:
            intensities must lie in [0, 1].
        name: What to call the image in an error.

    Returns:
        The intensities in [0, 1], and what was done to them.

    Raises:
        ValueError: The rule is unknown, the percentile is not positive, the window is empty
            or holds nothing of the image, or without a rule intensities lie outside [0, 1].
    """
    if rule is None:
        low, high = float(data.min()), float(data.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"{name}: this model takes intensities in [0, 1] as they are, "
                f"got {low:g} to {high:g}"
            )
        return data, Normalisation(None, "all", 1.0, 0, 0, data.size)
    if set(rule) == {"low", "high"}:
        return _window(data, float(rule["low"]), float(rule["high"]), name)
    if set(rule) != {"percentile", "of"} or rule["of"] not in ("positive", "all"):
        raise ValueError(
            "normalisation: expected a percentile of positive or all voxels, or low and high of "
            f"a window, got {dict(rule)}"
        )
    percentile = float(rule["percentile"])
    voxels = data[data > 0] if rule["of"] == "positive" else data
    if voxels.size == 0:
        raise ValueError(f"{name}: no voxel is above 0, there is nothing to translate")
    divisor = float(np.percentile(voxels, percentile))
    if divisor <= 0:
        raise ValueError(
            f"{name}: percentile {percentile:g} of its intensities is {divisor:g}, expected above 0"
        )
    with np.errstate(under="ignore"):  # what is too small for float32 becomes 0
        scaled = data / np.float32(divisor)
    return _clip(scaled, percentile, str(rule["of"]), divisor, 0.0)


def _window(
    data: NDArray[np.float32], low: float, high: float, name: str
) -> tuple[NDArray[np.float32], Normalisation]:
    if not low < high:
        raise ValueError(f"normalisation: expected low < high, got {low:g} and {high:g}")
    if float(data.max()) <= low:
        raise ValueError(
            f"{name}: all of its intensities are at most {data.max():g}, below the window "
            f"from {low:g} to {high:g}"
        )
    with np.errstate(under="ignore"):
        scaled = (data - np.float32(low)) / np.float32(high - low)
    return _clip(scaled, None, "all", high - low, low)


def _clip(
    scaled: NDArray[np.float32], percentile: float | None, of: str, divisor: float, low: float
) -> tuple[NDArray[np.float32], Normalisation]:
    record = Normalisation(
        percentile=percentile,
        of=of,
        divisor=divisor,
        clipped_below=int((scaled < 0).sum()),
        clipped_above=int((scaled > 1).sum()),
        voxels=int(scaled.size),
        low=low,
    )
    return np.clip(scaled, 0, 1), record
