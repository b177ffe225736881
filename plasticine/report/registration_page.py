"""The page of pictures of a registration: how well the images lie on each other, and what moved."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from plasticine.io.orientation import axes_towards
from plasticine.io.volume import KINDS_WITHOUT_SPACING
from plasticine.io.volume_registration import VolumeRegistration
from plasticine.report.drawing import (
    BACKGROUND,
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
    outline,
    write_heading,
)
from plasticine.report.record import printable

# The squares of the moving image in a checkerboard have this tint.
_TINT = np.array([1.0, 0.83, 0.58])
_SQUARES = 8
# Inches, of a picture with the names of its ends.
_ROOM_FOR_LETTERS = 0.4
_COLUMNS = {
    "fixed": ("fixed", ""),
    "before": ("moving before", "where the headers put it"),
    "after": ("moving after", "warped, its own intensities"),
    "board before": ("checkerboard before", "grey fixed, tinted moving"),
    "board after": ("checkerboard after", "edges should run through"),
    "difference before": ("difference before", "moving - fixed, each by its range"),
    "difference after": ("difference after", "of one modality: should vanish"),
    "grid": ("grid of the moving image", ""),
    "jacobian": ("Jacobian det ∇φ", "moving volume per fixed volume"),
}


@dataclasses.dataclass(frozen=True)
class _View:
    """One slice through everything, rows downwards."""

    name: str
    ends: str
    spacing: tuple[float, float]
    images: dict[str, NDArray[Any]]
    coordinates: tuple[NDArray[Any], NDArray[Any]]

    @property
    def extent(self) -> tuple[float, float]:
        """Millimetres of rows and columns."""
        rows, columns = self.images["fixed"].shape
        return rows * self.spacing[0], columns * self.spacing[1]


def draw_registration(result: VolumeRegistration, path: Path) -> None:
    """Draws ``registration.png``: three planes of a volume, the one of a slice.

    Each plane goes through the middle of what is bright in the fixed image and seen in the moving
    one. Before and after share one scale of differences, which are of where both are seen. The grid
    is that of the moving image's millimetres, drawn where it lands in the fixed image: each line is
    cut out of a surface that φ has brought there. Folds (J <= 0 or NaN) are marked. Matplotlib's
    own settings do not change the page.

    Args:
        result: The registration.
        path: The PNG file to write.

    Raises:
        OSError: The file cannot be written.
    """
    with matplotlib.style.context("default"):
        _draw(result, path)


def _draw(result: VolumeRegistration, path: Path) -> None:
    views = _views(result)
    norms = _norms(views)
    line = nice_step(max(max(view.extent) for view in views) / GRID_LINES)
    # Inches; all planes have one scale.
    picture = 1.75
    scale = picture / max(view.extent[1] for view in views)
    heights = [min(max(view.extent[0] * scale, 0.3 * picture), 2.5 * picture) for view in views]
    top, bottom, left, gap = 1.05, 0.55, 0.3, 0.04
    width = left + (picture + gap) * len(_COLUMNS) + 0.1
    height = top + sum(heights) + gap * (len(views) - 1) + bottom
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    lowest = height - top
    named = _named(result)
    for view, tall in zip(views, heights, strict=True):
        lowest -= tall
        axes = {}
        for number, column in enumerate(_COLUMNS):
            x = left + (picture + gap) * number
            axis = figure.add_axes((x / width, lowest / height, picture / width, tall / height))
            axes[column] = axis
            _draw_picture(axis, column, view, norms, line)
        if view is views[0]:
            _write_columns(axes, _line_in_words(line, named=named))
        if named:
            axes["fixed"].set_ylabel(view.name, color=MUTED, fontsize=8)
            wide = view.extent[1] * scale > _ROOM_FOR_LETTERS
            for place, letter in zip((0.03, 0.97), view.ends if wide else "", strict=False):
                axes["fixed"].text(
                    *(place, 0.95, letter),
                    color=TEXT,
                    fontsize=7,
                    ha="left" if place < 0.5 else "right",
                    transform=axes["fixed"].transAxes,
                )
        lowest -= gap
    for column, colours, label in (
        ("difference before", "PuOr_r", "moving - fixed"),
        ("difference after", "PuOr_r", "moving - fixed"),
        ("jacobian", "RdBu_r", "J"),
    ):
        norm = norms[column.split()[0]]
        colour_bar(figure, axes[column], norm, colours, label, bottom / height)
    title = f"{printable(result.moving.path.name)}  →  {printable(result.fixed.path.name)}"
    write_heading(figure, title, _facts(result))
    figure.savefig(path, dpi=120, facecolor=BACKGROUND, format="png")


def _named(result: VolumeRegistration) -> bool:
    """Whether millimetres and directions mean something."""
    return result.fixed.kind not in KINDS_WITHOUT_SPACING


def _views(result: VolumeRegistration) -> list[_View]:
    """What is to be drawn, slice by slice."""
    affine = result.fixed.affine
    assert affine is not None
    axes, flips = axes_towards(affine, SHOWN_AXES)

    def turned(volume: NDArray[Any]) -> NDArray[Any]:
        flipped = tuple(axis for axis, flip in enumerate(flips) if flip)
        return np.flip(volume.transpose(axes), flipped)

    moved = _scaler(result.moving.data)
    volumes = {
        "fixed": turned(_scaler(result.fixed.data)(result.fixed.data)),
        "before": turned(moved(result.before)),
        "after": turned(moved(result.warped)),
        "jacobian": turned(result.jacobian),
        "seen before": turned(_seen_before(result)),
        "seen after": turned(result.valid),
    }
    voxels = np.indices(result.warped.shape, dtype=np.float64) + result.displacement
    places = np.einsum("ij,jxyz->ixyz", affine[:3, :3], voxels) + affine[:3, 3, None, None, None]
    coordinates = [turned(place) for place in places]
    sizes = np.linalg.norm(affine[:3, :3], axis=0)[list(axes)]
    bright = np.argwhere((volumes["fixed"] > 0.1) & volumes["seen after"])
    middle = np.median(bright, axis=0).astype(int) if len(bright) else np.zeros(3, int)
    shape = volumes["fixed"].shape
    views = []
    for name, across, ends in PLANES:
        if result.space.planes is not None and shape[across] != 1:
            continue
        row, column = (axis for axis in range(3) if axis != across)
        index = tuple(int(middle[across]) if axis == across else slice(None) for axis in range(3))
        images = {key: volume[index] for key, volume in volumes.items()}
        views.append(
            _View(
                name=name,
                ends=ends,
                spacing=(float(sizes[row]), float(sizes[column])),
                images=images | _compared(images, (float(sizes[row]), float(sizes[column]))),
                coordinates=(
                    coordinates[OF_SPACE[row]][index],
                    coordinates[OF_SPACE[column]][index],
                ),
            )
        )
    return views


def _compared(
    images: dict[str, NDArray[Any]], spacing: tuple[float, float]
) -> dict[str, NDArray[Any]]:
    """Checkerboards and differences of a slice."""
    fixed = images["fixed"]
    rows, columns = (np.arange(n) * size for n, size in zip(fixed.shape, spacing, strict=True))
    side = max(rows[-1], columns[-1], 1e-9) / _SQUARES
    odd = (np.floor(rows[:, None] / side) + np.floor(columns / side)) % 2 == 1
    found = {}
    for when in ("before", "after"):
        board = np.repeat(fixed[..., None], 3, axis=2)
        seen = images[f"seen {when}"]
        board[odd & seen] = images[when][odd & seen][:, None] * _TINT
        found[f"board {when}"] = board
        # Where there is no moving image there is nothing to compare.
        found[f"difference {when}"] = np.where(seen, images[when] - fixed, np.nan)
    return found


def _seen_before(result: VolumeRegistration) -> NDArray[np.bool_]:
    """Where the headers put the moving image; slices are looked at within their planes."""
    assert result.moving.affine is not None
    assert result.fixed.affine is not None
    voxels = np.linalg.inv(result.moving.affine) @ result.fixed.affine
    places = np.indices(result.fixed.data.shape, dtype=np.float64)
    seen = np.ones(result.fixed.data.shape, bool)
    for row, size in zip(voxels[:3], result.moving.data.shape, strict=True):
        place = np.einsum("j,jxyz->xyz", row[:3], places) + row[3]
        seen &= (size == 1) | ((place >= -0.5) & (place <= size - 0.5))
    return seen


def _scaler(image: NDArray[Any]) -> Any:
    """Brings an image's intensities to [0, 1], all but the outermost."""
    low, high = np.percentile(image, [0.5, 99.7])
    if not low < high:
        low, high = image.min(), image.max()
    return lambda values: np.clip((values - low) / (high - low), 0, 1)


