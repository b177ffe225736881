"""A page that lists several cases, with thumbnails and a table that can be sorted."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from plasticine.report.document import text_of
from plasticine.report.record import printable
from plasticine.report.viewer.case import Case, ShownImage
from plasticine.report.viewer.page import asset

INDEX_FILE = "index.html"
_THUMBNAIL = 72
"""Pixels, the height of one."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """A row of the index.

    Attributes:
        name: Of the case.
        link: Where its page is, from the folder of the index, its parts between slashes.
        thumbnails: HTML of the pictures of source and target.
        metrics: Name and value.
    """

    name: str
    link: str
    thumbnails: str
    metrics: dict[str, Any]


def listed(case: Case, link: str) -> Listed:
    """What the index has to say of a case.

    Args:
        case: What `read_case` gives.
        link: Where its page is, from the folder of the index.
    """
    name = printable(case.folder.resolve().name)
    pictures = "".join(_thumbnail(image, name) for image in (case.source, case.target))
    return Listed(name, link, pictures, {"images": printable(case.title)} | case.metrics)


def write_index(rows: Sequence[Listed], path: Path) -> None:
    """Writes the page.

    Args:
        rows: Of the cases.
        path: ``.html``.

    Raises:
        OSError: It cannot be written.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    heads = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{html.escape(name)}</button></th>'
        for name in ("case", *names)
    )
    parts = {
        "TITLE": f"{len(rows)} cases",
        "STYLE": asset("viewer.css"),
        "SCRIPT": asset("index.js"),
        "HEAD": f"<tr><th></th>{heads}</tr>",
        "ROWS": "\n".join(_row(row, names) for row in rows),
    }
    text = asset("index.html")
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    path.write_text(text, encoding="utf-8")


def _row(row: Listed, names: Sequence[str]) -> str:
    link = html.escape(quote(row.link))
    cells = "".join(_cell(row.metrics.get(name)) for name in names)
    return (
        f'<tr><td class="thumbnails"><a href="{link}" tabindex="-1" aria-hidden="true">'
        f'{row.thumbnails}</a></td><th scope="row"><a href="{link}">'
        f"{html.escape(row.name)}</a></th>{cells}</tr>"
    )


def _cell(value: Any) -> str:
    """A value, and the number that it is sorted by; the record's words for what is not finite."""
    number = ""
    if value in ("nan", "inf", "-inf"):
        number = str(value)
    elif isinstance(value, int | float) and math.isfinite(value):
        number = repr(float(value))
    return f'<td data-number="{number}">{text_of(value)}</td>'


def _thumbnail(image: ShownImage, name: str) -> str:
    """The axial slice through the middle of what is bright, as HTML."""
    turned = image.grid.turned(image.data)
    low, high = image.window
    bright = np.flatnonzero((turned > low + 0.1 * (high - low)).any((1, 2)))
    middle = turned[int(np.median(bright)) if bright.size else len(turned) // 2]
    grey = np.clip((middle - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    sizes = np.linalg.norm(image.grid.affine[:3, :3], axis=0)
    rows, columns = (
        sizes[axis] * n for axis, n in zip(image.grid.axes[1:], grey.shape, strict=True)
    )
    width = int(np.clip(round(_THUMBNAIL * columns / rows), 1, 4 * _THUMBNAIL))
    content = io.BytesIO()
    Image.fromarray(grey).resize((width, _THUMBNAIL)).save(content, "PNG")
    text = base64.b64encode(content.getvalue()).decode()
    alt = html.escape(f"{image.role} image of {name}")
    return (
        f'<img alt="{alt}" width="{width}" height="{_THUMBNAIL}" '
        f'src="data:image/png;base64,{text}">'
    )
