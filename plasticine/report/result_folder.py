"""The folder of a translation, read back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict

from plasticine.io import (
    ModelGrid,
    Volume,
    read_displacement,
    read_labels,
    read_same_grid,
    read_volume,
)
from plasticine.io.checks import SAME_PLACE, corner_distance, named_errors
from plasticine.io.orientation import DEFAULT_ORIENTATION
from plasticine.io.volume import KINDS_WITHOUT_SPACING
from plasticine.nn.table import Table
from plasticine.report.results import RESULT_FILES


class _Part(Table):
    """A part of ``trace.json``, which holds more than is read back."""

    model_config = ConfigDict(extra="allow")


class _Model(_Part):
    card: dict[str, Any]


class _Input(_Part):
    file: str
    kind: str


class _Normalisation(_Part):
    low: float
    divisor: float


class _Grid(_Part):
    resampled: bool


class _Trace(_Part):
    """What is read back of ``trace.json``."""

    model: _Model
    input: _Input
    normalisation: _Normalisation
    grid: _Grid
    metrics: dict[str, Any]
    seconds: float


@dataclasses.dataclass(frozen=True)
class ResultFolder:
    """What `write_results` left, read back.

    Tensors are on the input's own grid in the model's layout, as those of a ``VolumeTrace``.

    Attributes:
        folder: Where it was read from.
        record: What ``trace.json`` holds.
        grid: How the files' axes lie in the model's layout.
        affine: ``(4, 4)``, voxel index to millimetres (RAS+), of every file.
        translated: ``(N, 1, *s)`` in [0, 1].
        warped: ``(N, 1, *s)`` in [0, 1], x∘φ normalised as the model saw it.
        displacement: ``(N, d, *s)``, voxels.
    """

    folder: Path
    record: dict[str, Any]
    grid: ModelGrid
    affine: NDArray[np.float64]
    translated: torch.Tensor
    warped: torch.Tensor
    displacement: torch.Tensor

    @property
    def card(self) -> dict[str, Any]:
        """What the model's file says of it."""
        card: dict[str, Any] = self.record["model"]["card"]
        return card

    @property
    def orientation(self) -> str:
        """Where the model's slices, rows and columns run."""
        return self.card.get("orientation") or DEFAULT_ORIENTATION

    @property
    def is_one_body(self) -> bool:
        """Whether the images are slices of one body, and not a stack of pictures."""
        return self.grid.ndim == 3 or self.record["input"]["kind"] not in KINDS_WITHOUT_SPACING

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres per voxel along (slice, row, column)."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(sizes[axis]) for axis in self.grid.axes)

    def read(self, path: Path) -> Volume:
        """Reads an image of the same voxels as the input.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no image, or on another grid.
        """
        return read_same_grid(path, self.grid, self.affine, self.orientation)

    def read_labels(self, path: Path) -> tuple[torch.Tensor, tuple[str, ...]]:
        """Reads a label map of the same voxels: ``(N, 1, *s)`` int64, and notes on the reading.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no image, on another grid, or holds other than whole numbers that
                int64 holds.
        """
        return read_labels(path, self.grid, self.affine, self.orientation)


def read_results(folder: Path) -> ResultFolder:
    """Reads the folder of a translation.

    Args:
        folder: What ``plasticine translate`` wrote.

    Returns:
        The translation.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: The folder is not that of a translation, its files do not fit together, or
            they were replaced meanwhile.
    """
    missing = [name for name in RESULT_FILES if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: expected the folder of a translation, without {', '.join(missing)}"
        )
    before = _states(folder)
    try:
        with named_errors(folder / "trace.json"):
            record = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
            trace = _Trace.read(record, "trace.json")
            rule = trace.normalisation
            card = record["model"]["card"]
            field, affine = read_displacement(folder / "displacement.nii.gz")
            grid = ModelGrid.of(
                (field.shape[1], field.shape[2], field.shape[3]),
                affine,
                orientation=card.get("orientation") or DEFAULT_ORIENTATION,
                ndim=int(card["ndim"]),
                spacing=card.get("spacing_mm") if trace.grid.resampled else None,
            )
    except ValueError as error:
        raise ValueError(f"{folder}: not the folder of a translation ({error})") from error
    images = {name: read_volume(folder / f"{name}.nii.gz") for name in ("translated", "warped")}
    for name, volume in images.items():
        if volume.data.shape != grid.file_shape:
            raise ValueError(
                f"{folder}: {name}.nii.gz is of {volume.data.shape} voxels and the displacement "
                f"of {grid.file_shape}"
            )
        assert volume.affine is not None
        voxels, millimetres = corner_distance(affine, volume.affine, grid.file_shape)
        if voxels > SAME_PLACE:
            raise ValueError(
                f"{folder}: {name}.nii.gz lies up to {voxels:.3g} voxels ({millimetres:.3g} mm) "
                "off the displacement"
            )
    if _states(folder) != before:
        raise ValueError(f"{folder}: another translation was written there while it was read")
    return ResultFolder(
        folder=folder,
        record=record,
        grid=grid,
        affine=affine,
        translated=grid.to_images(images["translated"].data).clamp(0, 1),
        warped=((grid.to_images(images["warped"].data) - rule.low) / rule.divisor).clamp(0, 1),
        displacement=grid.displacement_to_images(field),
    )


def _states(folder: Path) -> list[tuple[int, int] | None]:
    """What tells each of the files from another in its place; None where it is gone."""
    files = [folder / name for name in RESULT_FILES]
    states = [file.stat() if file.is_file() else None for file in files]
    return [state and (state.st_ino, state.st_mtime_ns) for state in states]
