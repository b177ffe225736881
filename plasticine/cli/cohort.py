"""A list of cases, run one after another or several at a time: table, CSV, exit code."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import typer
from rich.console import Console
from rich.table import Table

from plasticine.cli.cases import Case
from plasticine.cli.errors import check_asked_to_end, in_one_line, is_expected
from plasticine.cli.options import Talk, console
from plasticine.cli.progress import progress

MOST_ROWS = 40
"""Rows of the table at the end; of longer lists it shows the failures, and the CSV all."""


class Work(Protocol):
    """What is done to each case; it can be pickled, for other processes."""

    doing: str
    table: str

    def prepare(self) -> None:
        """Loads what all cases need, and refuses options that suit none of them."""

    def finished(self, case: Case) -> dict[str, Any] | None:
        """The record of a case that was finished earlier, by the same request.

        Raises:
            FileExistsError: Its folder holds other results, which are not to be overwritten.
        """

    def run(
        self, case: Case, advance: Callable[[int, int], None], show: Console | None = None
    ) -> dict[str, Any]:
        """Does the work, writes the case's folder, prints it where asked; gives its record."""

    def figures(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record's figures by name, for one line of a table."""

    def columns(self) -> Mapping[str, str]:
        """Heading and name of each figure that the table on the terminal shows."""

    def recorded(self, case: Case) -> dict[str, Any] | None:
        """The record that lies in a case's folder, of whichever request; None without one."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: The case.
        status: "done", "skipped" (it was finished earlier), "failed", or "planned" in a dry run.
        seconds: It took.
        figures: Of its record.
        error: Why it failed, in one line.
    """

    case: Case
    status: str
    seconds: float = 0.0
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: str = ""

    def as_line(self) -> dict[str, Any]:
        """As a line of ``--json``."""
        from plasticine.report.record import as_plain

        line = {
            "case": self.case.name,
            "status": self.status,
            "inputs": list(self.case.inputs),
            "folder": self.case.folder,
            "seconds": round(self.seconds, 3),
            "figures": dict(self.figures),
        }
        plain = as_plain(line | ({"error": self.error} if self.error else {}))
        assert isinstance(plain, dict)
        return plain


def run_one(work: Work, case: Case, talk: Talk) -> None:
    """Runs the one case that a command was given; an error is the command's."""
    if talk.dry_run:
        _tell(_planned(work, case), talk)
        return
    began = time.perf_counter()
    with progress(work.doing, quiet=talk.quiet) as advance:
        record = work.run(case, advance, talk.results())
    if talk.json:
        seconds = time.perf_counter() - began
        _tell(Outcome(case, "done", seconds, work.figures(record)), talk)


def run_all(
    work: Work, cases: Sequence[Case], talk: Talk, share: slice, jobs: int, output: Path
) -> int:
    """Runs a process's share of the cases, and tells at the end what became of them.

    Args:
        work: What is done to each.
        cases: All cases, those of other processes, too: the CSV is of all.
        talk: What is printed.
        share: Which of them are this process's.
        jobs: How many are worked on at a time, each in a process of its own.
        output: The folder of all results, where the CSV is written.

    Returns:
        How many failed.
    """
    own = cases[share]
    outcomes: list[Outcome] = []
    source: Iterator[Outcome]
    if talk.dry_run:
        source = (_planned(work, case) for case in own)
    else:
        work.prepare()
        source = _in_turn(work, own, talk) if jobs == 1 else _at_a_time(work, own, jobs, talk)
    for outcome in source:
        outcomes.append(outcome)
        _tell(outcome, talk)
        if not (talk.json or talk.dry_run or talk.quiet):
            reason = f": {outcome.error}" if outcome.error else ""
            done = f"{len(outcomes)}/{len(own)}"
            typer.echo(f"{done} {outcome.case.name} {outcome.status}{reason}", err=True)
    counts = {status: sum(o.status == status for o in outcomes) for status in _STATUSES}
    table = output / work.table
    if not talk.dry_run:
        write_table(work, cases, outcomes, table)
    if talk.json:
        counted = {"cases": len(own)} | {s: n for s, n in counts.items() if n}
        typer.echo(json.dumps(counted if talk.dry_run else counted | {"table": str(table)}))
    elif not talk.quiet:
        _print_table(work, outcomes, counts)
        if not talk.dry_run:
            console().print(f"Figures of all cases: {table}", soft_wrap=True)
    return counts["failed"]


_STATUSES = ("done", "skipped", "planned", "failed")


def _planned(work: Work, case: Case) -> Outcome:
    """What would become of a case, by the names of its files alone."""
    missing = [path for path in (*case.inputs, *case.options.values()) if not path.exists()]
    if missing:
        return Outcome(case, "failed", error=f"{missing[0]}: no such file")
    try:
        record = work.finished(case)
    except (OSError, ValueError) as error:
        return Outcome(case, "failed", error=in_one_line(error))
    return Outcome(case, "planned" if record is None else "skipped")


def _in_turn(work: Work, cases: Sequence[Case], talk: Talk) -> Iterator[Outcome]:
    for index, case in enumerate(cases, start=1):
        title = f"{work.doing} {case.name} ({index} of {len(cases)})"
        with progress(title, quiet=talk.quiet) as advance:
            yield _outcome(work, case, advance, raising=talk.debug)


def _outcome(
    work: Work, case: Case, advance: Callable[[int, int], None], *, raising: bool = False
) -> Outcome:
    began = time.perf_counter()
    try:
        record = work.finished(case)
        if record is not None:
            return Outcome(case, "skipped", figures=work.figures(record))
        record = work.run(case, advance)
    except Exception as error:
        if raising:
            raise
        message = in_one_line(error)
        if not is_expected(error):  # a defect: its kind tells more than its words
            message = f"{type(error).__name__}: {message}"
        return Outcome(case, "failed", time.perf_counter() - began, error=message)
    return Outcome(case, "done", time.perf_counter() - began, work.figures(record))


_work: Work | None = None  # of a process of `_at_a_time`


def _begin(work: Work, threads: int) -> None:
    """Prepares a process of `_at_a_time`; a request to end is the first process's to answer."""
    import torch

    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _work = work


def _work_on(case: Case) -> Outcome:
    assert _work is not None
    return _outcome(_work, case, lambda done, total: None)


def _at_a_time(work: Work, cases: Sequence[Case], jobs: int, talk: Talk) -> Iterator[Outcome]:
    """Each case in one of several processes, whose threads share the cores; as they end."""
    import torch

    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(
        min(jobs, max(1, len(cases))), get_context("spawn"), _begin, (work, threads)
    )
    try:
        running: dict[Future[Outcome], Case] = {pool.submit(_work_on, c): c for c in cases}
        with progress(f"{work.doing}, {jobs} at a time", quiet=talk.quiet) as advance:
            advance(0, len(cases))
            while running:
                ended, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                advance(len(cases) - len(running) + len(ended), len(cases))
                for future in ended:
                    case = running.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        yield Outcome(
                            case,
                            "failed",
                            error="its process was ended from outside (out of memory?); "
                            "the same command goes on with it",
                        )
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _tell(outcome: Outcome, talk: Talk) -> None:
    if talk.json:
        typer.echo(json.dumps(outcome.as_line(), ensure_ascii=False))
    elif talk.dry_run and not talk.quiet:
        inputs = " and ".join(map(str, outcome.case.inputs))
        reason = f" ({outcome.error})" if outcome.error else ""
        console().print(
            f"{outcome.status}{reason}: {inputs} -> {outcome.case.folder}", soft_wrap=True
        )


def _print_table(work: Work, outcomes: Sequence[Outcome], counts: Mapping[str, int]) -> None:
    from plasticine.report.record import printable

    shown = list(outcomes)
    if len(shown) > MOST_ROWS:
        shown = [outcome for outcome in shown if outcome.status == "failed"][:MOST_ROWS]
    counted = ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "nothing to do"
    table = Table(title=f"Plasticine: {counted}", title_justify="left")
    table.add_column("case", overflow="fold")
    table.add_column("status")
    for name in work.columns():
        table.add_column(name, justify="right", overflow="fold")
    for outcome in shown:
        values = [_shown(outcome.figures.get(name)) for name in work.columns().values()]
        if outcome.error:  # the reason was told as it happened, and is in the CSV
            values = ["-"] * len(values)
        table.add_row(printable(outcome.case.name), outcome.status, *values)
    console().print(table)
    for outcome in shown:
        if outcome.error:
            console().print(
                printable(f"failed: {outcome.case.name}: {outcome.error}"), soft_wrap=True
            )


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def write_table(work: Work, cases: Sequence[Case], outcomes: Sequence[Outcome], path: Path) -> None:
    """Writes a CSV of all cases: status, seconds, error and the figures of each.

    Several processes that share the cases each write it; whichever ends last has all of them. A
    failure in another process stays, as that process wrote it, until its case is done.

    Args:
        work: Whose figures they are.
        cases: All cases.
        outcomes: Of this process.
        path: The file.
    """
    from plasticine.nn.output_folder import taking_turns
    from plasticine.report.record import as_plain

    path.parent.mkdir(parents=True, exist_ok=True)
    by_name = {outcome.case.name: outcome for outcome in outcomes}
    with taking_turns(path.parent):
        failed = {}
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                failed = {r["case"]: r for r in csv.DictReader(file) if r.get("status") == "failed"}
        rows: list[dict[str, Any]] = []
        for case in cases:
            outcome = by_name.get(case.name)
            record = work.recorded(case)
            row = {"case": case.name, "status": "done", "folder": case.folder, "error": ""}
            if outcome is not None and outcome.status == "failed":
                row |= {"status": "failed", "error": outcome.error}
            elif record is not None:
                row |= work.figures(record)
            elif case.name in failed:
                row |= {"status": "failed", "error": failed[case.name]["error"]}
            else:
                row["status"] = "not done"
            plain = as_plain(row)
            assert isinstance(plain, dict)
            rows.append(plain)
        text = io.StringIO()
        columns = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text.getvalue(), encoding="utf-8")
        os.replace(temporary, path)
    check_asked_to_end()
