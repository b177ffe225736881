"""``plasticine report``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from plasticine.cli.errors import check_asked_to_end, clear_errors
from plasticine.cli.options import Debug, console, path

if TYPE_CHECKING:
    from plasticine.report.viewer.index import Listed


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            parser=path,
            metavar="FOLDER...",
            help="What `plasticine translate` or `plasticine register` wrote, or a folder of such "
            "folders. Of several an index is written, too.",
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
    output: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="Folder for the index of several; what they lie in if not given."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write report.html: one file that shows both images, linked through φ, in any browser.

    It is made from the files of the folder and the images that they were made from. Of several
    folders each gets one, and index.html lists them all, with thumbnails and a table of metrics.
    """
    with clear_errors(debug):
        from plasticine.report.viewer import REPORT_FILE

        cases = _cases(folders)
        if len(cases) == 1 and cases == folders:
            _write(cases[0], None, source=source, fixed=fixed, labels=labels)
            say_where(cases[0] / REPORT_FILE)
            return
        if source is not None or fixed is not None or labels is not None:
            raise ValueError(
                "--source, --fixed and --labels are of one folder; got several: "
                f"{', '.join(map(str, cases))}"
            )
        _write_all(cases, output or Path(os.path.commonpath([*map(Path.absolute, folders)])))


def say_where(page: Path, show: Console | None = None) -> None:
    """Prints where a report is, on standard output if not told otherwise."""
    from plasticine.report.record import printable

    (show or console()).print(f"Report: {printable(page)}", soft_wrap=True)


def _cases(folders: list[Path]) -> list[Path]:
    """Folders of results: those that were given, and those in folders that were given."""
    from plasticine.report.viewer import is_case

    found: list[Path] = []
    for folder in folders:
        inside = [folder] if is_case(folder) else []
        if not inside and folder.is_dir():
            inside = sorted(one for one in folder.iterdir() if is_case(one))
        if not inside:
            raise FileNotFoundError(
                f"{folder}: expected the folder of a translation or a registration, with "
                "trace.json or registration.json, or a folder of such folders"
            )
        found += inside
    return list(dict.fromkeys(found))


def _write(folder: Path, start: Path | None, **given: Any) -> Listed | None:
    """Writes the page of one folder; of several, what the index at ``start`` lists of it."""
    from plasticine.io import OutputFolder
    from plasticine.report.viewer import REPORT_FILE, read_case, write_report
    from plasticine.report.viewer.index import listed

    case = read_case(folder, **given)
    with OutputFolder(folder, [REPORT_FILE]) as temporary:
        write_report(case, temporary / REPORT_FILE)
        check_asked_to_end()
    if start is None:
        return None
    return listed(case, Path(os.path.relpath(folder / REPORT_FILE, start)).as_posix())


def _write_all(cases: list[Path], output: Path) -> None:
    """Writes all pages and the index; goes on where one cannot be written, and says so."""
    from plasticine.io import OutputFolder
    from plasticine.report.viewer.index import INDEX_FILE, write_index

    rows, failed = [], []
    for case in cases:
        try:
            rows.append(_write(case, output))
        except (OSError, ValueError, TypeError) as error:
            failed.append(f"{case}: {' '.join(str(error).split())}")
    with OutputFolder(output, [INDEX_FILE]) as temporary:
        write_index([row for row in rows if row is not None], temporary / INDEX_FILE)
        check_asked_to_end()
    say_where(output / INDEX_FILE)
    if failed:
        raise ValueError(f"{len(failed)} of {len(cases)} have no report: {'; '.join(failed)}")
