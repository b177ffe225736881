"""The folder a translation leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plasticine.io.nifti_writing import save_nifti, write_image
from plasticine.io.translate import VolumeTrace
from plasticine.nn.finite import check_finite
from plasticine.report.page import draw_page
from plasticine.report.record import describe, describe_file
from plasticine.transforms import DisplacementField, Ends, write_transform

# Files that some folders of results hold beside the others.
SOURCE_FILE = "source.nii.gz"
STRUCTURE_FILE = "structure.nii.gz"
UNCERTAINTY_FILE = "uncertainty.nii.gz"
LABELS_FILE = "labels.nii.gz"

# What every translation writes, and what it holds.
RESULT_FILES = {
    "translated.nii.gz": "translated image in [0, 1] of the target domain",
    "warped.nii.gz": "x∘φ: the input deformed, in the input's own intensities",
    "displacement.nii.gz": "φ - id as ITK reads it: (X, Y, Z, 1, 3), intent 1007, mm, LPS+",
    "jacobian.nii.gz": "Jacobian determinant of φ, central differences; 0 and below is a fold",
    "trace.json": "versions, model, seed, arguments, folds, metrics",
    "trace.png": "source, source warped, translated, deformed grid, Jacobian, residual",
}

OPTIONAL_FILES = {
    UNCERTAINTY_FILE: "standard deviation of the samples whose mean is the translated image",
}


def result_files(samples: int) -> dict[str, str]:
    """Every file of the folder, and what it holds.

    Args:
        samples: How many samples are drawn; one alone has no uncertainty.
    """
    return RESULT_FILES if samples == 1 else RESULT_FILES | OPTIONAL_FILES


def write_results(
    result: VolumeTrace,
    folder: Path,
    *,
    model_file: Path | None = None,
    structure: bool = False,
    request: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes every file of `result_files`.

    Args:
        result: The translation.
        folder: An existing folder; `plasticine.io.OutputFolder` gives one that is moved into
            place only when all is written.
        model_file: The file the model was loaded from, to be recorded with its checksum.
        structure: Whether to write the structure map that ŷ was drawn from, too.
        request: What was asked for, to be recorded as it is: plain values.

    Returns:
        What ``trace.json`` holds.

    Raises:
        ValueError: A result holds NaN or infinity, or ŷ leaves [0, 1]; nothing is written.
        OSError: A file cannot be written.
    """
    _check(result)
    grid, affine = result.grid, result.affine
    volumes = {
        "translated": result.translated,
        "warped": result.warped,
        "jacobian": result.jacobian,
    }
    if result.uncertainty is not None:
        volumes["uncertainty"] = result.uncertainty
    for name, images in volumes.items():
        write_image(
            folder / f"{name}.nii.gz",
            grid.to_file(images),
            affine,
            description=f"Plasticine {name}",
        )
    ends = Ends(moving_name=result.volume.path.name, fixed_name="translated.nii.gz")
    field = grid.displacement_to_file(result.displacement)
    write_transform(folder / "displacement.nii.gz", DisplacementField.of(field, affine), ends)
    record = describe(result) | {"files": result_files(1 if result.uncertainty is None else 2)}
    if model_file is not None:
        record["model"] |= describe_file(model_file)
    if request is not None:
        record["request"] = dict(request)
    (folder / "trace.json").write_text(as_text(record), encoding="utf-8")
    draw_page(result, folder / "trace.png")
    if structure:
        _write_structure(result, folder)
    return record


def _write_structure(result: VolumeTrace, folder: Path) -> None:
    """Writes ``structure.nii.gz``, S(x)∘φ: ``(X, Y, Z)``, of several channels a fourth axis."""
    structure = result.structure
    if structure is None:
        raise ValueError("the trace holds no structure map")
    channels = [result.grid.to_file(structure[:, i : i + 1]) for i in range(structure.shape[1])]
    data = channels[0] if len(channels) == 1 else np.stack(channels, -1)
    save_nifti(folder / STRUCTURE_FILE, data, result.affine, "Plasticine structure map")


def _check(result: VolumeTrace) -> None:
    for name in ("translated", "warped", "displacement", "jacobian"):
        check_finite(getattr(result, name), name)
    low, high = result.translated.aminmax()
    if low < 0 or high > 1:
        raise ValueError(f"translated must lie within [0, 1]; got {float(low)} to {float(high)}")


def as_text(record: dict[str, Any]) -> str:
    """A record as indented JSON, with each list of numbers on a line of its own.

    Args:
        record: Of plain values, as `as_plain` gives them.

    Returns:
        The text.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
    # A newline never stands inside a JSON string, so this meets nothing but lists of numbers.
    numbers = re.compile(r"\[\n([^\[\]{}\"]*)\n *\]")
    return numbers.sub(lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"
