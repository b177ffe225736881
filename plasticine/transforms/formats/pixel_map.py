"""The map of pixels that the method's authors publish: JSON of two tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from plasticine.io.orientation import PICTURE_ORIENTATION, axis_directions
from plasticine.transforms.ends import Ends
from plasticine.transforms.formats.format import Format, as_field
from plasticine.transforms.places import Grid
from plasticine.transforms.transform import DisplacementField, Transform

_KEYS = ("D_V_x", "D_V_y")
_START = 4096


def _recognises(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_START).decode("latin-1").lstrip()
    return start.startswith("{") and f'"{_KEYS[0]}"' in start


def _read(path: Path, ends: Ends) -> Transform:
    """The source pixel, column in D_V_x and row in D_V_y, of each pixel of the target.

    Pixels are those of the fixed image, or 1 mm where it is not given; the moving image's are
    taken to be the same.
    """
    held = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(held, dict) or set(_KEYS) - held.keys():
        raise ValueError(f"{path}: expected the keys {', '.join(_KEYS)}")
    columns, rows = (np.asarray(held[key], dtype=np.float64) for key in _KEYS)
    if columns.ndim != 2 or columns.shape != rows.shape:
        raise ValueError(
            f"{path}: expected two tables of one shape, got {columns.shape} and {rows.shape}"
        )
    if not (np.isfinite(columns).all() and np.isfinite(rows).all()):
        raise ValueError(f"{path}: a pixel is NaN or infinite")
    grid = ends.fixed or _picture(columns.shape)
    if grid.shape != (*columns.shape, 1):
        raise ValueError(
            f"{path}: expected the fixed image's pixels {grid.shape}, got {(*columns.shape, 1)}"
        )
    u = np.zeros((3, *grid.shape), np.float32)
    u[0, ..., 0] = rows - np.arange(rows.shape[0])[:, None]
    u[1, ..., 0] = columns - np.arange(columns.shape[1])
    return DisplacementField(torch.from_numpy(u), grid, 2)


def _write(path: Path, transform: Transform, ends: Ends) -> None:
    field = as_field(path, transform, ends, "a pixel map")
    if field.grid.shape[2] != 1:
        raise ValueError(f"{path}: a pixel map is of a plane, got a field of {field.grid.shape}")
    if float(field.displacement[2].abs().max()) > 0:
        raise ValueError(f"{path}: a pixel map is of a plane, got a field that leaves it")
    u = field.displacement[..., 0].double().numpy()
    rows = u[0] + np.arange(u.shape[1])[:, None]
    columns = u[1] + np.arange(u.shape[2])
    tables = {key: table.tolist() for key, table in zip(_KEYS, (columns, rows), strict=True)}
    path.write_text(json.dumps(tables | {"note": ends.note}), encoding="utf-8")


def _picture(shape: tuple[int, ...]) -> Grid:
    """The pixels of a picture, as ITK places them: rows, then columns."""
    across, down, along = axis_directions(PICTURE_ORIENTATION)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([down, along, across], axis=1)
    return Grid((shape[0], shape[1], 1), affine)


FORMAT = Format(
    name="pixel-map",
    title="the method's authors (absolute pixels)",
    suffixes=(".json",),
    recognises=_recognises,
    read=_read,
    write=_write,
    holds=("displacement",),
)
