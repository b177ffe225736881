"""``plasticine report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plasticine.cli.errors import check_asked_to_end, clear_errors
from plasticine.cli.options import Debug, console, path


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=path,
            metavar="FOLDER",
            help="What `plasticine translate` or `plasticine register` wrote.",
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="The translated or moved image, if it is no longer where it was."
        ),
    ] = None,
    fixed: Annotated[
        Path | None,
        typer.Option(parser=path, help="The image that it was registered to, likewise."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="Label map on the source's voxels: its outlines, carried by φ."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write report.html: one file that shows both images, linked through φ, in any browser."""
    with clear_errors(debug):
        from plasticine.io import OutputFolder
        from plasticine.report.viewer import REPORT_FILE, read_case, write_report

        case = read_case(folder, source=source, fixed=fixed, labels=labels)
        with OutputFolder(folder, [REPORT_FILE]) as temporary:
            write_report(case, temporary / REPORT_FILE)
            check_asked_to_end()
        say_where(folder / REPORT_FILE)


def say_where(page: Path) -> None:
    """Prints where a report is."""
    from plasticine.report.record import printable

    console().print(f"Report: {printable(page)}", soft_wrap=True)
