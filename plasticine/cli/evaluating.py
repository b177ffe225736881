"""``plasticine evaluate``."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from plasticine.cli.cases import Case, beside, find, names_of, results_within, share_of
from plasticine.cli.cohort import run_all, run_one
from plasticine.cli.earlier import read_record, request_of
from plasticine.cli.errors import SOME_FAILED, check_asked_to_end, clear_errors
from plasticine.cli.options import (
    Debug,
    DryRun,
    Jobs,
    Json,
    Overwrite,
    Part,
    Quiet,
    Talk,
    console,
    path,
    some_input,
)

_RECORD = "evaluation.json"
_TRUTH = "Comparison with the true image"
_LABELS = "Comparison of label maps"
COMPARISON = "comparison.csv"


@dataclasses.dataclass
class Evaluating:
    """The evaluation of a translation, with what all of them have in common."""

    files: dict[str, Path | None]
    target_folder: Path | None
    erosion: int
    several: bool
    overwrite: bool

    doing = "measuring"
    table = "evaluations.csv"

    def prepare(self) -> None:
        """Nothing is shared."""

    def columns(self) -> dict[str, str]:
        """The figures of the table on the terminal."""
        return {
            "folds": "deformation.folds",
            "PSNR": "truth.translated.psnr",
            "SSIM": "truth.translated.ssim",
            "mean Dice": "mean_of_labels.dice",
        }

    def figures(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record's figures."""
        from plasticine.report import figures

        found = {
            ".".join(part for part in (group, label, measure) if part): value
            for group, label, measure, value in figures(record)
            if not isinstance(value, list)
        }
        return {"translation": record["translation"]} | found

    def recorded(self, case: Case) -> dict[str, Any] | None:
        """The record in the case's folder."""
        return read_record(case.folder, _RECORD)

    def finished(self, case: Case) -> dict[str, Any] | None:
        """The record, where the translation was measured in the same way.

        Figures of other truths or labels are replaced: they are of the same translation.

        Raises:
            FileExistsError: They are of another translation.
        """
        record = None if self.overwrite else self.recorded(case)
        held = None if record is None else record.get("request")
        if not isinstance(held, dict):
            return None
        request = self._request(case)
        if held == request:
            return record
        if held["options"]["translation"] != request["options"]["translation"]:
            raise FileExistsError(
                f"{case.folder}: the folder holds figures of another translation, "
                f"{held['options']['translation']}; --overwrite replaces them"
            )
        return None

    def _of(self, case: Case) -> dict[str, Path | None]:
        return {
            name: beside(given, case.inputs[0], f"--{name.replace('_', '-')}", several=self.several)
            for name, given in self.files.items()
        }

    def _request(self, case: Case) -> dict[str, Any]:
        files = {"trace.json": case.inputs[0] / "trace.json", "target_folder": self.target_folder}
        options = {"translation": case.inputs[0].resolve(), "erosion": self.erosion}
        return request_of(files | self._of(case), options)

    def run(
        self, case: Case, advance: Callable[[int, int], None], show: Console | None = None
    ) -> dict[str, Any]:
        """Measures the case."""
        from plasticine import report
        from plasticine.io import OutputFolder
        from plasticine.report.record import printable

        record = report.evaluate(
            case.inputs[0],
            **self._of(case),
            erosion=self.erosion,
            target_folder=self.target_folder,
            progress=advance,
        )
        record["request"] = self._request(case)
        with OutputFolder(case.folder, report.EVALUATION_FILES) as temporary:
            self.finished(case)  # which refuses figures of another translation
            report.write_evaluation(record, temporary)
            check_asked_to_end()
        if show is not None:
            show.print(report.table_of(record))
            for note in record["notes"]:
                show.print(f"Note: {note}", soft_wrap=True)
            show.print(f"Figures: {printable(case.folder / _RECORD)}", soft_wrap=True)
        return record


