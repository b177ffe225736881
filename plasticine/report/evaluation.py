"""How good a translation is, measured on the folder that it left."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from plasticine import metrics
from plasticine.io import (
    LEAST_BODY,
    body_share,
    files_in,
    model_images,
    normalise,
    read_volume,
)
from plasticine.metrics.images import SSIM_WINDOW
from plasticine.nn.labels import warp_labels
from plasticine.ops.invert import invert
from plasticine.ops.jacobian import jacobian_determinant
from plasticine.ops.warp import warp
from plasticine.registration.stack import stack_folding
from plasticine.report.record import as_plain, describe_folding
from plasticine.report.result_folder import ResultFolder, read_results
from plasticine.report.results import as_text

# Version 1 had null for NaN and infinity.
FORMAT_VERSION = 2

WORST_LABELS = 5
"""Labels that the table shows, beside their mean."""

# Every file of an evaluation, and what it holds.
EVALUATION_FILES = {
    "evaluation.json": "every figure, with what it was measured on",
    "evaluation.csv": "the same figures, one a line: group, label, measure, value",
}


def evaluate(
    folder: Path,
    *,
    truth: Path | None = None,
    mask: Path | None = None,
    erosion: int = 4,
    labels: Path | None = None,
    target_labels: Path | None = None,
    target_folder: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measures a translation.

    Args:
        folder: What ``plasticine translate`` wrote.
        truth: The true image of the target domain in the source's space and on its grid, to be
            compared with ŷ pulled back by φ⁻¹. Normalised as the model's card says.
        mask: Of the source, on its grid: what is not 0 counts for the figures "inside".
        erosion: Voxels that the mask is eroded by first.
        labels: Label map of the source, on its grid, to be carried by φ.
        target_labels: Label map of ŷ on the same grid, made by a segmenter or by hand, to be
            compared with the carried labels.
        target_folder: Folder of images of the target domain, to compare the sets of images.
        progress: Called with (done, total).

    Returns:
        A dictionary that is valid JSON, where "nan" is undefined, "inf" infinite, and None not
        known: by group, ``deformation`` and those that were asked for, ``truth``, ``labels`` with
        ``mean_of_labels``, and ``distribution``.

    Raises:
        FileNotFoundError: A file or folder is not there.
        ValueError: An image is on another grid or not what it should be, or an option lacks the
            one it needs.
    """
    if mask is not None and truth is None:
        raise ValueError("a mask is for the comparison with a truth: give both, got a mask alone")
    if target_labels is not None and labels is None:
        raise ValueError("target labels are compared with the source's labels: give both")
    notes: list[str] = []
    tasks: dict[str, Callable[[ResultFolder], dict[str, Any]]] = {"deformation": _deformation}
    if truth is not None:
        tasks["truth"] = lambda results: _truth(results, truth, mask, erosion, notes)
    if labels is not None:
        tasks["labels"] = lambda results: _labels(results, labels, target_labels, notes)
    if target_folder is not None:
        tasks["distribution"] = lambda results: _distribution(results, target_folder)
    report = progress or (lambda done, total: None)
    report(0, 1 + len(tasks))
    results = read_results(folder)
    record: dict[str, Any] = {
        "format": "plasticine evaluation",
        "format_version": FORMAT_VERSION,
        "translation": folder,
        "model": {key: results.record["model"].get(key) for key in ("name", "sha256")},
        "input": results.record["input"]["file"],
        "compared_with": {
            "truth": truth,
            "mask": mask,
            "labels": labels,
            "target_labels": target_labels,
            "target_folder": target_folder,
        },
        "spacing_mm": results.spacing,
        "notes": notes,
    }
    for done, (name, task) in enumerate(tasks.items(), start=1):
        report(done, 1 + len(tasks))
        record[name] = task(results)
        if name == "labels" and target_labels is not None:
            record["mean_of_labels"] = _mean_of_labels(record["labels"])
    report(1 + len(tasks), 1 + len(tasks))
    # One file may be given as several things.
    record["notes"] = list(dict.fromkeys(notes))
    plain = as_plain(record)
    assert isinstance(plain, dict)
    return plain


def write_evaluation(record: dict[str, Any], folder: Path) -> None:
    """Writes every file of `EVALUATION_FILES`.

    Args:
        record: What `evaluate` gives.
        folder: An existing folder; `plasticine.io.OutputFolder` gives one.

    Raises:
        OSError: A file cannot be written.
    """
    (folder / "evaluation.json").write_text(as_text(record), encoding="utf-8")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("group", "label", "measure", "value"))
    writer.writerows(figures(record))
    (folder / "evaluation.csv").write_text(text.getvalue(), encoding="utf-8")


