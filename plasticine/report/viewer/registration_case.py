"""The folder of a registration, to be shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io import read_displacement, read_volume
from plasticine.io.checks import named_errors
from plasticine.io.volume import KINDS_WITHOUT_SPACING
from plasticine.metrics import recolouring
from plasticine.report.results import LABELS_FILE
from plasticine.report.viewer.case import Case, Recolouring, ShownImage, usual_window
from plasticine.report.viewer.deformation_table import short
from plasticine.report.viewer.files import (
    find_file,
    find_labels,
    read_image,
    read_label_map,
)
from plasticine.report.viewer.grid import ShownGrid
from plasticine.report.viewer.registration_tables import overlap_table, registration_tables

_NEEDED = (
    "warped.nii.gz",
    "displacement.nii.gz",
    "inverse_displacement.nii.gz",
    "jacobian.nii.gz",
)


def read_registration_case(
    folder: Path,
    *,
    source: Path | None = None,
    fixed: Path | None = None,
    labels: Path | None = None,
) -> Case:
    """Reads the folder of a registration; as `read_case`."""
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: expected the folder of a registration, without {', '.join(missing)}"
        )
    with named_errors(folder / "registration.json"):
        record = json.loads((folder / "registration.json").read_text(encoding="utf-8"))
        if record.get("format") != "plasticine registration":
            raise ValueError(f"{folder}: registration.json is not the record of a registration")
    forward = _field(folder / "displacement.nii.gz")
    backward = _field(folder / "inverse_displacement.nii.gz")
    moving = _image("moving", record, folder, source, "--source", backward.shape[1:])
    still = _image("fixed", record, folder, fixed, "--fixed", forward.shape[1:])
    found = find_labels(record["arguments"].get("moving_labels"), folder, labels)
    label_map = None
    if found is not None:
        label_map = read_label_map(found, moving.grid.affine, moving.data.shape)
    carried = None
    if labels is None and (folder / LABELS_FILE).is_file():
        carried = read_label_map(folder / LABELS_FILE, still.grid.affine, still.data.shape)
    warped = read_volume(folder / "warped.nii.gz").data
    return Case(
        folder=folder,
        record=record,
        title="  →  ".join(Path(record[role]["file"]).name for role in ("moving", "fixed")),
        facts=f"plasticine {record['versions']['plasticine']}, {record['created']}, registered in "
        f"{short(record['seconds'])} s",
        source=ShownImage(
            "moving", moving.name, moving.grid, moving.data, moving.window, label_map
        ),
        target=still,
        displacement=forward,
        inverse_displacement=backward,
        jacobian=read_volume(folder / "jacobian.nii.gz").data,
        beyond=np.array(record["affine"]["fixed_mm_to_moving_mm"], dtype=np.float64),
        recolouring=_recolouring(moving, still, warped),
        pictures=record["fixed"]["kind"] in KINDS_WITHOUT_SPACING,
        structure=None,
        uncertainty=None,
        carried_labels=carried,
        metrics=_figures(record),
        sections=registration_tables(record),
        long=overlap_table(record),
    )


def _field(path: Path) -> NDArray[np.float32]:
    """``(3, X, Y, Z)``; ITK's fields of a plane move nothing across it."""
    field, _ = read_displacement(path)
    if field.ndim == 4:
        return field
    still = np.zeros((1, *field.shape[1:]), np.float32)
    return np.concatenate([field, still])[..., None]


def _image(
    role: str,
    record: dict[str, Any],
    folder: Path,
    given: Path | None,
    option: str,
    shape: tuple[int, ...],
) -> ShownImage:
    facts = record[role]
    affine = np.array(facts["affine"], dtype=np.float64)
    path = find_file(facts["file"], folder, given, option)
    data = read_image(path, affine, shape).data
    grid = ShownGrid.of(data.shape, affine, picture=facts["kind"] in KINDS_WITHOUT_SPACING)
    return ShownImage(role, path.name, grid, data, usual_window(data))


def _recolouring(moving: ShownImage, fixed: ShownImage, warped: NDArray[np.float32]) -> Recolouring:
    """The fixed image's intensities by those of the moved one, within its window."""
    low, high = moving.window
    levels = np.clip((warped - low) / (high - low), 0, 1).astype(np.float32)
    values = recolouring(
        torch.from_numpy(np.ascontiguousarray(fixed.data)), torch.from_numpy(levels)
    )
    return Recolouring(low, high - low, values.tolist())


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    folding, moved = record["folding"], record["displacement_beyond_affine"]
    return {
        "transform": record["arguments"]["transform"],
        "folds": folding["folds"],
        "least J": folding["minimum"],
        "greatest J": folding["maximum"],
        "SD of log J": folding["sd_log_jacobian"],
        "moved, mean mm": moved["mean_mm"],
        "moved, most mm": moved["max_mm"],
        "LNCC": record["similarity"]["after"]["lncc"],
        "Dice": None if record["dice"] is None else record["dice"]["mean"],
        "seconds": record["seconds"],
    }
