"""FreeSurfer's linear transforms (``.lta``), which say themselves what images they map between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import check_affine
from plasticine.transforms.ends import Ends
from plasticine.transforms.formats.format import Format, as_affine
from plasticine.transforms.places import Grid, inverted
from plasticine.transforms.transform import AffineTransform, Transform

_VOXELS, _RAS = 0, 1
_OTHERS = {2: "physical coordinates", 14: "register.dat", 21: "coronal RAS"}
_START = 4096


def _recognises(path: Path) -> bool:
    with path.open("rb") as file:
        lines = file.read(_START).decode("latin-1").splitlines()
    first = next((line for line in lines if line.strip() and line[0] != "#"), "")
    return first.split("=")[0].strip() == "type" and any("nxforms" in line for line in lines)


def _read(path: Path, ends: Ends) -> Transform:
    """It takes points of the source, our moving image, to the destination, and is turned round.

    Raises:
        ValueError: It is damaged, of several transforms, of another type, or its voxels' images are
            not described.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = iter([line.split("#")[0].strip() for line in text.splitlines()])
    fields = _fields(path, lines)
    kind, count = int(fields.get("type", "-1")), int(fields.get("nxforms", "0"))
    if count != 1:
        raise ValueError(f"{path}: expected one transform, got {count}")
    if kind not in (_VOXELS, _RAS):
        raise ValueError(
            f"{path}: expected a transform of voxels (type 0) or RAS millimetres (type 1), got "
            f"type {kind} ({_OTHERS.get(kind, 'unknown')}): convert it by lta_convert"
        )
    matrix = _matrix(path, lines)
    if kind == _VOXELS:
        source, target = _volumes(path, lines)
        matrix = target @ matrix @ inverted(source)
    return AffineTransform(inverted(check_affine(path, matrix)))


def _fields(path: Path, lines: Iterator[str]) -> dict[str, str]:
    """What stands before the matrix; its first line, "1 4 4", is passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.partition("=")
        if equals:
            fields[name.strip()] = value.strip()
        elif line.split() == ["1", "4", "4"]:
            return fields
    raise ValueError(f"{path}: expected a matrix of 4 x 4 numbers, got none")


def _matrix(path: Path, lines: Iterator[str]) -> NDArray[np.float64]:
    rows = [line.split() for _, line in zip(range(4), lines, strict=False)]
    if [len(row) for row in rows] != [4] * 4:
        raise ValueError(f"{path}: expected four rows of four numbers, got {rows}")
    return np.array(rows, dtype=np.float64)


def _volumes(path: Path, lines: Iterator[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Voxels to RAS millimetres of the source and of the destination."""
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        if line in ("src volume info", "dst volume info"):
            found[line[:3]] = {}
        elif found:
            name, _, value = line.partition("=")
            found[[*found][-1]][name.strip()] = value.strip()
    missing = [name for name in ("src", "dst") if found.get(name, {}).get("valid", "0")[:1] != "1"]
    if missing:
        raise ValueError(
            f"{path}: its numbers are voxels of images that it does not describe: no valid "
            f"{' and '.join(missing)} volume info"
        )
    return _placed(path, found["src"]), _placed(path, found["dst"])


def _placed(path: Path, info: dict[str, str]) -> NDArray[np.float64]:
    def numbers(name: str) -> NDArray[np.float64]:
        values = np.array(info.get(name, "").split(), dtype=np.float64)
        if values.shape != (3,):
            raise ValueError(f"{path}: expected three numbers for {name}, got {values.tolist()}")
        return values

    matrix = np.eye(4)
    axes = np.column_stack([numbers(f"{axis}ras") for axis in "xyz"])
    matrix[:3, :3] = axes * numbers("voxelsize")
    matrix[:3, 3] = numbers("cras") - matrix[:3, :3] @ (numbers("volume") / 2)
    return matrix


def _write(path: Path, transform: Transform, ends: Ends) -> None:
    """RAS to RAS, and where the two images lie."""
    matrix = inverted(as_affine(path, transform, "an .lta file").matrix)
    moving, fixed = (
        ends.moving_for(path, "FreeSurfer"),
        ends.fixed_for(path, "FreeSurfer"),
    )
    rows = [" ".join(f"{number:.15e}" for number in row) for row in matrix]
    lines = [
        f"# {ends.note}",
        f"type      = {_RAS}",
        "nxforms   = 1",
        "mean      = 0.0 0.0 0.0",
        "sigma     = 1.0",
        "1 4 4",
        *rows,
        *_described("src", moving, ends.moving_name),
        *_described("dst", fixed, ends.fixed_name),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _described(which: str, grid: Grid, name: str) -> list[str]:
    def row(numbers: NDArray[np.float64]) -> str:
        return " ".join(f"{number:.15e}" for number in numbers)

    directions = grid.affine[:3, :3] / grid.spacing
    centre = grid.affine[:3, :3] @ (np.array(grid.shape) / 2) + grid.affine[:3, 3]
    return [
        f"{which} volume info",
        "valid = 1  # volume info valid",
        f"filename = {name}",
        f"volume = {' '.join(map(str, grid.shape))}",
        f"voxelsize = {row(grid.spacing)}",
        *(f"{axis}ras   = {row(directions[:, i])}" for i, axis in enumerate("xyz")),
        f"cras   = {row(centre)}",
    ]


FORMAT = Format(
    name="freesurfer",
    title="FreeSurfer",
    suffixes=(".lta",),
    recognises=_recognises,
    read=_read,
    write=_write,
    holds=("affine",),
)
