"""A run as Markdown: what stands in the README, and every figure of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.report.record import OURS, Row, Run
from benchmarks.report.targets import BATCH, DIRECTIONS, FULL, TARGETS, peer_name


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


def way_of(row: Row) -> str:
    """How ours were called, where not in the usual way: "midpoint", "recompute"."""
    for name in OURS:
        if row["contender"].startswith(name):
            return row["contender"].removeprefix(name).strip("_").replace("_", " ")
    return ""


def is_ours(row: Row) -> bool:
    return row["contender"].startswith("plasticine")


def overview(run: Run, case: str) -> str:
    """Every operator on one case, a line for each direction and each way of ours."""
    header = (
        "two threads, ms" if run.facts.get("threads") == 2 else "ms",
        "Plasticine",
        "of the floor",
        "peak MiB",
        "peers: ms, and how many times faster ours is",
    )
    lines = []
    for operator, found, direction in run.contests():
        if found != case or operator == "copy":
            continue
        rows = run.contest(operator, case, direction)
        peers = [row for row in rows if not is_ours(row)]
        for mine in filter(is_ours, rows):
            way = way_of(mine)
            lines.append(
                (
                    f"`{operator}`{', ' + way if way else ''}, {DIRECTIONS[direction]}",
                    f"**{milliseconds(mine['seconds'])}**",
                    f"{mine['share_of_floor']:.0%}",
                    mebibytes(mine["peak_bytes"]),
                    _against(mine, peers),
                )
            )
    return markdown(header, lines)


def _against(mine: Row, peers: Sequence[Row]) -> str:
    return (
        ", ".join(
            f"{peer_name(row['contender'])} {milliseconds(row['seconds'])} "
            f"(**{ratio(row['seconds'] / mine['seconds'])}**)"
            for row in sorted(peers, key=lambda row: row["seconds"])
        )
        or "–"
    )


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
        ((t.what, f"≥ {t.text(t.at_least)}", *t.verdict(run)) for t in TARGETS),
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
        f"{', '.join(known)}; `Tensor.copy_` moves {copy:.1f} GB/s there. float32; every result is "
        "checked against the reference before it is timed. The floor is the time that the bytes "
        "which must move take at that rate; peak memory is that of one call, its result included."
        f"{note} [All figures]({record}) are made by `python -m benchmarks.report --run`."
    )


def readme_section(run: Run, record: str, plot: str) -> str:
    """What stands between the README's markers."""
    return "\n\n".join(
        [
            f"![What ours and the peers make of the memory's bandwidth]({plot})",
            "One 128³ volume:",
            overview(run, FULL.format("float32")),
            "Sixteen 256² images:",
            overview(run, BATCH.format("float32")),
            provenance(run, record),
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
