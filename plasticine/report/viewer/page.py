"""One file of HTML that shows a case, and needs nothing else."""

from __future__ import annotations

import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.report.document import Markup
from plasticine.report.record import printable
from plasticine.report.results import STRUCTURE_FILE
from plasticine.report.viewer.case import Case, ShownImage
from plasticine.report.viewer.embedding import (
    embedded_field,
    embedded_image,
    embedded_jacobian,
    embedded_labels,
    size_of,
)

REPORT_FILE = "report.html"
_STRUCTURE_MEANING = "S(x)∘φ, the structure map that the translated image was drawn from"
_MEANING = "both images, linked through φ, to look through in a browser"
#: Characters of embedded arrays that a page has at most, if a coarser field makes it so.
_MOST = 24_000_000
_SCRIPTS = ("decoding", "geometry", "slices", "overlays", "marks", "panes", "controls", "viewer")
# Grey levels of maps that are looked at, and not measured.
_MAP_LEVELS = 255
# Of a structure map of more channels the page shows which is the strongest.
_MOST_CHANNELS = 4


def report_files(wanted: bool, *, translation: bool = True) -> dict[str, str]:
    """The files of a report, and what they hold.

    Args:
        wanted: Nothing without it.
        translation: Of a translation: the page shows its structure map, too, which is a file.
    """
    if not wanted:
        return {}
    return ({STRUCTURE_FILE: _STRUCTURE_MEANING} if translation else {}) | {REPORT_FILE: _MEANING}


def write_report(case: Case, path: Path) -> None:
    """Writes the interactive page of a translation or a registration.

    Args:
        case: What `read_case` gives.
        path: ``.html``.

    Raises:
        OSError: The page cannot be written.
    """
    data = embedded(case)
    text = asset("viewer.html")
    title = printable(case.title)
    parts = {
        "TITLE": html.escape(title),
        "FACTS": html.escape(printable(case.facts)),
        "STYLE": asset("viewer.css"),
        "SCRIPT": "\n".join(asset(f"{name}.js") for name in _SCRIPTS),
        "DATA": as_script(data),
        "SECTIONS": Markup("".join(case.sections)),
        "LONG": Markup("".join(case.long)),
    }
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    path.write_text(text, encoding="utf-8")


def asset(name: str) -> str:
    """A file beside this module."""
    return files("plasticine.report.viewer").joinpath(name).read_text(encoding="utf-8")


def as_script(data: Any) -> str:
    """JSON that ends no script element."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def embedded(case: Case) -> dict[str, Any]:
    """All that the page's script needs.

    The field keeps every voxel where the page stays within its size; else every second one, or
    fewer, and images 8 bits.
    """
    data = _embedded(case, every=1, levels=4095)
    every = 1
    while size_of(data) > _MOST and every < 4:
        every *= 2
        data = _embedded(case, every=every, levels=255)
    return data


def _embedded(case: Case, *, every: int, levels: int) -> dict[str, Any]:
    source, target = case.source, case.target
    folding = case.record["folding"]
    maps: dict[str, Any] = {}
    for name, channels in (("structure", case.structure), ("uncertainty", case.uncertainty)):
        if channels is not None and len(channels) <= _MOST_CHANNELS:
            window = (0.0, 1.0)
            maps[name] = [
                embedded_image(target.grid, one, window, levels=_MAP_LEVELS) for one in channels
            ]
        elif channels is not None:
            maps["strongest"] = embedded_labels(target.grid, _strongest(channels))
    if case.carried_labels is not None:
        maps["carriedLabels"] = embedded_labels(target.grid, case.carried_labels)
    return {
        "pictures": case.pictures,
        "source": _described(source, levels),
        "target": _described(target, levels),
        "toSource": embedded_field(target.grid, source.grid, case.displacement, every=every),
        "toTarget": embedded_field(
            source.grid, target.grid, case.inverse_displacement, every=every
        ),
        "jacobian": embedded_jacobian(target.grid, case.jacobian),
        "beyond": case.beyond.tolist(),
        "recolouring": {
            "low": case.recolouring.low,
            "divisor": case.recolouring.divisor,
            "values": np.round(case.recolouring.values, 6).tolist(),
        },
        "folds": int(folding["folds"]),
        **maps,
    }


def _strongest(channels: NDArray[Any]) -> NDArray[np.int64]:
    """Which channel is the strongest, counted from 1; 0 where all are 0."""
    found: NDArray[np.int64] = np.where(channels.max(0) > 0, channels.argmax(0) + 1, 0)
    return found


def _described(image: ShownImage, levels: int) -> dict[str, Any]:
    described = image.grid.described() | {
        "role": image.role,
        "name": printable(image.name),
        "image": embedded_image(image.grid, image.data, image.window, levels=levels),
    }
    if image.labels is not None:
        described["labels"] = embedded_labels(image.grid, image.labels)
    return described
