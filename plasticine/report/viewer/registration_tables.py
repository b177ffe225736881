"""The tables of a registration's record."""

from __future__ import annotations

from typing import Any

from plasticine.report.document import Markup, meter, notes, table
from plasticine.report.viewer.deformation_table import deformation_table, named, short

_STAGES = {"before": "by the headers", "affine": "affine", "after": "in the end"}


def registration_tables(record: dict[str, Any]) -> list[Markup]:
    """What the record says, but for the overlap of labels.

    Args:
        record: What `describe_registration` gives.
    """
    return [
        notes(record["notes"]),
        _deformation(record),
        _similarity(record),
        *_points(record),
        *_landmarks(record),
        _affine(record),
        _images(record),
        table("Arguments", named(record["arguments"])),
        table("Files", record["files"].items()),
        table("Versions", record["versions"].items()),
    ]


def _deformation(record: dict[str, Any]) -> Markup:
    moved, consistency = record["displacement_beyond_affine"], record["inverse_consistency"]
    return deformation_table(
        record["folding"],
        [
            ("moved beyond the affine map", f"{short(moved['mean_mm'])} mm in the mean, "
             f"{short(moved['max_mm'])} mm at most"),
            ("|φ⁻¹(φ(p)) - p|", f"{short(consistency['mean_voxels'])} voxels in the mean, "
             f"{short(consistency['max_voxels'])} at most"),
            ("lands inside the moving image", f"{record['valid_fraction']:.1%} of the voxels"),
        ],
    )  # fmt: skip


def _similarity(record: dict[str, Any]) -> Markup:
    found = record["similarity"]
    measures = {"lncc": "LNCC, windows of 5", "mutual_information": "mutual information, nats"}
    rows = [
        (name, *(found[stage][measure] for stage in _STAGES)) for measure, name in measures.items()
    ]
    return table("Similarity", rows, ("", *_STAGES.values()))


def overlap_table(record: dict[str, Any]) -> list[Markup]:
    """Dice of each label; nothing where it was not measured."""
    found = record["dice"]
    if found is None:
        return []
    # NaN, of a record without labels, is a word.
    mean = short(found["mean"])
    rows = [(label, meter(float(score))) for label, score in found["per_label"].items()]
    heading = f"Dice: {mean}, mean of {found['labels']} labels"
    return [table(heading, rows, ("label", "Dice"))]


def _points(record: dict[str, Any]) -> list[Markup]:
    rows = [(name, *points.values()) for name, points in record["points"].items()]
    return [table("Points", rows, ("of the image", "carried", "outside of it"))] if rows else []


def _landmarks(record: dict[str, Any]) -> list[Markup]:
    found = record["landmarks_mm"]
    if found is None:
        return []
    each = zip(*(found[stage]["each"] for stage in _STAGES), strict=True)
    rows = [("mean", *(found[stage]["mean"] for stage in _STAGES))]
    rows += [(str(number), *errors) for number, errors in enumerate(each, start=1)]
    return [table("Landmarks, millimetres apart", rows, ("", *_STAGES.values()))]


def _affine(record: dict[str, Any]) -> Markup:
    affine = record["affine"]
    return table(
        "Affine stage",
        [
            ("fixed mm to moving mm, RAS+", affine["fixed_mm_to_moving_mm"]),
            ("begun from", affine["start"]),
            ("its metric", affine["value"]),
        ],
    )


def _images(record: dict[str, Any]) -> Markup:
    names = list(record["moving"])
    rows = [
        (name.replace("_", " "), *(record[n][name] for n in ("moving", "fixed"))) for name in names
    ]
    return table("Images", rows, ("", "moving", "fixed"))