def _norms(views: list[_View]) -> dict[str, Normalize]:
    """One scale for all planes, and for before and after."""
    jacobian = np.concatenate([view.images["jacobian"].ravel() for view in views])
    stages = ("difference before", "difference after")
    difference = np.concatenate([view.images[key].ravel() for view in views for key in stages])
    growth = float(np.clip(np.percentile(np.abs(np.nan_to_num(jacobian, nan=1) - 1), 99), 0.1, 1))
    difference = difference[~np.isnan(difference)]
    change = max(float(np.percentile(np.abs(difference), 99)) if difference.size else 0.0, 0.1)
    return {
        "jacobian": Normalize(1 - growth, 1 + growth),
        "difference": Normalize(-change, change),
    }


def _draw_picture(
    axis: Any, column: str, view: _View, norms: dict[str, Normalize], line: float
) -> None:
    picture, norm, colours = view.images.get(column), norms.get(column.split()[0]), "gray"
    if norm is not None:
        colours = "RdBu_r" if column == "jacobian" else "PuOr_r"
    if column == "grid":
        picture = 0.6 * view.images["fixed"]
    assert picture is not None
    rows, columns = view.images["fixed"].shape
    axis.imshow(
        picture,
        cmap=colours,
        norm=norm or Normalize(0, 1),
        aspect=view.spacing[0] / view.spacing[1],
        interpolation="nearest",
    )
    axis.set(xticks=[], yticks=[], xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    axis.set_facecolor("black")
    for spine in axis.spines.values():
        spine.set_visible(False)
    if column == "grid":
        for coordinate in view.coordinates:
            draw_lines(axis, coordinate, line)
    if column == "jacobian":
        outline(axis, view.images["fixed"])
        mark_folds(axis, view.images["jacobian"])


def _line_in_words(line: float, *, named: bool) -> str:
    return f"every {line:g} {'mm' if named else 'pixels'}, where it lands"


def _write_columns(axes: dict[str, Any], grid: str) -> None:
    for column, (name, meaning) in _COLUMNS.items():
        axis = axes[column]
        axis.set_title(f"{name}\n", color=TEXT, fontsize=9, pad=3)
        axis.text(
            *(0.5, 1.015, grid if column == "grid" else meaning),
            color=MUTED,
            fontsize=6.5,
            ha="center",
            transform=axis.transAxes,
        )


def _facts(result: VolumeRegistration) -> str:
    folding, lengths = result.pair.folding, result.displacement_lengths
    folds = int(folding.folds.sum())
    stages = [f"{result.similarity[name]['lncc']:.3f}" for name in ("before", "affine", "after")]
    unit = "mm" if _named(result) else "pixels"
    return (
        f"{result.arguments['transform']},  LNCC {' → '.join(stages)} (headers, affine, all),  "
        f"{folds} folds{', marked green' if folds else ''} (J ≤ 0, {folding.scheme} differences, "
        f"{folding.region} region) of {result.jacobian.size:,} voxels,  "
        f"J {float(folding.minimum.min()):.3f} to {float(folding.maximum.max()):.3f},  "
        f"moved beyond the affine map by {lengths.mean():.2f} {unit} in the mean, "
        f"{lengths.max():.2f} {unit} at most"
    )
