"""Draws pairs of four kinds as budgets, losses and methods register them.

    OMP_NUM_THREADS=1 python -m benchmarks.registration.draw_pairs

writes ``docs/register_pairs.png``. Needs the data folder; takes two minutes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.registration import heads
from benchmarks.registration.modalities import Pair, abdomen, contrasts, figure, pictures
from benchmarks.registration.planes import hearts
from plasticine.registration import register
from plasticine.report.drawing import BACKGROUND, GRID, MUTED, TEXT

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "register_pairs.png"
COLUMNS: dict[str, dict[str, Any]] = {
    "affine": {"transform": "affine"},
    "fast": {"budget": "fast"},
    "default": {},
    "best": {"budget": "best"},
    "velocity": {"method": "velocity"},
    "mind": {"metric": "mind"},
    "mutual information": {"metric": "mutual_information"},
}


@dataclass(frozen=True)
class Row:
    """A pair to draw.

    Attributes:
        name: its title.
        pair: the images.
        axis: which one the drawn plane lies across; None of a plane.
        turns: quarter turns that stand it upright.
    """

    name: str
    pair: Pair
    axis: int | None
    turns: int

    def plane(self, image: Tensor) -> NDArray[np.float32]:
        """Through the middle of the fixed image."""
        array = image[0, 0].numpy()
        if self.axis is not None:
            array = np.take(array, array.shape[self.axis] // 2, self.axis)
        return np.rot90(array, self.turns)


def rows() -> list[Row]:
    moving, fixed = map(heads.head, heads.JUDGING[0])
    matrices = torch.from_numpy(moving.affine), torch.from_numpy(fixed.affine)
    two_heads = Pair(moving.image, fixed.image, matrices, (moving.labels, fixed.labels))
    return [
        Row("T1 of two people", two_heads, 2, 1),
        Row("T1 to T2, bent", next(contrasts()), 0, 0),
        Row("CT to MR of another", next(abdomen(back=True)), 2, 1),
        Row("failing to normal heart", list(pictures(hearts()))[3], None, 0),
    ]


def shown(image: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.percentile(image, (1, 99.5))
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)


def main() -> None:
    found = rows()
    page = Figure(figsize=(2 * (len(COLUMNS) + 1), 2.25 * len(found)), facecolor=BACKGROUND)
    axes = page.subplots(len(found), len(COLUMNS) + 1, squeeze=False)
    page.subplots_adjust(0.02, 0.02, 0.998, 0.94, 0.03, 0.16)
    for line, row in zip(axes, found, strict=True):
        line[0].imshow(shown(row.plane(row.pair.fixed)), cmap="gray")
        line[0].set_ylabel(row.name, color=TEXT, fontsize=9)
        for axis, (name, options) in zip(line[1:], COLUMNS.items(), strict=True):
            draw_cell(axis, row, name, options)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.set_facecolor(BACKGROUND)
            for spine in axis.spines.values():
                spine.set_visible(False)
    for axis, name in zip(axes[0], ["fixed", *COLUMNS], strict=True):
        axis.set_title(name, color=TEXT, fontsize=10)
    with matplotlib.rc_context({"savefig.dpi": 80}):
        page.savefig(PICTURE, facecolor=BACKGROUND)
    # A third of the size, and no eye sees it.
    with Image.open(PICTURE) as picture:
        small = picture.convert("RGB").quantize(256)
    small.save(PICTURE, optimize=True)


def draw_cell(axis: Any, row: Row, name: str, options: dict[str, Any]) -> None:
    """The moving image as it was moved, with the fixed one's edges, and how good it is."""
    start = time.process_time()
    try:
        result = register(row.pair.moving, row.pair.fixed, *row.pair.affines, **options)
    except ValueError as error:
        told = "ends in an error:\nnothing overlaps" if "lies inside" in str(error) else "fails"
        axis.imshow(np.zeros_like(row.plane(row.pair.fixed)), cmap="gray")
        axis.set_xlabel(told, color=MUTED, fontsize=8, labelpad=2)
        print(row.name, name, error, flush=True)
        return
    seconds = time.process_time() - start
    value = figure(row.pair, result.displacement)
    unit = " mm off" if row.pair.truth is not None else " Dice"
    fixed = shown(row.plane(row.pair.fixed))
    edges = np.hypot(*np.gradient(fixed))
    axis.imshow(shown(row.plane(result.mapping.warp(row.pair.moving))), cmap="gray")
    axis.contour(edges, [0.5 * float(np.percentile(edges, 99))], colors=GRID, linewidths=0.4)
    axis.set_xlabel(f"{value:.2f}{unit}, {seconds:.1f} s", color=MUTED, fontsize=8, labelpad=2)
    print(row.name, name, f"{value:.3f}{unit}", f"{seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
