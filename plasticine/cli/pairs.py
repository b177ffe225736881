"""The pairs of images that a registration is given."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from plasticine.cli.cases import Case, beside, find, images_within, names_of

_MOVING = ("moving_mask", "moving_labels", "moving_points", "moving_landmarks")
_FIXED = ("fixed_mask", "fixed_labels", "fixed_points", "fixed_landmarks")
PER_CASE = (*_MOVING, *_FIXED)
"""Columns of a list of pairs beside moving, fixed and name."""


def cases_of(
    moving: Sequence[str],
    fixed: Path | None,
    pairs: Path | None,
    output: Path,
    files: dict[str, Any],
) -> tuple[list[Case], bool]:
    """The pairs of a command, and whether there may be several.

    Args:
        moving: Files, folders and patterns of the moving images.
        fixed: The image that they are brought to.
        pairs: A list of pairs in their place.
        output: The output folder.
        files: The command's other files; those of the moving image are folders where there are
            several.

    Raises:
        typer.BadParameter: Neither a list nor two images were given, or both.
        ValueError: The list is not one, or a file was given for several images.
        FileNotFoundError: A file of the list, or one that belongs to an image, is not there.
    """
    if pairs is not None:
        if moving or fixed is not None:
            raise typer.BadParameter(
                "--pairs takes the place of MOVING and FIXED: give one of both"
            )
        return _listed(pairs, output), True
    missing = [name for name, given in (("MOVING", moving), ("FIXED", fixed)) if not given]
    if missing or fixed is None:
        raise typer.BadParameter(f"Missing argument '{missing[0]}', or a list of pairs by --pairs")
    if any(not text.strip() for text in moving):
        raise typer.BadParameter("expected a path, got an empty one")
    found = find(moving, images_within, output)
    if not found.several:
        return [Case(output.name, (found.paths[0], fixed), output)], False
    if files["moving_channels"] or files["initial"]:
        raise ValueError(
            "--moving-channel and --initial belong to one moving image; got several images"
        )
    cases = []
    for name, image in zip(names_of(found.paths), found.paths, strict=True):
        own = {
            key: beside(files[key], image, f"--{key.replace('_', '-')}", several=True)
            for key in _MOVING
        }
        given = {key: file for key, file in own.items() if file is not None}
        cases.append(Case(name, (image, fixed), output / name, given))
    return cases, True


def _listed(path: Path, output: Path) -> list[Case]:
    rows = _rows(path)
    moving, fixed, own = [], [], []
    for number, row in enumerate(rows, start=1):
        unknown = row.keys() - {"moving", "fixed", "name", *PER_CASE}
        if unknown or not (row.get("moving") and row.get("fixed")):
            raise ValueError(
                f"{path}: pair {number}: expected moving and fixed, and of name, "
                f"{', '.join(PER_CASE)} any; got {', '.join(map(str, row)) or 'nothing'}"
            )
        files = {key: path.parent / row[key] for key in row if key != "name" and row[key]}
        moving.append(files.pop("moving"))
        fixed.append(files.pop("fixed"))
        own.append(files)
    names = [row.get("name") or "" for row in rows]
    if not all(names):
        to, of = names_of(list(dict.fromkeys(fixed))), names_of(list(dict.fromkeys(moving)))
        to_name = dict(zip(dict.fromkeys(fixed), to, strict=True))
        of_name = dict(zip(dict.fromkeys(moving), of, strict=True))
        pairs = zip(names, moving, fixed, strict=True)
        names = [name or f"{of_name[m]}_to_{to_name[f]}" for name, m, f in pairs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{path}: expected pairs of different names; got {min(twice)!r} twice")
    outside = [n for n in names if Path(n).is_absolute() or ".." in Path(n).parts]
    if outside:
        raise ValueError(f"{path}: expected names of folders in the output; got {outside[0]!r}")
    each = zip(names, moving, fixed, own, strict=True)
    return [Case(name, (m, f), output / name, files) for name, m, f, files in each]


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a list of pairs."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows: Any = list(csv.DictReader(file, skipinitialspace=True))
    else:
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: expected .csv or .json; {error}") from error
    texts = isinstance(rows, list) and all(
        isinstance(row, dict) and all(isinstance(v, str) for v in row.values()) for row in rows
    )
    if not texts or not rows:
        raise ValueError(f"{path}: expected a list of pairs, each of names and texts, not empty")
    return rows
