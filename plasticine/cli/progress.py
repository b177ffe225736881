"""Progress bars of the commands."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from plasticine.cli.errors import check_asked_to_end

LINE_EVERY = 60.0
"""Seconds between two lines of progress where there is no terminal."""


@contextlib.contextmanager
def progress(description: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; where that is no terminal, a line a minute."""
    with _bar(quiet) as bar:
        task = bar.add_task(description, total=None)
        state = [0, 0]

        def advance(done: int, total: int) -> None:
            check_asked_to_end()
            state[:] = done, total
            bar.update(task, completed=done, total=total)

        with contextlib.nullcontext() if quiet or not bar.disable else _lines(description, state):
            yield advance


@contextlib.contextmanager
def _lines(description: str, state: list[int]) -> Iterator[None]:
    """Writes how far the work is, from a thread: a step of the work may take longer than that."""
    began, ended = time.monotonic(), threading.Event()

    def write() -> None:
        while not ended.wait(LINE_EVERY):
            (done, total), seconds = state, time.monotonic() - began
            if not total:
                so_far = f"{_time(seconds)} so far"
            elif not done:
                so_far = f"0 of {total}, {_time(seconds)} so far"
            else:
                left = seconds / done * (total - done)
                so_far = f"{done} of {total}, {_time(seconds)} so far, about {_time(left)} left"
            typer.echo(f"{description}: {so_far}", err=True)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


@contextlib.contextmanager
def checking_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr; where that is no terminal, a line for each operator.

    So that it is known which one it was, should a kernel end the process.
    """
    with _bar() as bar:
        task = bar.add_task("checking", total=None)
        named: set[str] = set()

        def advance(operator: str, done: int, total: int) -> None:
            check_asked_to_end()
            bar.update(task, description=f"checking {operator}", completed=done, total=total)
            if bar.disable and operator not in named:
                named.add(operator)
                typer.echo(f"checking {operator}, {done}/{total}", err=True)

        yield advance


@contextlib.contextmanager
def training_progress() -> Iterator[
    tuple[
        Callable[[str, int, int, dict[str, float]], None],
        Callable[[str, int, int], None],
    ]
]:
    """A bar for each stage, and for reading files, on a terminal.

    Elsewhere a line on stderr every hundred steps.
    """
    with _bar() as bar:
        tasks: dict[str, TaskID] = {}

        def reading(what: str, done: int, total: int) -> None:
            check_asked_to_end()
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        def advance(stage: str, step: int, steps: int, values: dict[str, float]) -> None:
            check_asked_to_end()
            terms = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            if not bar.disable:
                if stage not in tasks:
                    tasks[stage] = bar.add_task(stage)
                bar.update(
                    tasks[stage], completed=step, total=steps, description=f"{stage}  {terms}"
                )
            elif step % 100 == 0 or step == steps:
                typer.echo(f"{stage} {step}/{steps}  {terms}", err=True)

        yield advance, reading


def _bar(quiet: bool = False) -> Progress:
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=hidden)
