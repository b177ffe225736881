"""Landmarks: files of points that show the same in two images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

from plasticine.io.checks import check_exists, named_errors
from plasticine.io.pair_space import PairSpace
from plasticine.io.point_table import PointTable, read_point_table
from plasticine.io.points import in_ras
from plasticine.io.volume import Volume
from plasticine.registration.landmarks import Landmarks

LANDMARK_SUFFIXES = (".csv", ".fcsv")

# Of Slicer's files: the columns, and what takes its axes to LPS+.
_FIDUCIALS = ("id", "x", "y", "z", "ow", "ox", "oy", "oz", "vis", "sel", "lock", "label")
_TO_LPS = {"0": (-1, -1, 1), "RAS": (-1, -1, 1), "1": (1, 1, 1), "LPS": (1, 1, 1)}


def read_landmarks(
    moving_path: Path | None,
    fixed_path: Path | None,
    moving: Volume,
    fixed: Volume,
    space: PairSpace,
    weight: float,
) -> Landmarks | None:
    """Reads landmarks of two images: those that stand in the same row are the same.

    Args:
        moving_path: ``.csv`` with columns x, y and z, as ITK has points (millimetres along LPS+
            axes; of a picture, column and row), or ``.fcsv`` of 3D Slicer, whose axes it names
            itself. None: there are none.
        fixed_path: Likewise.
        moving: Placed in space.
        fixed: Likewise.
        space: How the two became tensors.
        weight: How strongly they pull.

    Returns:
        Them in the tensors' millimetres.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There is only one file, one is damaged, there are not as many of both, or two in
            one row have different labels.
    """
    if moving_path is None and fixed_path is None:
        return None
    if moving_path is None or fixed_path is None:
        raise ValueError(
            f"{moving_path or fixed_path}: landmarks come in pairs, of the moving and of the fixed "
            "image"
        )
    tables = [_read(path) for path in (moving_path, fixed_path)]
    counts = [len(table.places) for table in tables]
    if counts[0] != counts[1]:
        raise ValueError(
            f"{moving_path} has {counts[0]} landmarks and {fixed_path} has {counts[1]}: expected "
            "as many"
        )
    for number, labels in enumerate(zip(*map(_labels, tables), strict=False), start=1):
        if labels[0] != labels[1]:
            raise ValueError(
                f"landmark {number} is {labels[0]!r} in {moving_path} and {labels[1]!r} in "
                f"{fixed_path}: expected the same in the same row"
            )
    of_moving = space.places_to_tensor(in_ras(tables[0], moving), moving=True)
    of_fixed = space.places_to_tensor(in_ras(tables[1], fixed), moving=False)
    return Landmarks(torch.from_numpy(of_moving)[None], torch.from_numpy(of_fixed)[None], weight)


def _read(path: Path) -> PointTable:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return read_point_table(path)
    if suffix == ".fcsv":
        return _read_fiducials(path)
    raise ValueError(f"{path}: expected landmarks in {', '.join(LANDMARK_SUFFIXES)}")


def _labels(table: PointTable) -> list[str]:
    """What the landmarks are called; empty where they have no names."""
    header = [name.strip().lower() for name in table.header]
    column = next((header.index(name) for name in ("label", "name") if name in header), None)
    return [] if column is None else [row[column].strip() for row in table.rows]


def _read_fiducials(path: Path) -> PointTable:
    """Points of 3D Slicer's table, whose first lines are comments."""
    check_exists(path)
    with named_errors(path), path.open(encoding="utf-8-sig", newline="") as file:
        lines = file.read().splitlines()
    comments = [line[1:].strip() for line in lines if line.startswith("#")]
    rows = tuple(map(tuple, csv.reader(line for line in lines if line and line[0] != "#")))
    # Before version 4.4 the axes are not named, and RAS.
    axes = "RAS"
    for comment in comments:
        name, _, value = comment.partition("=")
        if name.strip() == "CoordinateSystem":
            axes = value.strip()
    if axes not in _TO_LPS:
        raise ValueError(f"{path}: expected CoordinateSystem RAS or LPS (0 or 1), got {axes!r}")
    if not rows or min(map(len, rows)) < 4:
        raise ValueError(f"{path}: expected points of a number, x, y and z each, got {rows[:1]}")
    try:
        places = np.array([[float(value) for value in row[1:4]] for row in rows])
    except ValueError as error:
        raise ValueError(f"{path}: a point has no place: {error}") from error
    if not np.isfinite(places).all():
        raise ValueError(f"{path}: a point is NaN or infinite")
    header = _FIDUCIALS if min(map(len, rows)) >= len(_FIDUCIALS) else _FIDUCIALS[:4]
    return PointTable(path, places * np.array(_TO_LPS[axes]), header, rows, (1, 2, 3))
