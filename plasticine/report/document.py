"""A report as one file of HTML: pictures within it, no script, nothing from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from plasticine.report.drawing import BACKGROUND, GRID, MUTED, TEXT

_STYLE = f"""
body {{ background: {BACKGROUND}; color: {TEXT}; font: 15px/1.5 system-ui, sans-serif;
  margin: 0 auto; padding: 1.5rem; max-width: 124rem; }}
h1 {{ font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.05rem; margin: 0 0 0.4rem; }}
p {{ color: {MUTED}; margin: 0.2rem 0 1rem; }}
figure {{ margin: 0 0 1.5rem; overflow-x: auto; }}
img {{ display: block; width: 100%; min-width: 75rem; }}
.tables {{ columns: 30rem; column-gap: 3rem; }}
section {{ break-inside: avoid; margin-bottom: 1.5rem; overflow-x: auto; }}
.long {{ columns: 15rem; column-gap: 3rem; margin-top: 1.5rem; }}
.long section {{ break-inside: auto; overflow: visible; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.1rem 1rem 0.1rem 0;
  overflow-wrap: anywhere; }}
thead th, tbody th {{ color: {MUTED}; font-weight: normal; }}
tbody th {{ white-space: nowrap; }}
meter {{ width: 7rem; }}
.note {{ color: {GRID}; }}
@media print {{ body {{ background: white; color: black; }} }}
"""


class Markup(str):
    """Text that is HTML already."""


def write_document(
    path: Path,
    title: str,
    facts: str,
    pictures: Iterable[Path],
    sections: Iterable[Markup],
    long: Iterable[Markup] = (),
) -> None:
    """Writes a page that needs no other file.

    Args:
        path: ``.html``.
        title: Its heading.
        facts: A line below it.
        pictures: PNG files, to be held in the page.
        sections: What `table` and `notes` give, each to stand in one piece.
        long: Tables of many narrow rows, below them in as many columns as there is room for.

    Raises:
        OSError: A picture cannot be read, or the page cannot be written.
    """
    images = "".join(
        f'<figure><img alt="{_text(title)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture.read_bytes()).decode()}"></figure>\n'
        for picture in pictures
    )
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n<p>{_text(facts)}</p>\n{images}"
        f'<div class="tables">\n{"".join(sections)}</div>\n'
        f'<div class="long">\n{"".join(long)}</div>\n</body>\n</html>\n',
        encoding="utf-8",
    )


def table(heading: str, rows: Iterable[Sequence[Any]], columns: Sequence[str] = ()) -> Markup:
    """A table whose rows each begin with a name.

    Args:
        heading: Above it.
        rows: Text, numbers, lists of these, or `Markup`.
        columns: Names of the columns, that of the first included; none for two plain columns.

    Returns:
        A section of the page.
    """
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    body = "".join(f"<tr><th>{_text(name)}</th>{_cells(values)}</tr>\n" for name, *values in rows)
    return Markup(
        f"<section>\n<h2>{_text(heading)}</h2>\n<table>\n"
        + (f"<thead><tr>{head}</tr></thead>\n" if columns else "")
        + f"<tbody>\n{body}</tbody>\n</table>\n</section>\n"
    )


def meter(share: float) -> Markup:
    """A bar that is full at 1, and its number."""
    return Markup(f'<meter value="{share:.4f}"></meter> {share:.3f}')


def notes(texts: Iterable[str]) -> Markup:
    """What a reader must know; nothing where there is nothing."""
    items = "".join(f'<p class="note">{_text(text)}</p>\n' for text in texts)
    return Markup(f"<section>\n<h2>Notes</h2>\n{items}</section>\n" if items else "")


def _cells(values: Iterable[Any]) -> str:
    return "".join(f"<td>{_text(value)}</td>" for value in values)


def _text(value: Any) -> str:
    """A value as HTML: numbers short, lists with a line for each list in them."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value + 0.0:.4g}"  # no -0
    if isinstance(value, list):
        nested = any(isinstance(item, list) for item in value)
        return ("<br>" if nested else " ").join(_text(item) for item in value)
    return html.escape(str(value))
