"""Landmarks: files of points that show the same in two images."""

from __future__ import annotations

from pathlib import Path

import torch

from plasticine.io.fiducials import read_fiducials
from plasticine.io.pair_space import PairSpace
from plasticine.io.point_table import PointTable, read_point_table
from plasticine.io.points import in_ras
from plasticine.io.volume import Volume
from plasticine.registration.landmarks import Landmarks

LANDMARK_SUFFIXES = (".csv", ".fcsv")


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
        return read_fiducials(path)
    raise ValueError(f"{path}: expected landmarks in {', '.join(LANDMARK_SUFFIXES)}")


def _labels(table: PointTable) -> list[str]:
    """What the landmarks are called; empty where they have no names."""
    header = [name.strip().lower() for name in table.header]
    column = next((header.index(name) for name in ("label", "name") if name in header), None)
    return [] if column is None else [row[column].strip() for row in table.rows]
