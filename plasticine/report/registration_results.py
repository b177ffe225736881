"""The folder a registration leaves, its record, and what it prints on the terminal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from plasticine.io.nifti_writing import write_image, write_labels
from plasticine.io.points import POINT_SUFFIXES, CarriedPoints
from plasticine.io.volume_registration import VolumeRegistration
from plasticine.metrics import dice
from plasticine.nn.finite import check_finite
from plasticine.report.record import (
    as_plain,
    describe_folding,
    describe_volume,
    printable,
    versions,
)
from plasticine.report.registration_page import draw_registration
from plasticine.report.results import LABELS_FILE, as_text
from plasticine.report.terminal import show
from plasticine.transforms import DisplacementField, Ends, write_transform

FORMAT_VERSION = 1

_FILES = {
    "warped.nii.gz": "the moving image on the fixed one's voxels, in its own intensities",
    "displacement.nii.gz": "φ - id, affine included, as ITK reads it: fixed voxels, mm, LPS+",
    "inverse_displacement.nii.gz": "φ⁻¹ - id likewise, on the moving image's voxels",
    "jacobian.nii.gz": "Jacobian determinant of φ, central differences; 0 and below is a fold",
    "affine.tfm": "the affine stage alone, as ITK reads it: fixed to moving points, mm, LPS+",
    LABELS_FILE: "the moving image's labels on the fixed one's voxels",
    "registration.json": "versions, arguments, seconds, folds, similarity, Dice",
    "registration.png": "before and after: checkerboard, difference, grid, Jacobian",
}
_POINTS = {
    "moving_points": ("moving_points_in_fixed", "the moving image's points, in the fixed one"),
    "fixed_points": ("fixed_points_in_moving", "the fixed image's points, in the moving one"),
}


def registration_files(
    *, labels: bool, moving_points: Path | None = None, fixed_points: Path | None = None
) -> dict[str, str]:
    """Every file of the folder, and what it holds.

    Args:
        labels: Whether there are labels to be carried.
        moving_points: The file of the moving image's points, if there is one.
        fixed_points: Likewise of the fixed image.
    """
    files = {name: what for name, what in _FILES.items() if labels or name != LABELS_FILE}
    for name, path in (("moving_points", moving_points), ("fixed_points", fixed_points)):
        if path is not None:
            files[_points_file(name, path)] = _POINTS[name][1]
    return files


def _points_file(name: str, path: Path) -> str:
    """Of the kind of file that they were read from."""
    return _POINTS[name][0] + path.suffix.lower()


def _carried(result: VolumeRegistration) -> dict[str, CarriedPoints]:
    """The points that there are, by the names of `_POINTS`."""
    both = {name: getattr(result, name) for name in _POINTS}
    return {name: carried for name, carried in both.items() if carried is not None}


def optional_files() -> set[str]:
    """Those files of the folder that some registrations leave, and others do not."""
    points = {stem + suffix for stem, _ in _POINTS.values() for suffix in POINT_SUFFIXES}
    return {LABELS_FILE, *points}


def write_registration(
    result: VolumeRegistration, folder: Path, *, request: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Writes every file of `registration_files`.

    Args:
        result: The registration.
        folder: An existing folder; `plasticine.io.OutputFolder` gives one that is moved into
            place only when all is written.
        request: What was asked for, to be recorded as it is: plain values.

    Returns:
        What ``registration.json`` holds.

    Raises:
        ValueError: A result holds NaN or infinity; nothing is written.
        OSError: A file cannot be written.
    """
    for name in ("warped", "displacement", "inverse_displacement", "jacobian"):
        check_finite(torch.from_numpy(getattr(result, name)), name)
    affine, moving_affine = result.fixed.affine, result.moving.affine
    assert affine is not None
    assert moving_affine is not None
    for name, image in (("warped", result.warped), ("jacobian", result.jacobian)):
        write_image(folder / f"{name}.nii.gz", image, affine, description=f"Plasticine {name}")
    ends = Ends(moving_name=result.moving.path.name, fixed_name=result.fixed.path.name)
    for name, field, own, between in (
        ("displacement", result.displacement, affine, ends),
        ("inverse_displacement", result.inverse_displacement, moving_affine, ends.reversed()),
    ):
        whole = DisplacementField.of(field, own, planar=result.planar)
        write_transform(folder / f"{name}.nii.gz", whole, between)
    alone = "The affine stage alone: displacement.nii.gz has it in it, apply one or the other"
    ends = dataclasses.replace(ends, remark=alone)
    write_transform(folder / "affine.tfm", result.affine_transform, ends)
    if result.labels is not None:
        write_labels(folder / LABELS_FILE, result.labels, affine, description="Plasticine labels")
    for name, carried in _carried(result).items():
        carried.write(folder / _points_file(name, carried.points.path))
    record = describe_registration(result)
    if request is not None:
        record["request"] = dict(request)
    (folder / "registration.json").write_text(as_text(record), encoding="utf-8")
    draw_registration(result, folder / "registration.png")
    return record