def figures(record: dict[str, Any]) -> Iterator[tuple[str, str, str, Any]]:
    """The figures of an evaluation one by one.

    Args:
        record: What `evaluate` gives.

    Yields:
        Group, label (of what within the group; may be empty), measure, value.
    """
    for group in ("deformation", "truth", "labels", "mean_of_labels", "distribution"):
        for name, value in record.get(group, {}).items():
            if isinstance(value, dict):
                if name != "per_image":
                    for measure, number in value.items():
                        yield group, name, measure, number
            else:
                yield group, "", name, value


def table_of(record: dict[str, Any]) -> Table:
    """An evaluation for the terminal.

    Args:
        record: What `evaluate` gives.

    Returns:
        A table with a section for each group and label. Of many labels it shows the mean and the
        worst, and says how many more the CSV has.
    """
    table = Table(title="Plasticine evaluation", title_justify="left")
    for name in ("group", "label", "measure"):
        table.add_column(name)
    table.add_column("value", justify="right", overflow="fold")
    last = None
    scores = record.get("labels", {})
    worst = _worst_labels(scores)
    for group, label, measure, value in figures(record | {"labels": worst}):
        first = (group, label) != last
        if first and last is not None:
            table.add_section()
        shown = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        table.add_row(group if first else "", label if first else "", measure, shown)
        last = (group, label)
    if len(worst) < len(scores):
        table.add_section()
        rest = f"{len(scores) - len(worst)} more"
        table.add_row("labels", rest, "in evaluation.csv, with these", "")
    return table


def _worst_labels(scores: dict[str, Any]) -> dict[str, Any]:
    """The labels of the least Dice; without it, those whose volume changed most."""

    def badness(score: dict[str, Any]) -> float:
        if "dice" in score:
            return -float(score["dice"])
        before, after = score["source_volume_ml"], score["carried_volume_ml"]
        return abs(math.log(after / before)) if before and after else math.inf

    chosen = sorted(scores, key=lambda label: badness(scores[label]), reverse=True)[:WORST_LABELS]
    return {label: scores[label] for label in chosen}


def _deformation(results: ResultFolder) -> dict[str, Any]:
    u, spacing = results.displacement, results.grid.input_spacing
    lengths = metrics.end_point_error_map(u, torch.zeros_like(u), spacing=spacing)
    one = results.record.get("one_deformation")
    found = stack_folding(u, one_field=bool(one))
    of_trace = ("structure_agreement_mean", "inverse_consistency_mean_model_voxels")
    return (
        {"one_deformation": one}
        | describe_folding(found, jacobian_determinant(u))
        | {"displacement_mean_mm": lengths.mean(), "displacement_max_mm": lengths.max()}
        | {name: results.record["metrics"].get(name) for name in of_trace}
        | {"seconds": results.record["seconds"]}
    )


def _truth(
    results: ResultFolder, path: Path, mask_path: Path | None, erosion: int, notes: list[str]
) -> dict[str, Any]:
    """ŷ and, as what recolouring starts from, x∘φ, both pulled back, against the true image."""
    rule = results.card.get("target_normalisation", results.card.get("normalisation"))
    volume = results.read(path)
    notes += [f"{path}: {note}" for note in volume.notes]
    data, _ = normalise(volume.data, rule, str(path))
    truth = results.grid.to_images(data)
    mask = None if mask_path is None else _read_labels(results, mask_path, notes) != 0
    inverse = invert(results.displacement)
    scores: dict[str, Any] = {"inverse_residual_voxels": inverse.residual.max()}
    for name, image in (("translated", results.translated), ("source", results.warped)):
        score = metrics.evaluate_translation(
            warp(image, inverse.displacement, padding="border"), truth, mask=mask, erosion=erosion
        )
        scores[name] = {k: v for k, v in dataclasses.asdict(score).items() if v is not None}
    if scores["translated"].get("ssim") is None:
        shape = " x ".join(str(n) for n in truth.shape[2:])
        notes.append(
            f"SSIM is left out: images of {shape} voxels are smaller than its window of "
            f"{SSIM_WINDOW}"
        )
    return scores


def _read_labels(results: ResultFolder, path: Path, notes: list[str]) -> torch.Tensor:
    labels, found = results.read_labels(path)
    notes += found
    return labels


