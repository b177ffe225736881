"""What a file format of transforms is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from plasticine.transforms.ends import Ends
from plasticine.transforms.transform import (
    AffineTransform,
    DisplacementField,
    Transform,
    VelocityField,
    simplified,
)

# Voxels by which headers of one grid differ at most: they round to float32 and quaternions.
_ROUNDED = 0.01

Holds = Literal["affine", "displacement", "b-spline", "chain"]


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format of transforms; each module of this package has one, or several.

    Attributes:
        name: As the command line has it, such as "fsl".
        title: As people have it, such as "FSL".
        suffixes: What names of its files end in, in lower case, the usual one first.
        recognises: Whether a file is of it, by its content: not more than its header is read.
            A file that several formats recognise is one whose format must be told.
        read: What a file holds.
        write: Writes a transform; None for a format that is read alone.
        holds: What it can say. What it cannot say is refused by `write`.
        beside: Ends of names beside which `write` puts a file of JSON that says what it maps.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Ends], Transform]
    write: Callable[[Path, Transform, Ends], None] | None
    holds: tuple[Holds, ...]
    beside: tuple[str, ...] = ()


def as_affine(path: Path, transform: Transform, title: str) -> AffineTransform:
    """A transform as the one matrix that a format has room for.

    Raises:
        ValueError: It is none.
    """
    whole = simplified([transform])
    if not isinstance(whole, AffineTransform):
        raise ValueError(
            f"{path}: {title} holds linear maps there, which cannot say what a deformation does"
        )
    return whole


def as_field(path: Path, transform: Transform, ends: Ends, title: str) -> DisplacementField:
    """A transform as the displacement at every voxel of the fixed image.

    A field that lies on these voxels, or whose own stand in for a fixed image that is not given,
    is left as it is.

    Raises:
        ValueError: No voxels are known.
    """
    whole = simplified([transform])
    if isinstance(whole, VelocityField):
        whole = whole.displacement_field
    if isinstance(whole, DisplacementField) and (
        ends.fixed is None or whole.grid.same_place(ends.fixed, _ROUNDED)
    ):
        return whole
    return whole.sampled(ends.fixed_for(path, title), ends.advance)


def beside(path: Path, ends: Ends) -> None:
    """Writes what a file maps into a file of JSON beside it: its own format has no room for it."""
    note = {"file": path.name, "note": ends.note}
    path.with_name(f"{path.name}.json").write_text(json.dumps(note) + "\n", encoding="utf-8")
