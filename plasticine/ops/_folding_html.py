"""Folding statistics as a notebook shows them: the range of the determinants, and the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_WIDTH, _ROW, _MOST = 360, 18, 50
_COLUMNS = {
    "folds": "folds",
    "fraction": "share of voxels",
    "minimum": "least J",
    "maximum": "greatest J",
    "sd_log_jacobian": "SD of log J",
    "non_diffeomorphic_volume": "non-diffeomorphic volume, voxels",
}


def described(fields: Mapping[str, Any]) -> str:
    """HTML of the fields of a ``Folding``."""
    columns = {name: fields[name].tolist() for name in _COLUMNS}
    count = len(columns["folds"])
    shown = range(min(count, _MOST))
    heads = "".join(f"<th>{title}</th>" for title in ("sample", *_COLUMNS.values()))
    rows = "".join(
        f"<tr><th>{i}</th>" + "".join(f"<td>{columns[n][i]:.4g}</td>" for n in _COLUMNS) + "</tr>"
        for i in shown
    )
    more = f"<p>and {count - _MOST} more samples</p>" if count > _MOST else ""
    ranges = [(columns["minimum"][i], columns["maximum"][i]) for i in shown]
    return (
        f"<div><b>Folding</b> ({fields['scheme']} differences, {fields['region']} region)"
        f"{_picture(ranges)}<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f"{more}</div>"
    )


def _picture(ranges: list[tuple[float, float]]) -> str:
    """A bar from the least to the greatest determinant of each sample, as SVG; red is folded."""
    finite = [end for pair in ranges for end in pair if math.isfinite(end)]
    low, high = min([0.0, *finite]), max([2.0, *finite])

    def across(value: float) -> float:
        return 8 + (_WIDTH - 16) * (value - low) / (high - low)

    height = _ROW * len(ranges) + 18
    bars = ""
    for i, (least, greatest) in enumerate(ranges):
        if not (math.isfinite(least) and math.isfinite(greatest)):
            continue
        for start, end, colour in (
            (least, min(0.0, greatest), "#d62728"),
            (max(0.0, least), greatest, "#4c8bf5"),
        ):
            if end >= start:
                length = max(1.0, across(end) - across(start))
                bars += (
                    f'<rect x="{across(start):.1f}" y="{_ROW * i + 4}" width="{length:.1f}" '
                    f'height="{_ROW - 8}" fill="{colour}"/>'
                )
    marks = "".join(
        f'<line x1="{across(v):.1f}" x2="{across(v):.1f}" y1="0" y2="{height - 16}" '
        f'stroke="currentColor" stroke-dasharray="2 3"/><text x="{across(v):.1f}" y="{height - 4}" '
        f'font-size="10" text-anchor="middle" fill="currentColor">{v:g}</text>'
        for v in (0.0, 1.0)
    )
    return (
        f'<svg role="img" aria-label="range of the Jacobian determinant of each sample" '
        f'width="{_WIDTH}" height="{height}" style="display:block">{bars}{marks}</svg>'
    )
