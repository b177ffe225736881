"""The folder of a translation, to be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io import ModelGrid, read_volume
from plasticine.metrics import recolouring
from plasticine.ops.invert import invert
from plasticine.report.document import Markup, notes, table
from plasticine.report.result_folder import ResultFolder, read_results
from plasticine.report.results import SOURCE_FILE, STRUCTURE_FILE, UNCERTAINTY_FILE
from plasticine.report.viewer.case import Case, Recolouring, ShownImage
from plasticine.report.viewer.deformation_table import deformation_table, named, short
from plasticine.report.viewer.files import (
    find_file,
    find_labels,
    optional_maps,
    read_image,
    read_label_map,
)
from plasticine.report.viewer.grid import ShownGrid


def read_translation_case(
    folder: Path, *, source: Path | None = None, labels: Path | None = None
) -> Case:
    """Reads the folder of a translation; as `read_case`."""
    results = read_results(folder)
    record, grid, affine = results.record, results.grid, results.affine
    own = folder / SOURCE_FILE
    if source is None and own.is_file():
        source = own
    path = find_file(record["input"]["file"], folder, source, "--source")
    image = read_image(path, affine, grid.file_shape)
    rule = record["normalisation"]
    low, divisor = float(rule["low"]), float(rule["divisor"])
    pictures = not results.is_one_body
    shown = ShownGrid.of(grid.file_shape, affine, picture=pictures)
    found = find_labels(record["input"].get("labels"), folder, labels)
    label_map = None if found is None else read_label_map(found, affine, grid.file_shape)
    displacement = grid.displacement_to_file(results.displacement)
    values = recolouring(results.translated, results.warped).tolist()
    model = str(record["model"].get("name", "model"))
    return Case(
        folder=folder,
        record=record,
        title=f"{Path(record['input']['file']).name}  →  {model}",
        facts=f"plasticine {record['versions']['plasticine']}, {record['created']}, translated in "
        f"{short(record['seconds'])} s, seed {record['seed']}",
        source=ShownImage("source", path.name, shown, image.data, (low, low + divisor), label_map),
        target=ShownImage(
            "translated",
            "translated.nii.gz",
            shown,
            read_volume(folder / "translated.nii.gz").data,
            (0.0, 1.0),
        ),
        displacement=displacement,
        inverse_displacement=_inverse(results),
        jacobian=read_volume(folder / "jacobian.nii.gz").data,
        beyond=np.eye(4),
        recolouring=Recolouring(low, divisor, values),
        pictures=pictures,
        structure=optional_maps(folder, STRUCTURE_FILE, grid.file_shape),
        uncertainty=optional_maps(folder, UNCERTAINTY_FILE, grid.file_shape),
        carried_labels=None,
        metrics=_figures(record),
        sections=_sections(record),
        long=[],
    )


def _inverse(results: ResultFolder) -> NDArray[np.float32]:
    """φ⁻¹ - id along the axes of the file, slice by slice where φ was found so."""
    grid: ModelGrid = results.grid
    inverse: torch.Tensor = invert(results.displacement).displacement
    return grid.displacement_to_file(inverse)


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    folding, metrics = record["folding"], record["metrics"]
    return {
        "model": record["model"].get("name"),
        "folds": folding["folds"],
        "least J": folding["minimum"],
        "greatest J": folding["maximum"],
        "SD of log J": folding["sd_log_jacobian"],
        "moved, mean mm": metrics["displacement_mean_mm"],
        "moved, most mm": metrics["displacement_max_mm"],
        "structure agreement": metrics["structure_agreement_mean"],
        "residual": metrics["residual_mean_absolute"],
        "seconds": record["seconds"],
    }


def _sections(record: dict[str, Any]) -> list[Markup]:
    metrics = record["metrics"]
    consistency = "inverse_consistency_{}_model_voxels"
    return [
        notes(record["input"]["notes"]),
        deformation_table(
            record["folding"],
            [
                ("displacement", f"{short(metrics['displacement_mean_mm'])} mm in the mean, "
                 f"{short(metrics['displacement_max_mm'])} mm at most"),
                ("|φ⁻¹(φ(p)) - p|", f"{short(metrics[consistency.format('mean')])} voxels of the "
                 f"model in the mean, {short(metrics[consistency.format('max')])} at most"),
                ("lands inside the source", f"{metrics['valid_fraction']:.1%} of the voxels"),
            ],
        ),
        table(
            "Translation",
            [
                ("residual, mean absolute", metrics["residual_mean_absolute"]),
                ("structure agreement, mean Dice", metrics["structure_agreement_mean"]),
                ("model", record["model"].get("name")),
                ("model's checksum", record["model"].get("sha256")),
            ],
        ),
        table("Input", named(record["input"], without=("notes",))),
        table("Grid", named(record["grid"])),
        table("Intensities", named(record["normalisation"])),
        table("Arguments", named(record["arguments"])),
        table("Files", record["files"].items()),
        table("Versions", record["versions"].items()),
    ]  # fmt: skip
