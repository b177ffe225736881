"""What the page shows of a translation or a registration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.report.document import Markup
from plasticine.report.viewer.grid import ShownGrid


@dataclasses.dataclass(frozen=True)
class ShownImage:
    """One of the two images, on the grid of its file.

    Attributes:
        role: What it is, as "fixed".
        name: Of its file.
        grid: Of its file.
        data: ``(X, Y, Z)``, its intensities.
        window: The intensities that are black and white at first.
        labels: ``(X, Y, Z)`` integers, its label map.
    """

    role: str
    name: str
    grid: ShownGrid
    data: NDArray[Any]
    window: tuple[float, float]
    labels: NDArray[Any] | None = None


@dataclasses.dataclass(frozen=True)
class Recolouring:
    """The intensity map that explains the target by the source's intensities.

    Attributes:
        low: The source's intensity at the first value.
        divisor: How far the last value is above it.
        values: The target's intensity at evenly spaced ones of the source.
    """

    low: float
    divisor: float
    values: list[float]


@dataclasses.dataclass(frozen=True)
class Case:
    """A translation or a registration, as it is shown.

    Fields are displacements along the axes of their file and in its voxels. The source is what φ
    samples: the moving image of a registration. Maps are on the target's grid, ``(X, Y, Z)``.

    Attributes:
        folder: Where it was read from.
        record: What its JSON file holds.
        title: Of the page.
        facts: A line below it.
        source: The image that was translated or moved.
        target: The translated image, or the fixed one.
        displacement: ``(3, X, Y, Z)`` of the target, φ - id.
        inverse_displacement: ``(3, X, Y, Z)`` of the source, φ⁻¹ - id.
        jacobian: det ∇φ.
        beyond: ``(4, 4)``, target to source millimetres (RAS+): what is no local displacement, the
            affine stage of a registration.
        recolouring: What the residual is left by.
        pictures: Whether the files know no millimetres: voxels are pixels, slices pictures of
            their own.
        structure: ``(C, X, Y, Z)`` in [0, 1], the structure map that the target was drawn from.
        uncertainty: The standard deviation of the samples.
        carried_labels: The source's labels, carried by φ.
        metrics: Name and value of what the index page lists.
        sections: Tables of what the record says.
        long: Tables of many rows.
    """

    folder: Path
    record: dict[str, Any]
    title: str
    facts: str
    source: ShownImage
    target: ShownImage
    displacement: NDArray[np.float32]
    inverse_displacement: NDArray[np.float32]
    jacobian: NDArray[Any]
    beyond: NDArray[np.float64]
    recolouring: Recolouring
    pictures: bool
    structure: NDArray[Any] | None
    uncertainty: NDArray[Any] | None
    carried_labels: NDArray[Any] | None
    metrics: dict[str, Any]
    sections: list[Markup]
    long: list[Markup]


def usual_window(image: NDArray[Any]) -> tuple[float, float]:
    """Black and white of an image of any unit: all but the outermost intensities."""
    low, high = (float(value) for value in np.percentile(image, [0.5, 99.7]))
    if not low < high:
        low, high = float(image.min()), float(image.max())
    return (low, high) if low < high else (low, low + 1)
