"""The report of a registration: the page of pictures, and its record in tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plasticine.report.document import Markup, meter, notes, table, write_document

_STAGES = {"before": "by the headers", "affine": "affine", "after": "in the end"}


def write_registration_document(record: dict[str, Any], pictures: Path, path: Path) -> None:
    """Writes ``registration.html``.

    Args:
        record: What `describe_registration` gives.
        pictures: What `draw_registration` drew.
        path: The file to write.

    Raises:
        OSError: A file cannot be read or written.
    """
    ends = [Path(record[name]["file"]).name for name in ("moving", "fixed")]
    facts = (
        f"plasticine {record['versions']['plasticine']}, {record['created']}, registered in "
        f"{record['seconds']:.1f} s"
    )
    sections = [
        notes(record["notes"]),
        _deformation(record),
        _similarity(record),
        *_points(record),
        *_landmarks(record),
        _affine(record),
        _images(record),
        table("Arguments", _given(record["arguments"])),
        table("Files", record["files"].items()),
        table("Versions", record["versions"].items()),
    ]
    write_document(path, "  →  ".join(ends), facts, [pictures], sections, _overlap(record))


def _deformation(record: dict[str, Any]) -> Markup:
    folding, moved = record["folding"], record["displacement_beyond_affine"]
    consistency = record["inverse_consistency"]
    return table(
        "Deformation",
        [
            ("folds", f"{folding['folds']} (J ≤ 0, {folding['scheme']} differences, "
             f"{folding['region']} region)"),
            ("Jacobian det ∇φ", f"{_short(folding['minimum'])} to {_short(folding['maximum'])}"),
            ("standard deviation of log J", folding["sd_log_jacobian"]),
            ("non-diffeomorphic volume", folding["non_diffeomorphic_volume"]),
            ("moved beyond the affine map", f"{_short(moved['mean_mm'])} mm in the mean, "
             f"{_short(moved['max_mm'])} mm at most"),
            ("|φ⁻¹(φ(p)) - p|", f"{_short(consistency['mean_voxels'])} voxels in the mean, "
             f"{_short(consistency['max_voxels'])} at most"),
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


def _overlap(record: dict[str, Any]) -> list[Markup]:
    found = record["dice"]
    if found is None:
        return []
    # NaN, of a record without labels, is a word.
    mean = _short(found["mean"])
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


def _given(arguments: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name.replace("_", " "), value) for name, value in arguments.items()]


def _short(value: Any) -> str:
    return f"{float(value):.4g}"
