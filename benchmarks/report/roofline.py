"""The picture of a run: how near the roof each operator comes, and where its peers are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.record import Row, Run
from benchmarks.report.tables import is_ours, ratio, way_of
from benchmarks.report.targets import FULL, PEER_NAMES

INK, MUTED, PEER, ROOF = "#1f2430", "#7b8394", "#a9b0bd", "#d1495b"
# Of one hue family each: what samples, what integrates, what differentiates, what solves.
COLOURS = {
    "warp": "#0b6e99",
    "warp_nearest": "#5fb3ce",
    "warp_cubic": "#3d8fb3",
    "warp_bspline": "#2f7f8f",
    "compose": "#17a398",
    "exponential": "#7a4fbf",
    "exponential_pair": "#b08ae0",
    "warp_exponential": "#9a6dd7",
    "jacobian_determinant": "#e07a1f",
    "folding": "#c7a008",
    "splat": "#4c9f38",
    "invert": "#c2477f",
    "spline_coefficients": "#8a6d3b",
}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#c9ced8",
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
}
# Drawn as lines on the left: those that a registration calls all the time.
LINES = ("warp", "compose", "exponential", "jacobian_determinant", "folding", "splat")


def draw(run: Run, path: Path) -> None:
    """Writes the picture as a PNG."""
    with rc_context(STYLE):
        rows = _dumbbell_rows(run)
        figure = Figure(figsize=(13, max(5.6, 1.7 + 0.36 * len(rows))), dpi=150, facecolor="white")
        roof, race = figure.subplots(1, 2, width_ratios=[1, 1.25])
        figure.subplots_adjust(left=0.055, right=0.985, top=0.86, bottom=0.1, wspace=0.38)
        _draw_roof(roof, run)
        _draw_race(race, rows)
        _title(figure, run)
        figure.savefig(path)


def _title(figure: Figure, run: Run) -> None:
    facts = run.facts
    figure.text(
        0.012, 0.965, "How near the memory's limit", fontsize=15, weight="bold", va="center"
    )
    line = f"{facts.get('device')}, {facts.get('threads')} threads, float32"
    figure.text(0.012, 0.922, line, color=MUTED, fontsize=9.5, va="center")


def _draw_roof(axes: Axes, run: Run) -> None:
    """GB/s against the bytes that must move: copying is the roof."""
    copies = sorted(
        (row for row in run.rows if row["operator"] == "copy"), key=lambda row: row["floor_bytes"]
    )
    if copies:
        x = [row["floor_bytes"] for row in copies]
        y = [row["gb_per_s"] for row in copies]
        axes.plot(x, y, color=ROOF, linewidth=2.4, solid_capstyle="round", zorder=3)
        axes.fill_between(x, y, 1e4, color=ROOF, alpha=0.06, linewidth=0)
        top = max(range(len(y)), key=y.__getitem__)
        axes.annotate(
            "copying memory: the roof",
            (x[top], y[top]),
            xytext=(4, 8),
            textcoords="offset points",
            color=ROOF,
            weight="bold",
        )
    floats = [row for row in run.rows if row["dtype"] == "float32" and row["operator"] != "copy"]
    forward = [
        row for row in floats if row["direction"] == "forward" and row["displacement"] == "smooth"
    ]
    peers = [row for row in forward if not is_ours(row)]
    axes.scatter(
        [row["floor_bytes"] for row in peers],
        [row["gb_per_s"] for row in peers],
        s=11,
        color=PEER,
        linewidths=0,
        zorder=2,
    )
    ends = []
    for operator in LINES:
        mine = sorted(
            (r for r in forward if r["operator"] == operator and is_ours(r) and not way_of(r)),
            key=lambda row: row["floor_bytes"],
        )
        if not mine:
            continue
        x = [row["floor_bytes"] for row in mine]
        y = [row["gb_per_s"] for row in mine]
        axes.plot(x, y, color=COLOURS[operator], linewidth=1.6, marker="o", ms=4.5, zorder=4)
        ends.append((x[-1], y[-1], operator))
    axes.set(xscale="log", yscale="log", ylabel="GB/s of the bytes that must move")
    values = [row["gb_per_s"] for row in forward + copies] or [1.0]
    axes.set_ylim(min(values) / 1.5, max(values) * 1.8)
    _label_ends(axes, ends)
    _bytes_axis(axes, [row["floor_bytes"] for row in forward + copies])
    if peers:
        lowest = min(peers, key=lambda row: row["gb_per_s"] * row["floor_bytes"] ** 0.1)
        axes.annotate(
            "their peers",
            (lowest["floor_bytes"], lowest["gb_per_s"]),
            xytext=(8, -3),
            textcoords="offset points",
            color=MUTED,
        )
    _clean(axes)


def _bytes_axis(axes: Axes, sizes: Sequence[float]) -> None:
    ticks = [1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28, 1 << 30]
    names = ["256 KiB", "1 MiB", "4 MiB", "16 MiB", "64 MiB", "256 MiB", "1 GiB"]
    axes.set_xlim(min(sizes, default=1) / 1.4, max(sizes, default=2) * 1.4)
    low, high = axes.get_xlim()
    shown = [(t, n) for t, n in zip(ticks, names, strict=True) if low <= t <= high]
    axes.set_xticks([t for t, _ in shown], [n for _, n in shown])
    axes.minorticks_off()
    axes.set_xlabel("bytes that must move in a call")


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str]]) -> None:
    """Names at the right, spread so that none covers another."""
    spread: list[float] = []
    for _, y, operator in sorted(ends, key=lambda end: end[1]):
        place = max(y, spread[-1] * 1.22) if spread else y
        spread.append(place)
        axes.annotate(
            operator,
            (1.015, place),
            xycoords=("axes fraction", "data"),
            color=COLOURS[operator],
            weight="bold",
            fontsize=8.5,
            va="center",
            annotation_clip=False,
        )


def _dumbbell_rows(run: Run) -> list[tuple[str, Row, list[Row]]]:
    """Label, ours and the peers of every measurement on 128³ in float32."""
    rows = []
    for operator, case, direction in run.contests():
        if case not in (FULL.format("float32"), f"{FULL.format('float32')}-small"):
            continue
        contest = run.contest(operator, case, direction)
        peers = [row for row in contest if not is_ours(row)]
        for mine in filter(is_ours, contest):
            way = way_of(mine)
            if way in ("recompute", "in two calls"):
                continue
            small = ", below a voxel" if case.endswith("-small") else ""
            backward = " + backward" if direction != "forward" else ""
            rows.append((f"{operator}{', ' + way if way else ''}{small}{backward}", mine, peers))
    return rows


def _draw_race(axes: Axes, rows: Sequence[tuple[str, Row, list[Row]]]) -> None:
    """Share of the floor: ours, the peers, and how far they are apart."""
    for index, (_, mine, peers) in enumerate(rows):
        colour = COLOURS.get(mine["operator"], INK)
        share = 100 * mine["share_of_floor"]
        theirs = sorted(100 * row["share_of_floor"] for row in peers)
        if theirs:
            axes.plot([theirs[0], share], [index, index], color="#e3e6ec", linewidth=3, zorder=1)
            axes.scatter(theirs, [index] * len(theirs), s=26, color=PEER, zorder=2, linewidths=0)
            best = max(peers, key=lambda row: row["share_of_floor"])
            name = PEER_NAMES.get(best["contender"], best["contender"]).replace("`", "")
            text = f"{ratio(best['seconds'] / mine['seconds'])} {name}"
        else:
            text = ""
        axes.scatter(share, index, s=74, color=colour, zorder=3, linewidths=0)
        axes.annotate(
            text,
            (share, index),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=INK,
        )
    axes.axvline(100, color=ROOF, linewidth=2)
    axes.set(xscale="log", xlabel="share of the memory's floor, 128³")
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    for tick, (_, mine, _) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(COLOURS.get(mine["operator"], INK))
    axes.set_ylim(len(rows) - 0.4, -0.9)
    shares = [100 * row["share_of_floor"] for _, mine, peers in rows for row in (mine, *peers)]
    axes.set_xlim(min(shares, default=1) / 1.5, 420)
    ticks = [0.1, 0.3, 1, 3, 10, 30, 100]
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.set_xlim(min(shares, default=1) / 1.5, 420)
    axes.minorticks_off()
    axes.annotate(
        "the floor",
        (100, 1),
        xycoords=("data", "axes fraction"),
        xytext=(4, -2),
        textcoords="offset points",
        color=ROOF,
        weight="bold",
        va="top",
    )
    _clean(axes)


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="x", color="#eef0f4", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
