"""The picture of a run: how near the roof each operator comes, and where its peers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.record import Row, Run
from benchmarks.report.tables import is_ours, ratio, way_of
from benchmarks.report.targets import DIRECTIONS, FULL, peer_name

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
    "exponential_zeros": "#8d68cc",
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
# The rows on the right: operator, way of ours, case, label.
_FULL = FULL.format("float32")
RACE = (
    ("warp", "", _FULL, "warp"),
    ("warp", "", f"{_FULL}-small", "warp, below a voxel"),
    ("warp_bspline", "", _FULL, "warp, B-spline"),
    ("compose", "", _FULL, "compose"),
    ("exponential", "", _FULL, "exponential, Euler 7"),
    ("exponential", "midpoint", _FULL, "exponential, midpoint"),
    ("warp_exponential", "", _FULL, "warp_exponential"),
    ("jacobian_determinant", "", _FULL, "jacobian_determinant"),
    ("folding", "", _FULL, "folding"),
    ("splat", "", _FULL, "splat"),
    ("invert", "", _FULL, "invert"),
)
# Drawn as lines on the left: those that a registration calls all the time.
LINES = ("warp", "compose", "exponential", "jacobian_determinant", "folding", "splat")


def draw(run: Run, path: Path) -> None:
    """Writes the picture as a PNG."""
    with rc_context(STYLE):
        rows = _race_rows(run)
        height = max(5.2, 1.7 + 0.27 * len(rows))
        figure = Figure(figsize=(13, height), dpi=150, facecolor="white")
        bottom, top = 0.62 / height, 1 - 1.0 / height
        roof = figure.add_axes((0.045, bottom, 0.345, top - bottom))
        race = figure.add_axes((0.628, bottom, 0.2, top - bottom))
        _draw_roof(roof, run)
        _draw_race(race, rows)
        facts = run.facts
        title = "How near to what the memory allows"
        figure.text(0.012, 1 - 0.32 / height, title, fontsize=15, weight="bold", va="center")
        line = (
            f"{facts.get('device')}, {facts.get('threads')} threads, float32.  "
            "Colour: Plasticine.  Grey: other libraries, computing the same."
        )
        figure.text(0.012, 1 - 0.62 / height, line, color=MUTED, fontsize=9.5, va="center")
        figure.savefig(path)


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
        axes.annotate(
            "copying: the roof",
            (x[len(x) // 3], y[len(x) // 3]),
            xytext=(0, 8),
            textcoords="offset points",
            color=ROOF,
            weight="bold",
            ha="center",
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
    axes.set(xscale="log", yscale="log", ylabel="GB/s")
    values = [row["gb_per_s"] for row in forward + copies] or [1.0]
    axes.set_ylim(min(values) / 1.5, max(values) * 1.8)
    axes.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
    _label_ends(axes, ends)
    _bytes_axis(axes, [row["floor_bytes"] for row in forward + copies])
    _clean(axes)


def _bytes_axis(axes: Axes, sizes: Sequence[float]) -> None:
    ticks = [1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28, 1 << 30]
    names = ["256 KiB", "1 MiB", "4 MiB", "16 MiB", "64 MiB", "256 MiB", "1 GiB"]
    axes.set_xlim(min(sizes, default=1) / 1.4, max(sizes, default=2) * 1.4)
    low, high = axes.get_xlim()
    shown = [(t, n) for t, n in zip(ticks, names, strict=True) if low <= t <= high]
    axes.set_xticks([t for t, _ in shown], [n for _, n in shown])
    axes.minorticks_off()
    axes.set_xlabel("bytes that must move in a call, forward")


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


@dataclass(frozen=True)
class RaceRow:
    """One measurement on 128³: its label, ours and the peers'."""

    label: str
    mine: Row
    peers: list[Row]

    @property
    def backward(self) -> bool:
        return self.mine["direction"] != "forward"

    @property
    def colour(self) -> str:
        return COLOURS.get(self.mine["operator"], INK)


def _race_rows(run: Run) -> list[RaceRow]:
    """In the order of ``RACE``, forward before forward and backward."""
    rows = []
    for operator, way, case, label in RACE:
        for direction in DIRECTIONS:
            contest = run.contest(operator, case, direction)
            suffix = f"_{way}" if way else ""
            mine = run.ours(operator, case, direction, suffix)
            if mine is None:
                continue
            text = label if direction == "forward" else "and backward"
            rows.append(RaceRow(text, mine, [row for row in contest if not is_ours(row)]))
    return rows


def _draw_race(axes: Axes, rows: Sequence[RaceRow]) -> None:
    """Share of the floor: ours, the peers, and how far they are apart."""
    for index, row in enumerate(rows):
        share = 100 * row.mine["share_of_floor"]
        theirs = sorted(100 * peer["share_of_floor"] for peer in row.peers)
        if theirs:
            axes.plot([theirs[0], share], [index, index], color="#e3e6ec", linewidth=3, zorder=1)
            axes.scatter(theirs, [index] * len(theirs), s=24, color=PEER, zorder=2, linewidths=0)
            _name_the_nearest(axes, index, row)
        face = "white" if row.backward else row.colour
        axes.scatter(
            share, index, s=58, facecolor=face, edgecolor=row.colour, linewidths=1.8, zorder=4
        )
    axes.axvline(100, color=ROOF, linewidth=2, zorder=3)
    axes.set(xscale="log", xlabel="share of the floor's speed, 128³")
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(MUTED if row.backward else row.colour)
        tick.set_fontweight("normal" if row.backward else "bold")
    axes.set_ylim(len(rows) - 0.4, -0.9)
    shares = [100 * r["share_of_floor"] for row in rows for r in (row.mine, *row.peers)]
    ticks = [0.1, 1, 10, 100]
    axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axes.set_xlim(min(shares, default=1) / 1.6, max([150, *shares]) * 1.3)
    axes.minorticks_off()
    _clean(axes)


def _name_the_nearest(axes: Axes, index: int, row: RaceRow) -> None:
    """At the right: how many times the fastest peer's time ours goes into, and whose it is."""
    best = min(row.peers, key=lambda peer: peer["seconds"])
    name = peer_name(best["contender"]).replace("`", "")
    name = name.removesuffix(" of the reference")
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center"}
    beside |= {"annotation_clip": False, "fontsize": 8.5}
    times = ratio(best["seconds"] / row.mine["seconds"])
    axes.annotate(times, (1.17, index), color=row.colour, weight="bold", ha="right", **beside)
    axes.annotate(f"as fast as {name}", (1.2, index), color=MUTED, **beside)


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="x", color="#eef0f4", linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
