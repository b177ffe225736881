"""What the pages of pictures are drawn with."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

BACKGROUND = "#101418"
TEXT = "#e8eaed"
MUTED = "#9aa0a6"
GRID = "#ffb000"
FOLD = "#39ff14"

#: Slices of volumes are shown with these ends down and to the right.
SHOWN_AXES = "IPR"
#: The plane, the axis across it, and the ends of its rows.
PLANES = (("sagittal", 2, "AP"), ("coronal", 1, "LR"), ("axial", 0, "LR"))
#: Axes of space, R, A and S, that the shown axes run along.
OF_SPACE = (2, 1, 0)
#: About so many lines of a deformed grid go over a picture.
GRID_LINES = 22


def outline(axis: Any, warped: NDArray[Any]) -> None:
    """A thin line around the body, to find one's way on a map without anatomy."""
    if min(warped.shape) > 1 and warped.min() < 0.05 < warped.max():
        axis.contour(warped, [0.05], colors="#5f6368", linewidths=0.4)


def mark_folds(axis: Any, jacobian: NDArray[Any]) -> None:
    """Marks where J is not positive, or NaN."""
    at = np.argwhere(~(jacobian > 0))
    if at.size:
        axis.scatter(at[:, 1], at[:, 0], marker="s", s=2.5, color=FOLD, linewidths=0)


def colour_bar(
    figure: Figure, axis: Any, norm: Normalize, colours: str, label: str, bottom: float
) -> None:
    """A scale below an axis, in a margin that is ``bottom`` of the figure's height."""
    # Where it was put: a narrow picture leaves less of it.
    box = axis.get_position(original=True)
    place = figure.add_axes(
        (box.x0 + 0.05 * box.width, 0.68 * bottom, 0.9 * box.width, 0.1 * bottom)
    )
    bar = figure.colorbar(
        ScalarMappable(norm, matplotlib.colormaps[colours]), cax=place, orientation="horizontal"
    )
    low, high = (float(value) for value in place.get_xlim())
    ticks = [low, (low + high) / 2, high]
    bar.set_ticks(ticks, labels=[f"{value:.3g}" for value in ticks])
    bar.ax.tick_params(colors=MUTED, labelsize=7, length=2, pad=1.5)
    # Inwards at the ends, or neighbouring bars' labels run into each other.
    first, _, last = bar.ax.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    bar.outline.set_visible(False)  # type: ignore[operator]
    if label:
        bar.set_label(label, color=MUTED, fontsize=7, labelpad=1)


def write_heading(figure: Figure, title: str, facts: str) -> None:
    """A title, and a line of facts below it."""
    height = float(figure.get_size_inches()[1])
    # A dollar in a name is no mathematics.
    heading: dict[str, Any] = {"x": 0.012, "va": "center", "parse_math": False}
    figure.text(y=1 - 0.26 / height, s=title, color=TEXT, fontsize=13, weight="bold", **heading)
    figure.text(y=1 - 0.52 / height, s=facts, color=MUTED, fontsize=8.5, **heading)


def draw_lines(axis: Any, coordinate: NDArray[Any], step: float) -> None:
    """The lines on which a coordinate is a multiple of the step."""
    low, high = np.nanmin(coordinate), np.nanmax(coordinate)
    levels = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    if min(coordinate.shape) > 1 and levels.size:
        axis.contour(coordinate, levels, colors=GRID, linewidths=0.45, linestyles="solid")


def nice_step(length: float) -> float:
    """1, 2 or 5 times a power of ten, next to a length."""
    power = 10 ** np.floor(np.log10(length))
    return float(min((1, 2, 5, 10), key=lambda n: abs(np.log(n * power / length))) * power)
