"""A run as Markdown: what stands in the README, and every figure of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.report.record import OURS, Row, Run
from benchmarks.report.targets import BATCH, DIRECTIONS, FULL, peer_name, targets_of


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def milliseconds(seconds: float) -> str:
    value = seconds * 1e3
    if value < 1:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 20 else f"{value:,.0f}"


def ratio(value: float) -> str:
    return f"{value:.1f}×" if value < 10 else f"{value:,.0f}×"


def mebibytes(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:,.0f}"


_SMALL = ", below a voxel"
_FULL, _BATCH = FULL.format("float32"), BATCH.format("float32")
# Operator, way of ours, case and label of each line in the README.
HEADLINES = (
    ("warp", "", _FULL, "`warp`, 128³"),
    ("warp", "", f"{_FULL}-small", f"`warp`, 128³{_SMALL}"),
    ("warp", "", _BATCH, "`warp`, 16 × 256²"),
    ("warp_bspline", "", _FULL, "`warp`, B-spline, 128³"),
    ("compose", "", _FULL, "`compose`, 128³"),
    ("exponential", "", _FULL, "`exponential`, 128³"),
    ("exponential", "midpoint", _FULL, "`exponential`, midpoint as exact, 128³"),
    ("invert", "", _FULL, "`invert`, 128³"),
    ("jacobian_determinant", "", _FULL, "`jacobian_determinant`, 128³"),
    ("folding", "", _FULL, "`folding`, 128³"),
    ("lncc", "", _FULL, "`lncc`, 128³"),
    ("mutual_information", "", _FULL, "`mutual_information`, 128³"),
    ("mutual_information_gaussian", "", _FULL, "`mutual_information`, Gaussian, 128³"),
    ("mutual_information_mattes", "", _FULL, "`mutual_information`, Mattes, 128³"),
    ("mind_distance", "", _FULL, "`mind_distance`, 128³"),
    ("bending", "", _FULL, "`smoothness`, bending, 128³"),
)


def way_of(row: Row) -> str:
    """How ours were called, where not in the usual way: "midpoint", "recompute"."""
    for name in OURS:
        if row["contender"].startswith(name):
            return row["contender"].removeprefix(name).strip("_").replace("_", " ")
    return ""


def is_ours(row: Row) -> bool:
    return row["contender"].startswith("plasticine")


def overview(run: Run) -> str:
    """The headline figures: one line for each operator, case and way of ours."""
    header = (
        "two threads, float32" if run.facts.get("threads") == 2 else "float32",
        "forward ms",
        "of the floor",
        "with backward ms",
        "peak MiB",
        "forward against",
        "with backward against",
    )
    lines = []
    for operator, way, case, label in HEADLINES:
        suffix = f"_{way}" if way else ""
        both = [run.ours(operator, case, direction, suffix) for direction in DIRECTIONS]
        measured = [row for row in both if row is not None]
        if not measured:
            continue
        forward, backward = both
        lines.append(
            (
                label,
                f"**{milliseconds(forward['seconds'])}**" if forward else "–",
                f"{forward['share_of_floor']:.0%}" if forward else "–",
                f"**{milliseconds(backward['seconds'])}**" if backward else "–",
                mebibytes(measured[-1]["peak_bytes"]),
                *(_against(run, row) for row in both),
            )
        )
    return markdown(header, lines)


def _against(run: Run, mine: Row | None) -> str:
    """How many times faster than each peer, the fastest peer first."""
    if mine is None:
        return "–"
    contest = run.contest(mine["operator"], mine["case"], mine["direction"])
    peers = sorted((row for row in contest if not is_ours(row)), key=lambda row: row["seconds"])
    ratios = (
        f"**{ratio(row['seconds'] / mine['seconds'])}** {peer_name(row['contender'])}"
        for row in peers
    )
    return ", ".join(ratios) or "–"


def verdict(run: Run) -> str:
    """How many of the targets the run meets, and which measurements miss one, in a sentence."""
    verdicts = [(target.what, target.verdict(run)[1]) for target in targets_of(run)]
    met = sum(word == "met" for _, word in verdicts)
    missed = sum("missed" in word for _, word in verdicts)
    half_types = sum("missed" in word and what.startswith("half types") for what, word in verdicts)
    text = (
        f"{met} of the {len(verdicts)} targets are met; "
        "[benchmarks/README](benchmarks/README.md#targets) has each with what was measured"
    )
    if missed:
        text += (
            f". Of the {missed} missed, {half_types} ask half types to be no slower than float32"
        )
    return f"{text}."


def everything(run: Run) -> str:
    """Every row of a run."""
    header = (
        "operator", "case", "direction", "who", "ms", "IQR", "GB/s", "of the floor", "peak MiB"
    )  # fmt: skip
    return markdown(
        header,
        (
            (
                row["operator"],
                row["case"],
                DIRECTIONS[row["direction"]],
                row["contender"],
                milliseconds(row["seconds"]),
                milliseconds(row["iqr"]),
                f"{row['gb_per_s']:.1f}",
                f"{row['share_of_floor']:.0%}",
                mebibytes(row["peak_bytes"]),
            )
            for row in run.rows
        ),
    )


def targets(run: Run) -> str:
    """The targets, with what was measured."""
    return markdown(
        ("target", "asked for", "measured", ""),
        ((t.what, f"≥ {t.text(t.at_least)}", *t.verdict(run)) for t in targets_of(run)),
    )


def provenance(run: Run, record: str) -> str:
    """What the figures are, in a sentence or two."""
    facts = run.facts
    versions = facts.get("versions", {})
    names = ("torch", "monai", "voxelmorph", "hf-deepali", "torch-interpol", "SimpleITK", "scipy")
    known = [f"{name} {versions[name]}" for name in names if name in versions]
    copy = run.rows[0]["copy_gb_per_s"] if run.rows else float("nan")
    simd = f", {facts['simd']}" if facts.get("simd") else ""
    note = f" {facts['note'].rstrip('.')}." if facts.get("note") else ""
    return (
        f"Medians of one run on {facts.get('device')} ({facts.get('threads')} threads{simd}), "
        f"{', '.join(known)}; `Tensor.copy_` moves {copy:.1f} GB/s there. Every result is "
        "checked against the reference before it is timed; `F.grid_sample`'s time includes the "
        "grid that it needs. The floor is the time that the bytes "
        "which must move take at that rate; peak memory is that of one call, its result included. "
        "In training with a network, convolutions are most of a step: "
        "[its shares](docs/losses.md#in-a-training-step)."
        f"{note} [All figures]({record}) are made by `python -m benchmarks.report --run`."
    )


def readme_section(run: Run, record: str, plot: str) -> str:
    """What stands between the README's markers."""
    return "\n\n".join(
        [
            f"![What ours and the peers make of the memory's bandwidth]({plot})",
            overview(run),
            f"{verdict(run)} {provenance(run, record)}",
        ]
    )


def replace_between_markers(path: Path, name: str, content: str) -> None:
    """Puts generated text between ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises:
        ValueError: the file does not hold both markers, once and in order.
    """
    text = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"{path} must hold {begin} and, after it, {end}, once")
    text = pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)
    path.write_text(text, encoding="utf-8")
