"""Points of 3D Slicer's tables (``.fcsv``), whose first lines are comments."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import check_exists, named_errors
from plasticine.io.point_table import OUTSIDE, PointTable

_COLUMNS = (
    *("id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock"),
    *("label", "desc", "associatedNodeID"),
)
_REMARK = _COLUMNS.index("desc")
_LEAST = 4  # a number and a place
_TO_LPS = {"0": (-1, -1, 1), "RAS": (-1, -1, 1), "1": (1, 1, 1), "LPS": (1, 1, 1)}


@dataclasses.dataclass(frozen=True)
class Fiducials(PointTable):
    """Points as a `PointTable` has them, written as Slicer reads them."""

    def write(self, path: Path, places: NDArray[np.float64], outside: NDArray[np.bool_]) -> None:
        """Writes the same points with other places, along LPS+; what to flag says so in ``desc``.

        Args:
            path: ``.fcsv``.
            places: As many as there are.
            outside: ``(N,)``, what to flag.

        Raises:
            OSError: The file cannot be written.
        """
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write("# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n")
            file.write(f"# columns = {','.join(_COLUMNS)}\n")
            writer = csv.writer(file, lineterminator="\n")
            for row, place, out in zip(self.rows, places, outside, strict=True):
                cells = [*row, *[""] * (len(_COLUMNS) - len(row))]
                cells[1:4] = [f"{value:.10g}" for value in place]
                cells[_REMARK] = OUTSIDE if out else cells[_REMARK]
                writer.writerow(cells)


def read_fiducials(path: Path) -> Fiducials:
    """Reads points of 3D Slicer, along the axes that the file names.

    Args:
        path: ``.fcsv``; before version 4.4 it does not name its axes, which are RAS+.

    Returns:
        The points along LPS+ axes, and all else that stands in their rows.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has no points, names other axes, or a coordinate is no finite number.
    """
    check_exists(path)
    with named_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
        lines = file.read().splitlines()
    comments = [line[1:].strip() for line in lines if line.startswith("#")]
    rows = tuple(map(tuple, csv.reader(line for line in lines if line and line[0] != "#")))
    axes = "RAS"
    for comment in comments:
        name, _, value = comment.partition("=")
        if name.strip() == "CoordinateSystem":
            axes = value.strip()
    if axes not in _TO_LPS:
        raise ValueError(f"{path}: expected CoordinateSystem RAS or LPS (0 or 1), got {axes!r}")
    if not rows or min(map(len, rows)) < _LEAST:
        raise ValueError(f"{path}: expected points of a number, x, y and z each, got {rows[:1]}")
    try:
        places = np.array([[float(value) for value in row[1:4]] for row in rows])
    except ValueError as error:
        raise ValueError(f"{path}: a point has no place: {error}") from error
    if not np.isfinite(places).all():
        raise ValueError(f"{path}: a point is NaN or infinite")
    header = _COLUMNS[: min(map(len, rows))]
    return Fiducials(path, places * np.array(_TO_LPS[axes]), header, rows, (1, 2, 3))
