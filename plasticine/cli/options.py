"""Options and output that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:1.")]
Report = Annotated[
    bool, typer.Option("--report", help="Write report.html, too: look through φ in a browser.")
]


def path(text: str | Path) -> Path:
    """A path as it was typed; an empty one would be the current folder, which nobody asked for."""
    if not str(text).strip():
        raise typer.BadParameter("expected a path, got an empty one")
    return Path(text)


def console() -> Console:
    """Shows text as it is, be there brackets or colons in a file's name."""
    return Console(highlight=False, markup=False, emoji=False)
