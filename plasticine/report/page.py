"""The page of pictures: what came in, what moved, what was recoloured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from plasticine.io.translate import VolumeTrace
from plasticine.report.drawing import (
    BACKGROUND,
    GRID,
    MUTED,
    TEXT,
    colour_bar,
    mark_folds,
    outline,
    write_heading,
)
from plasticine.report.record import deformation_in_words, printable

_COLUMNS = (
    ("source x", ""),
    ("warped x∘φ", "what moved"),
    ("translated ŷ", "moved and recoloured"),
    ("φ over the source", "where ŷ was sampled from"),
    ("Jacobian det ∇φ", "source volume per volume of ŷ"),
    ("residual", "not explained by the recolouring"),
)


def draw_page(result: VolumeTrace, path: Path, *, rows: int = 4) -> None:
    """Draws ``trace.png``: one row per representative slice, six pictures each.

    Slices are spread evenly over those that hold at least a quarter of the foreground of the
    fullest one. All rows share one scale per column: intensities in [0, 1], the Jacobian about
    1, the residual about 0. Folds (J <= 0 or NaN) are marked.
    Matplotlib's own style and settings, whatever they are, do not change the page.

    Args:
        result: The translation.
        path: The PNG file to write.
        rows: At most this many slices.

    Raises:
        OSError: The file cannot be written.
    """
    with matplotlib.style.context("default"):
        _draw_page(result, path, rows)


def _draw_page(result: VolumeTrace, path: Path, rows: int) -> None:
    images = _images(result)
    chosen = _representative(images["source"], rows)
    height, width = _in_millimetres(result)
    # Figure sizes in inches: margins for the title, the column heads and the colour bars.
    picture = 2.3
    row_height = picture * min(max(height / width, 0.3), 2.5)
    top, bottom, left = 1.05, 0.62, 0.42
    figure = Figure(
        figsize=(left + picture * len(_COLUMNS) + 0.1, top + row_height * len(chosen) + bottom),
        facecolor=BACKGROUND,
    )
    FigureCanvasAgg(figure)
    size = figure.get_size_inches()
    axes = figure.subplots(
        len(chosen),
        len(_COLUMNS),
        squeeze=False,
        gridspec_kw={
            "left": left / size[0],
            "right": 1 - 0.1 / size[0],
            "bottom": bottom / size[1],
            "top": 1 - top / size[1],
            "wspace": 0.03,
            "hspace": 0.03,
        },
    )
    norms = _norms(images)
    for row, index in enumerate(chosen):
        _draw_row(axes[row], {k: v[index] for k, v in images.items()}, norms, height / width)
        if len(images["source"]) > 1:
            label = f"slice {result.grid.slice_in_file(index)}"
            axes[row][0].set_ylabel(label, color=MUTED, fontsize=8)
    for axis, (name, meaning) in zip(axes[0], _COLUMNS, strict=True):
        axis.set_title(f"{name}\n", color=TEXT, fontsize=10, pad=3)
        axis.text(
            0.5, 1.015, meaning, color=MUTED, fontsize=7.5, ha="center", transform=axis.transAxes
        )
    _write_heading(figure, result)
    for column, colours, label in (
        ("translated", "gray", ""),
        ("jacobian", "RdBu_r", "J"),
        ("residual", "PuOr_r", "ŷ - f(x∘φ)"),
    ):
        axis = axes[-1][list(images).index(column)]
        colour_bar(figure, axis, norms[column], colours, label, bottom / size[1])
    figure.savefig(path, dpi=120, facecolor=BACKGROUND, format="png")


def _images(result: VolumeTrace) -> dict[str, NDArray[Any]]:
    """The pictures of every slice by column, ``(slices, rows, columns)``."""
    columns = {
        "source": result.source,
        "warped": result.warped_source,
        "translated": result.translated,
        "displacement": result.displacement,
        "jacobian": result.jacobian,
        "residual": result.residual,
    }
    pictures = {}
    for name, images in columns.items():
        values = images.detach().cpu()
        if result.grid.ndim == 3:  # slices of the one volume, with the in-slice components
            values = values[0].movedim(1, 0)
            values = values[:, 1:] if name == "displacement" else values
        pictures[name] = values.numpy() if name == "displacement" else values[:, 0].numpy()
    return pictures


def _representative(source: NDArray[Any], count: int) -> list[int]:
    """Which slices to show, spread over those with something to see."""
    foreground = (source > 0.05).sum(axis=(1, 2))
    full = np.flatnonzero(foreground >= max(1, foreground.max() / 4))
    if full.size == 0:
        full = np.arange(len(source))
    count = min(count, full.size)
    middles = (np.arange(count) + 0.5) / count * full.size
    return [int(full[int(middle)]) for middle in middles]


def _in_millimetres(result: VolumeTrace) -> tuple[float, float]:
    spacing = result.grid.input_spacing[-2:]
    shape = result.grid.input_shape[-2:]
    return shape[0] * spacing[0], shape[1] * spacing[1]


def _norms(images: dict[str, NDArray[Any]]) -> dict[str, Normalize]:
    """Scales centred where nothing changed, wide enough for all but the last few voxels."""
    jacobian = np.nan_to_num(np.abs(images["jacobian"] - 1), nan=0, posinf=0)
    residual = np.nan_to_num(np.abs(images["residual"]), nan=0, posinf=0)
    growth = float(np.clip(np.percentile(jacobian, 99.5), 0.1, 1))
    change = max(float(np.percentile(residual, 99.5)), 0.05)
    return {
        "source": Normalize(0, 1),
        "warped": Normalize(0, 1),
        "translated": Normalize(0, 1),
        "jacobian": Normalize(1 - growth, 1 + growth),
        "residual": Normalize(-change, change),
    }


def _draw_row(
    axes: NDArray[Any], images: dict[str, NDArray[Any]], norms: dict[str, Normalize], ratio: float
) -> None:
    rows, columns = images["source"].shape
    aspect = ratio * columns / rows
    for axis, name in zip(axes, images, strict=True):
        picture, norm, colours = images[name], norms.get(name), "gray"
        if name in ("jacobian", "residual"):
            colours = "RdBu_r" if name == "jacobian" else "PuOr_r"
        if name == "displacement":
            picture, norm = 0.6 * images["source"], norms["source"]
        axis.imshow(picture, cmap=colours, norm=norm, aspect=aspect, interpolation="nearest")
        axis.set(xticks=[], yticks=[], xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
        axis.set_facecolor("black")
        for spine in axis.spines.values():
            spine.set_visible(False)
        if name == "displacement":
            _draw_grid(axis, images["displacement"])
        if name == "jacobian":
            outline(axis, images["warped"])
            mark_folds(axis, images["jacobian"])


def _draw_grid(axis: Any, displacement: NDArray[Any]) -> None:
    """Straight lines of the target, where φ puts them in the source."""
    _, rows, columns = displacement.shape
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    row, column = row + displacement[0], column + displacement[1]
    # About 16 lines on the longer side, centred.
    step = max(1, round(max(rows, columns) / 16))
    for line in range((rows - 1) % step // 2, rows, step):
        axis.plot(column[line], row[line], color=GRID, linewidth=0.6)
    for line in range((columns - 1) % step // 2, columns, step):
        axis.plot(column[:, line], row[:, line], color=GRID, linewidth=0.6)


def _write_heading(figure: Figure, result: VolumeTrace) -> None:
    folding, arguments = result.folding, result.trace.arguments
    lengths = result.displacement_lengths
    folds = int(folding.folds.sum())
    marked = ", marked green" if folds else ""
    model = result.trace.model.get("name", "model")
    title = f"{printable(result.volume.path.name)}  →  {printable(model)}"
    facts = (
        f"{deformation_in_words(result)},  {folds} folds{marked} (J ≤ 0, "
        f"{folding.scheme} differences, {folding.region} region) of "
        f"{result.jacobian.numel():,} voxels,  J {float(folding.minimum.min()):.3f} to "
        f"{float(folding.maximum.max()):.3f},  displacement mean {float(lengths.mean()):.2f} mm, "
        f"largest {float(lengths.max()):.2f} mm,  seed {arguments.get('seed')}"
    )
    write_heading(figure, title, facts)
