"""Tables of points, as antsApplyTransformsToPoints takes them (``.csv``)."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import check_exists, named_errors

OUTSIDE = "outside"
"""The column that tells of points outside of their image."""
_COORDINATES = ("x", "y", "z")


@dataclasses.dataclass(frozen=True)
class PointTable:
    """Points in rows, and what else stands there.

    Attributes:
        path: Where it was read from.
        places: ``(N, 3)``, or ``(N, 2)`` without a column z, as ITK has points.
        header: The names of the columns.
        rows: What stands in each column, row by row.
        columns: Which columns hold the coordinates.
    """

    path: Path
    places: NDArray[np.float64]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    columns: tuple[int, ...]

    def write(self, path: Path, places: NDArray[np.float64], outside: NDArray[np.bool_]) -> None:
        """Writes the same table with other places, and a column "outside" of 0 and 1.

        Args:
            path: ``.csv``.
            places: As many as there are.
            outside: ``(N,)``, what to flag.

        Raises:
            OSError: The file cannot be written.
        """
        header = [*self.header, OUTSIDE] if OUTSIDE not in self.header else list(self.header)
        flag = header.index(OUTSIDE)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for row, place, out in zip(self.rows, places, outside, strict=True):
                cells = [*row, *[""] * (len(header) - len(row))]
                for column, value in zip(self.columns, place, strict=True):
                    cells[column] = f"{value:.10g}"
                cells[flag] = str(int(out))
                writer.writerow(cells)


def read_point_table(path: Path) -> PointTable:
    """Reads points of a table.

    Args:
        path: Comma-separated, its first line the names of the columns: x, y and, but for a plane,
            z, in any order, among others.

    Returns:
        The points, and all else that the file holds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has no columns x and y, no points, a row of another length, or a coordinate
            that is no finite number.
    """
    check_exists(path)
    with named_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
        # Blank lines at the end are no points.
        lines = [row for row in csv.reader(file) if row]
    header = tuple(lines[0]) if lines else ()
    names = [name.strip().lower() for name in header]
    found = [name for name in _COORDINATES if name in names]
    if found not in (["x", "y"], ["x", "y", "z"]) or any(names.count(name) > 1 for name in found):
        raise ValueError(f"{path}: expected columns x, y and z in the first line, got {header}")
    if len(lines) < 2:
        raise ValueError(f"{path}: holds no points, only the names of columns")
    columns = tuple(names.index(name) for name in found)
    places = []
    for number, row in enumerate(lines[1:], start=1):
        if len(row) != len(header):
            raise ValueError(f"{path}: expected {len(header)} values in point {number}, got {row}")
        try:
            place = [float(row[column]) for column in columns]
        except ValueError as error:
            raise ValueError(f"{path}: point {number} has no place: {error}") from error
        if not np.isfinite(place).all():
            raise ValueError(f"{path}: point {number} is NaN or infinite: {place}")
        places.append(place)
    rows = tuple(tuple(row) for row in lines[1:])
    return PointTable(path, np.array(places), header, rows, columns)
