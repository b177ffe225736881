"""The page of pictures of a Jacobian determinant: where, how much, and of what deformation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from plasticine.io.orientation import axes_towards
from plasticine.report.drawing import (
    BACKGROUND,
    FOLD,
    GRID_LINES,
    MUTED,
    OF_SPACE,
    PLANES,
    SHOWN_AXES,
    TEXT,
    colour_bar,
    draw_lines,
    mark_folds,
    nice_step,
    write_heading,
)
from plasticine.report.record import printable
from plasticine.transforms import DisplacementField

_PICTURE = 3.0  # inches
_BINS = 200


def draw_jacobian(
    field: DisplacementField,
    determinant: NDArray[np.float32],
    path: Path,
    *,
    name: str,
    log: bool,
    record: dict[str, Any],
) -> None:
    """Draws ``jacobian.png``: planes through the least determinant, the one of a slice.

    Above the determinant or its logarithm, folds (J <= 0 or NaN) marked; below where the lines of a
    grid of the moving image's millimetres land. Beside them how often each value occurs.

    Args:
        field: φ.
        determinant: ``(X, Y, Z)``, its Jacobian determinant.
        path: The PNG file to write.
        name: What the transform is called.
        log: Show the logarithm.
        record: What ``jacobian.json`` holds.

    Raises:
        OSError: The file cannot be written.
    """
    with matplotlib.style.context("default"):
        _draw(field, determinant, path, name, log, record)


@dataclasses.dataclass(frozen=True)
class _Slice:
    """One slice of a field's voxels, rows downwards.

    Attributes:
        name: The plane.
        axis: Which of the file's axes it is across.
        index: Where along it.
        rows: Which of the file's axes its rows follow one another along, and its columns.
        flips: Whether rows and columns run against these axes.
        of_space: Axes of space, R, A and S, that they run closest to.
    """

    name: str
    axis: int
    index: int
    rows: tuple[int, int]
    flips: tuple[bool, bool]
    of_space: tuple[int, int]

    def of(self, volume: NDArray[Any]) -> NDArray[Any]:
        """The slice of ``(X, Y, Z)``."""
        plane = np.take(volume, self.index, self.axis)
        plane = plane if self.rows[0] < self.rows[1] else plane.T
        return np.flip(plane, tuple(axis for axis in range(2) if self.flips[axis]))

    def places(self, field: DisplacementField) -> list[NDArray[np.float64]]:
        """Millimetres along ``of_space`` that the slice's voxels go to."""
        shape = tuple(1 if axis == self.axis else n for axis, n in enumerate(field.grid.shape))
        voxels = np.indices(shape, dtype=np.float64)
        voxels[self.axis] = self.index
        whole = field.displacement.numpy()
        moved = np.stack([np.take(one, [self.index], self.axis) for one in whole])
        matrix = field.grid.affine
        at = np.einsum("ij,j...->i...", matrix[:3, :3], voxels + moved)
        at += matrix[:3, 3].reshape(3, 1, 1, 1)
        flat = dataclasses.replace(self, index=0)
        return [flat.of(at[axis]) for axis in self.of_space]


def _slices(field: DisplacementField, determinant: NDArray[np.float32]) -> list[_Slice]:
    """Those through the least determinant, or the first that is NaN."""
    axes, flips = axes_towards(field.grid.affine, SHOWN_AXES)
    worst = np.unravel_index(int(np.argmin(determinant)), determinant.shape)
    found = []
    for name, across, _ in PLANES:
        if field.ndim == 2 and field.grid.shape[axes[across]] != 1:
            continue
        row, column = (axis for axis in range(3) if axis != across)
        found.append(
            _Slice(
                name if field.ndim == 3 else "",
                axes[across],
                int(worst[axes[across]]),
                (axes[row], axes[column]),
                (flips[row], flips[column]),
                (OF_SPACE[row], OF_SPACE[column]),
            )
        )
    return found


