"""Options and output that commands share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from plasticine.cli.cases import check_part

COMPUTING = "Computing"
MANY = "Several cases"
PRINTING = "What is printed"

Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=PRINTING),
]
Device = Annotated[
    str,
    typer.Option(
        help="Where to compute: cpu, cuda (the GPU), or cuda:1 (the second one).",
        rich_help_panel=COMPUTING,
    ),
]
Report = Annotated[
    bool, typer.Option("--report", help="Write report.html, too: look through φ in a browser.")
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        help="How many cases are worked on at a time. They share the cores.",
        rich_help_panel=MANY,
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        callback=check_part,
        metavar="i/n",
        help="Do the i-th of n shares of the cases, for n machines that work at the same time.",
        rich_help_panel=MANY,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what an output folder holds. Without it, other results are left alone and "
        "cases that are finished are skipped.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        "-n",
        help="Say what would be done; compute and write nothing.",
        rich_help_panel=PRINTING,
    ),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one line of JSON for each case; all else goes to standard error.",
        rich_help_panel=PRINTING,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=PRINTING),
]


@dataclasses.dataclass(frozen=True)
class Talk:
    """What a command prints.

    Attributes:
        json: JSON lines alone on standard output.
        quiet: Errors alone.
        dry_run: What would be done, and nothing is done.
        debug: An error is raised with its traceback.
    """

    json: bool = False
    quiet: bool = False
    dry_run: bool = False
    debug: bool = False

    def results(self) -> Console | None:
        """Where a result is printed for people; None where it is not."""
        return None if self.json or self.quiet else console()


def path(text: str | Path) -> Path:
    """A path as it was typed; an empty one would be the current folder, which nobody asked for."""
    if not str(text).strip():
        raise typer.BadParameter("expected a path, got an empty one")
    return Path(text)


def console() -> Console:
    """Shows text as it is, be there brackets or colons in a file's name."""
    return Console(highlight=False, markup=False, emoji=False)


def some_input(context: typer.Context, given: list[str] | None) -> list[str] | None:
    """Refuses a command without an input, be it an argument or ``--input``; and empty ones."""
    both = [*(given or ()), *(context.params.get("more") or ())]
    if not both and not context.resilient_parsing:
        raise typer.BadParameter("Missing argument 'INPUT': give a file, or one by --input")
    for text in both:
        path(text)
    return given