def _labels(
    results: ResultFolder, path: Path, target_path: Path | None, notes: list[str]
) -> dict[str, Any]:
    """By label: volumes before and after φ and, with labels of ŷ, overlap and distances."""
    labels = _read_labels(results, path, notes)
    carried = warp_labels(labels, results.displacement)
    target = None if target_path is None else _read_labels(results, target_path, notes)
    millilitres = math.prod(results.spacing) / 1000
    dice = {} if target is None else metrics.dice(carried, target)
    found = sorted(dice) if dice else [int(label) for label in labels.unique() if label != 0]
    scores: dict[str, Any] = {}
    for label in found:
        scores[str(label)] = {
            "source_volume_ml": int((labels == label).sum()) * millilitres,
            "carried_volume_ml": int((carried == label).sum()) * millilitres,
        }
    if target is not None:
        for label, distance in _surface_distances(results, carried, target, found).items():
            scores[str(label)] |= {
                "target_volume_ml": int((target == label).sum()) * millilitres,
                "dice": dice[label],
                "hd95_mm": distance.hd95,
                "assd_mm": distance.assd,
            }
            if not results.is_one_body:
                there = ((carried == label) | (target == label)).flatten(1).any(1)
                scores[str(label)]["distances_mean_over"] = (
                    f"{int(there.sum())} of {len(there)} pictures"
                )
    return scores


def _mean_of_labels(scores: dict[str, Any]) -> dict[str, Any]:
    """Means over the labels, and of how many: a label that is in one map alone has no distance."""
    means: dict[str, Any] = {}
    for measure in ("dice", "hd95_mm", "assd_mm"):
        values = [score[measure] for score in scores.values()]
        finite = [value for value in values if math.isfinite(value)]
        means[measure] = sum(finite) / len(finite) if finite else math.nan
        means[f"{measure}_mean_over"] = f"{len(finite)} of {len(values)} labels"
    return means


def _surface_distances(
    results: ResultFolder, carried: torch.Tensor, target: torch.Tensor, labels: list[int]
) -> dict[int, metrics.SurfaceDistance]:
    """In 3D of one body; of a stack of pictures the mean over those with the label in either.

    Infinite where it is missing from one of a picture's two maps.
    """
    if results.is_one_body:
        first, second = (
            images[:, 0] if results.grid.ndim == 2 else images[0, 0] for images in (carried, target)
        )
        # Of a single slice every voxel would be at the surface of the volume.
        sizes = [size for size, n in zip(results.spacing, first.shape, strict=True) if n > 1]
        return metrics.surface_distance(
            first.squeeze(), second.squeeze(), spacing=sizes, labels=labels
        )
    spacing = list(results.grid.input_spacing)
    each = [
        metrics.surface_distance(a[0], b[0], spacing=spacing, labels=labels)
        for a, b in zip(carried, target, strict=True)
    ]
    means = {}
    for label in labels:
        there = [found[label] for found in each if not math.isnan(found[label].hd95)]
        means[label] = metrics.SurfaceDistance(
            hd95=sum(one.hd95 for one in there) / len(there),
            assd=sum(one.assd for one in there) / len(there),
        )
    return means


def _distribution(results: ResultFolder, folder: Path) -> dict[str, Any]:
    """ŷ and x∘φ against images of the target domain, slice by slice on the model's grid."""
    card = dict(results.card)
    card["normalisation"] = card.get("target_normalisation", card.get("normalisation"))
    extractor = metrics.RandomFeatures()

    def features(images: torch.Tensor) -> torch.Tensor:
        if images.dim() == 5:
            images = images.movedim(2, 1).flatten(0, 1)[:, None]
        return extractor(images[body_share(images) >= LEAST_BODY])

    target = torch.cat(
        [features(model_images(read_volume(path), card).images) for path in files_in(folder)]
    )
    scores: dict[str, Any] = {
        "features": metrics.FEATURE_EXTRACTOR,
        "target_slices": len(target),
    }
    for name, images in (("translated", results.translated), ("source", results.warped)):
        found = features(results.grid.to_model(images).clamp(0, 1))
        if min(len(found), len(target)) < 2:
            raise ValueError(
                "sets are compared by two slices or more that are not nearly empty; "
                f"got {len(found)} of {results.folder} and {len(target)} of {folder}"
            )
        scores[name] = {
            "slices": len(found),
            "frechet_distance": metrics.frechet_distance(found, target),
            "kernel_distance": metrics.kernel_distance(found, target),
        }
    return scores
