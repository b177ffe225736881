"""Tables of a report in HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any


class Markup(str):
    """Text that is HTML already."""


def table(heading: str, rows: Iterable[Sequence[Any]], columns: Sequence[str] = ()) -> Markup:
    """A table whose rows each begin with a name.

    Args:
        heading: Above it.
        rows: Text, numbers, lists of these, or `Markup`.
        columns: Names of the columns, that of the first included; none for two plain columns.

    Returns:
        A section of the page.
    """
    head = "".join(f"<th>{text_of(name)}</th>" for name in columns)
    body = "".join(f"<tr><th>{text_of(name)}</th>{_cells(values)}</tr>\n" for name, *values in rows)
    return Markup(
        f"<section>\n<h2>{text_of(heading)}</h2>\n<table>\n"
        + (f"<thead><tr>{head}</tr></thead>\n" if columns else "")
        + f"<tbody>\n{body}</tbody>\n</table>\n</section>\n"
    )


def meter(share: float) -> Markup:
    """A bar that is full at 1, and its number."""
    return Markup(f'<meter value="{share:.4f}"></meter> {share:.3f}')


def notes(texts: Iterable[str]) -> Markup:
    """What a reader must know; nothing where there is nothing."""
    items = "".join(f'<p class="note">{text_of(text)}</p>\n' for text in texts)
    return Markup(f"<section>\n<h2>Notes</h2>\n{items}</section>\n" if items else "")


def _cells(values: Iterable[Any]) -> str:
    return "".join(f"<td>{text_of(value)}</td>" for value in values)


def text_of(value: Any) -> str:
    """A value as HTML: numbers short, lists with a line for each list in them."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value + 0.0:.4g}"  # no -0
    if isinstance(value, list):
        nested = any(isinstance(item, list) for item in value)
        return ("<br>" if nested else " ").join(text_of(item) for item in value)
    return html.escape(str(value))