def describe_registration(result: VolumeRegistration) -> dict[str, Any]:
    """Describes a registration in plain numbers and text.

    Args:
        result: The registration.

    Returns:
        A dictionary that is valid JSON, as `as_plain` makes it.
    """
    pair, lengths = result.pair, result.displacement_lengths
    consistency = pair.inverse_consistency()[pair.valid]
    record = {
        "format": "plasticine registration",
        "format_version": FORMAT_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "arguments": result.arguments,
        "moving": describe_volume(result.moving),
        "fixed": describe_volume(result.fixed),
        "affine": {
            "fixed_mm_to_moving_mm": result.affine,
            "start": pair.affine.start,
            "value": pair.affine.value,
        },
        "contrasts_differ": pair.contrasts_differ,
        "folding": describe_folding(pair.folding, pair.jacobian),
        "displacement_beyond_affine": {
            "mean_mm": float(lengths.mean()),
            "max_mm": float(lengths.max()),
        },
        "valid_fraction": float(result.valid.mean()),
        "inverse_consistency": {
            "mean_voxels": _or_nan(consistency, Tensor.mean),
            "max_voxels": _or_nan(consistency, Tensor.max),
        },
        "similarity": result.similarity,
        "dice": _overlap(result),
        "points": {
            name.removesuffix("_points"): {
                "count": len(carried.places),
                "outside": int(carried.outside.sum()),
            }
            for name, carried in _carried(result).items()
        },
        "landmarks_mm": None
        if result.landmark_errors is None
        else {
            stage: {"mean": errors.mean(), "max": errors.max(), "each": errors}
            for stage, errors in result.landmark_errors.items()
        },
        "notes": result.notes,
        "seconds": result.seconds,
        "files": registration_files(
            labels=result.labels is not None,
            **{name: carried.points.path for name, carried in _carried(result).items()},
        ),
    }
    plain = as_plain(record)
    assert isinstance(plain, dict)
    return plain


def print_registration(
    result: VolumeRegistration,
    record: dict[str, Any],
    folder: Path,
    seconds: float,
    console: Console | None = None,
) -> None:
    """Prints a table of what was done, and where it is.

    Args:
        result: The registration.
        record: What `describe_registration` gives.
        folder: Where it was written.
        seconds: Time it took, with reading and writing.
        console: Where to print; standard output if not given.
    """
    folding, moved = record["folding"], record["displacement_beyond_affine"]
    table = Table(title="Plasticine registration", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, volume in (("moving", result.moving), ("fixed", result.fixed)):
        shape = " x ".join(str(n) for n in volume.data.shape)
        table.add_row(name, f"{printable(volume.path)}: {shape} voxels")
    arguments = record["arguments"]
    how = ""
    if arguments["transform"] == "deformable":
        how = f", {arguments['method']}, {arguments['budget']} budget"
    table.add_row("transform", f"{arguments['transform']}{how}")
    if record["contrasts_differ"]:
        table.add_row("contrasts", "unlike: the deformation was kept smoother")
    table.add_row("time", f"{seconds:.1f} s, of which {result.seconds:.1f} s registering")
    for measure, name in (("lncc", "LNCC"), ("mutual_information", "mutual information")):
        stages = [result.similarity[stage][measure] for stage in ("before", "affine", "after")]
        before, affine, after = (f"{value:.3f}" for value in stages)
        table.add_row(name, f"{before} by the headers, {affine} affine, {after} in the end")
    if record["dice"] is not None:
        found = record["dice"]
        table.add_row("Dice", f"{float(found['mean']):.3f}, mean of {found['labels']} labels")
    table.add_row(
        "folds",
        f"{folding['folds']} of {result.jacobian.size:,} voxels "
        f"(J <= 0, {folding['scheme']} differences, {folding['region']} region)",
    )
    table.add_row("Jacobian", f"{folding['minimum']:.3f} to {folding['maximum']:.3f}")
    table.add_row("beyond affine", f"mean {moved['mean_mm']:.2f} mm, max {moved['max_mm']:.2f} mm")
    for name, points in record["points"].items():
        outside = f", {points['outside']} outside of the image" if points["outside"] else ""
        table.add_row(f"{name} points", f"{points['count']} carried{outside}")
    if record["landmarks_mm"] is not None:
        found = {stage: f"{error['mean']:.2f}" for stage, error in record["landmarks_mm"].items()}
        table.add_row(
            "landmarks",
            f"{len(record['landmarks_mm']['after']['each'])}, apart by {found['before']} mm on "
            f"average by the headers, {found['affine']} affine, {found['after']} in the end",
        )
    if record["valid_fraction"] < 1:
        table.add_row(
            "outside",
            f"{1 - record['valid_fraction']:.1%} of the fixed voxels land outside of the moving "
            "image, whose least value they have",
        )
    for note in record["notes"]:
        table.add_row("note", note)
    table.add_section()
    for name, meaning in record["files"].items():
        table.add_row(name, meaning)
    show(table, folder / "registration.png", console)


def _overlap(result: VolumeRegistration) -> dict[str, Any] | None:
    """Dice of the carried labels and the fixed image's; None without both."""
    if result.labels is None or result.fixed_labels is None:
        return None
    scores = dice(torch.from_numpy(result.labels), torch.from_numpy(result.fixed_labels))
    mean = sum(scores.values()) / len(scores) if scores else math.nan
    return {
        "mean": mean,
        "labels": len(scores),
        "over": "labels that occur in either map, without 0",
        "per_label": {str(label): score for label, score in scores.items()},
    }


def _or_nan(values: Tensor, measure: Any) -> float:
    return float(measure(values)) if values.numel() else math.nan