def evaluate(
    folder: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER",
            show_default=False,
            callback=some_input,
            help="What `plasticine translate` wrote. Or several: folders, or a folder that holds "
            "them, or patterns in quotes.",
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", is_eager=True, help="The same as FOLDER. May be repeated."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            parser=path,
            help="Folder for the figures; of several translations with a folder in it for each. "
            "Each translation's own folder if not given.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Folder of translations of the same cases by another method: it is measured, "
            "too, and a paired permutation test says of each figure whether the two differ.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    truth: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            rich_help_panel=_TRUTH,
            help="True image of the target kind, on the source's grid; of several translations a "
            "folder with a file for each, named as its folder.",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            rich_help_panel=_TRUTH,
            help="Mask on the source's grid, or a folder of masks: figures inside it, too. Needs "
            "--truth.",
        ),
    ] = None,
    erosion: Annotated[
        int,
        typer.Option(help="Voxels that the mask is eroded by.", min=0, rich_help_panel=_TRUTH),
    ] = 4,
    target_folder: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            rich_help_panel=_TRUTH,
            help="Folder of any images of the target kind: how far the translated slices as a set "
            "are from theirs (Fréchet and kernel distance).",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            rich_help_panel=_LABELS,
            help="Label map of the source, or a folder of them, carried by the deformation.",
        ),
    ] = None,
    target_labels: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            rich_help_panel=_LABELS,
            help="Label map of the translated image, or a folder of them, to compare. Needs "
            "--labels.",
        ),
    ] = None,
    jobs: Jobs = 1,
    part: Part = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure translations: folds and, where they are given, truth, labels and target images.

    A fold is a voxel where the deformation turns space inside out (Jacobian determinant of 0 or
    less). SDlogJ, the standard deviation of the logarithm of the Jacobian determinant, says how
    unevenly the deformation shrinks and stretches; 0 is no change of volume anywhere.

    The terminal shows the mean of all labels and the worst five; evaluation.csv has all. Of
    several translations evaluations.csv has every figure of every case.

    Exit codes: 0 all done; 1 error; 2 wrong usage; 3 some of several translations failed.

    For example:

      plasticine evaluate out --truth t2.nii.gz --mask brain.nii.gz

      plasticine evaluate results/ --truth truths/ --against other_results/ -o figures
    """
    with clear_errors(debug):
        found = find([*(folder or ()), *(more or ())], _translations_within, Path(os.devnull))
        several = found.several or against is not None
        files = {"truth": truth, "mask": mask, "labels": labels, "target_labels": target_labels}
        work = Evaluating(files, target_folder, erosion, several, overwrite)
        talk = Talk(json=as_json, quiet=quiet, dry_run=dry_run, debug=debug)
        if not several:
            only = found.paths[0]
            run_one(work, Case(only.name, (only,), only if output is None else output), talk)
            return
        cases, place = _cases(found.paths, output, None if against is None else "first")
        failed = run_all(work, cases, talk, share_of(part), jobs, place)
        if against is not None:
            others = find([against], _translations_within, Path(os.devnull)).paths
            second, second_place = _cases(others, output, "second")
            failed += run_all(work, second, talk, share_of(part), jobs, second_place)
            if not talk.dry_run:
                _compare(work, cases, second, place if output is None else output, talk)
        if failed:
            raise typer.Exit(SOME_FAILED)


def _translations_within(folder: Path, output: Path) -> list[Path]:
    return results_within(folder, "trace.json")


def _cases(
    folders: Sequence[Path], output: Path | None, side: str | None
) -> tuple[list[Case], Path]:
    """The cases, and where their table goes; ``side`` tells two sets apart in one output."""
    if output is None:
        place = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    else:
        place = output if side is None else output / side
    named = zip(names_of(folders), folders, strict=True)
    return [
        Case(name, (folder,), folder if output is None else place / name) for name, folder in named
    ], place


def _compare(
    work: Evaluating, first: Sequence[Case], second: Sequence[Case], place: Path, talk: Talk
) -> None:
    """Compares the figures of the same cases by two methods, in a table and a CSV."""
    from plasticine.metrics import paired_test

    by_name = {case.name: case for case in second}
    values: dict[str, list[tuple[float, float]]] = {}
    for case in first:
        records = [
            None if of is None else work.recorded(of) for of in (case, by_name.get(case.name))
        ]
        if records[0] is None or records[1] is None:
            continue
        a, b = (work.figures(record) for record in records if record is not None)
        for name in a.keys() & b.keys():
            pair = a[name], b[name]
            numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in pair)
            if numbers and all(map(math.isfinite, pair)):
                values.setdefault(name, []).append(pair)
    if not values:
        raise ValueError("there is nothing to compare: no case has a name that both folders have")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("figure", "cases", "first", "second", "difference", "p_value"))
    table = Table(title="Paired comparison", title_justify="left")
    for name in ("figure", "cases", "first", "second", "difference", "p"):
        table.add_column(name, justify="left" if name == "figure" else "right", overflow="fold")
    for name in sorted(values):
        found = paired_test(*zip(*values[name], strict=True))
        row = dataclasses.astuple(found)
        writer.writerow((name, *row))
        if not name.startswith("labels."):  # of each label: in the CSV
            table.add_row(name, str(found.cases), *(f"{value:.4g}" for value in row[1:]))
    place.mkdir(parents=True, exist_ok=True)
    temporary = place / f".{COMPARISON}.{os.getpid()}"
    temporary.write_text(text.getvalue(), encoding="utf-8")
    os.replace(temporary, place / COMPARISON)
    if talk.json:
        typer.echo(json.dumps({"comparison": str(place / COMPARISON)}))
    elif not talk.quiet:
        console().print(table)
        console().print(f"Comparison: {place / COMPARISON}", soft_wrap=True)