def _draw(
    field: DisplacementField,
    determinant: NDArray[np.float32],
    path: Path,
    name: str,
    log: bool,
    record: dict[str, Any],
) -> None:
    slices = _slices(field, determinant)
    # Inches: two rows of pictures, and a histogram as wide as one of them.
    top, bottom, left, gap = 1.0, 0.75, 0.15, 0.12
    width = left + (_PICTURE + gap) * (len(slices) + 1) + 0.35
    height = top + 2 * _PICTURE + gap + bottom
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)

    def axes_at(x: float, y: float, wide: float, tall: float) -> Any:
        return figure.add_axes((x / width, y / height, wide / width, tall / height))

    norm = _norm(determinant, log)
    longest = max(n * s for n, s in zip(field.grid.shape, field.grid.spacing, strict=True))
    step = nice_step(longest / GRID_LINES)
    for number, one in enumerate(slices):
        x = left + (_PICTURE + gap) * number
        upper = axes_at(x, bottom + _PICTURE + gap, _PICTURE, _PICTURE)
        lower = axes_at(x, bottom, _PICTURE, _PICTURE)
        _draw_determinant(upper, one, field, determinant, norm, log)
        _draw_grid(lower, one, field, step)
        if number == 0:
            label = "log J, above" if log else "J, above"
            colour_bar(figure, lower, norm, "RdBu_r", label, bottom / height)
    x = left + (_PICTURE + gap) * len(slices) + 0.25
    _draw_histogram(
        axes_at(x, bottom + 0.1, _PICTURE - 0.2, height - top - bottom - 0.1), determinant, log
    )
    write_heading(figure, printable(name), _facts(record, step))
    figure.savefig(path, dpi=120, facecolor=BACKGROUND, format="png")


def _draw_determinant(
    axis: Any,
    one: _Slice,
    field: DisplacementField,
    determinant: NDArray[np.float32],
    norm: Normalize,
    log: bool,
) -> None:
    values = one.of(determinant)
    picture = np.log(np.where(values > 0, values, np.nan)) if log else values
    axis.imshow(
        picture, cmap="RdBu_r", norm=norm, aspect=_aspect(one, field), interpolation="nearest"
    )
    mark_folds(axis, values)
    axis.set_title(one.name, color=TEXT, fontsize=9)
    axis.set(xticks=[], yticks=[], facecolor="black")


def _draw_grid(axis: Any, one: _Slice, field: DisplacementField, step: float) -> None:
    places = one.places(field)
    axis.imshow(np.zeros_like(places[0]), cmap="gray", aspect=_aspect(one, field))
    for coordinate in places:
        draw_lines(axis, coordinate, step)
    axis.set(xticks=[], yticks=[], facecolor="black")


def _aspect(one: _Slice, field: DisplacementField) -> float:
    row, column = (float(field.grid.spacing[axis]) for axis in one.rows)
    return row / column


def _norm(determinant: NDArray[np.float32], log: bool) -> Normalize:
    """Symmetric about what keeps its volume."""
    known = determinant[np.isfinite(determinant)]
    change = np.abs(np.log(known[known > 0]) if log else known - 1)
    largest = (
        float(np.clip(np.percentile(change, 99), 0.1, 2 if log else 1)) if change.size else 1.0
    )
    return Normalize(-largest, largest) if log else Normalize(1 - largest, 1 + largest)


def _draw_histogram(axis: Any, determinant: NDArray[np.float32], log: bool) -> None:
    known = determinant[np.isfinite(determinant)]
    values = np.log(known[known > 0]) if log else known
    low, high = np.percentile(values, (0.01, 99.99)) if values.size else (0.0, 1.0)
    low, high = (low, high) if log else (min(low, 0.0), high)
    high = max(high, low + 1e-3)  # one value, as of an affine map
    axis.set_facecolor(BACKGROUND)
    axis.hist(values, bins=_BINS, range=(low, high), color=MUTED, log=bool(values.size))
    axis.axvline(0 if log else 1, color=TEXT, linewidth=0.8)
    if not log:
        axis.axvspan(min(low, 0) - 1, 0, color=FOLD, alpha=0.15, linewidth=0)
    axis.set_xlim(low - 0.02 * (high - low), high)
    axis.set_title("voxels at each " + ("log J" if log else "J"), color=TEXT, fontsize=9)
    axis.tick_params(colors=MUTED, labelsize=7)
    for spine in axis.spines.values():
        spine.set_color(MUTED)


def _facts(record: dict[str, Any], step: float) -> str:
    central = record["regions"][0]
    marked = ", marked green" if central["folds"] else ""
    return (
        f"{central['folds']} folds{marked} (J ≤ 0, central differences, full region),  J "
        f"{float(central['minimum']):.3f} to {float(central['maximum']):.3f},  SD log J "
        f"{float(central['sd_log_jacobian']):.3f},  planes through the least J;  "
        f"below: lines every {step:g} mm of the moving image, where they land"
    )
