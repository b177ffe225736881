"""The command line: ``plasticine info | selfcheck | demo | train | translate | register | ...``.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from plasticine.cli.asking import models, where
from plasticine.cli.errors import check_device, clear_errors
from plasticine.cli.evaluating import evaluate
from plasticine.cli.options import Debug, Device, console, path
from plasticine.cli.progress import checking_progress, progress, training_progress
from plasticine.cli.registering import register
from plasticine.cli.reporting import report
from plasticine.cli.transform_options import TakesTransforms
from plasticine.cli.transforming import compose, convert, exponential, invert, jacobian, warp
from plasticine.cli.translating import Seed, Steps, translate

app = typer.Typer(
    help="Traceable medical image translation and registration: what moved, what was recoloured.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Runs the command line.

    What the terminal's encoding cannot show, such as the name of a file whose bytes are not
    UTF-8, is written as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="plasticine")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"plasticine {version('plasticine')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
def info(
    as_json: Annotated[
        bool, typer.Option("--json", help="Write JSON, as plasticine.info() has it.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Say what is installed, and which backends work here and why others do not.

    For example:

      plasticine info --json
    """
    with clear_errors(debug):
        import plasticine

        facts = plasticine.info()
        if as_json:
            typer.echo(json.dumps(facts, indent=2))
            return
        facts["backends"] = {
            name: "works" if reason is None else reason
            for name, reason in facts["backends"].items()
        }
        _print_facts(facts)


@app.command()
def selfcheck(
    operators: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OPERATOR]...", help="Operators to check; all if not given."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Check every operator on every backend of this machine against its definition.

    It takes under a minute, and longer where Triton has yet to compile its kernels. Exit code 1
    where something differs.

    For example:

      plasticine selfcheck warp folding
    """
    with clear_errors(debug):
        from plasticine.selfcheck import check, show

        with checking_progress() as advance:
            findings = check(operators, advance)
        agrees = show(findings, console())
    if not agrees:
        raise typer.Exit(1)


app.command()(translate)
app.command()(register)
app.command()(report)
app.command(cls=TakesTransforms)(warp)
app.command(cls=TakesTransforms)(compose)
app.command()(invert)
app.command()(exponential)
app.command()(jacobian)
app.command()(convert)


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=path, help="Folder for the results.")
    ] = Path("plasticine-demo"),
    seed: Seed = 0,
    steps: Steps = None,
    debug: Debug = False,
) -> None:
    """Translate real T1 brain slices to T2 with the shipped weights; needs no network.

    For example:

      plasticine demo -o demo
    """
    with clear_errors(debug):
        from plasticine.demo import SOURCE_FILE, run_demo
        from plasticine.report import RESULT_FILES, print_results

        started = time.perf_counter()
        with progress("translating") as advance:
            result, _ = run_demo(output, seed=seed, steps=steps, progress=advance)
        files = {SOURCE_FILE: "the T1 slices that were translated"} | RESULT_FILES
        print_results(result, output, time.perf_counter() - started, files)


@app.command()
def train(
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a TOML file.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", parser=path, help="Folder for the checkpoints and the model file."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            parser=path, envvar="PLASTICINE_DATA", help="Folder of the recipe's own images."
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Folder of images, as translate reads them, in place of the source's.",
        ),
    ] = None,
    target: Annotated[
        Path | None, typer.Option(parser=path, help="Folder of images in place of the target's.")
    ] = None,
    source_labels: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Folder of the source's label maps, where the recipe uses them: each named as "
            "its image, or so with _labels at the end.",
        ),
    ] = None,
    target_labels: Annotated[
        Path | None, typer.Option(parser=path, help="Folder of the target's label maps.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoints in the output folder.")
    ] = False,
    device: Device = "cpu",
    seed: Annotated[
        int, typer.Option(help="Seed of weights and random draws, at most 2^32 - 1.", min=0)
    ] = 0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Log to OUTPUT/tensorboard, too.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train a model from a recipe, on its own images or on those of two folders.

    A run that was cut off goes on with --resume. Losses are logged to OUTPUT/STAGE.csv. Several
    processes train together with: torchrun --nproc-per-node 2 -m plasticine train ...

    For example:

      plasticine train --recipe head-mr-ct --source mr/ --target ct/ -o trained
    """
    with clear_errors(debug):
        from plasticine import training
        from plasticine.report.record import printable
        from plasticine.training.processes import is_first

        started = time.perf_counter()
        check_device(device)
        with training_progress() as (advance, reading):
            model = training.train(
                recipe,
                data,
                output,
                source=source,
                target=target,
                source_labels=source_labels,
                target_labels=target_labels,
                resume=resume,
                device=device,
                seed=seed,
                tensorboard=tensorboard,
                progress=advance,
                reading=reading,
            )
        if not is_first():
            return
        seconds = time.perf_counter() - started
        trained = printable(model)
        console().print(f"Trained in {seconds:.0f} s: {trained}", soft_wrap=True)


app.command()(evaluate)
app.command()(where)
app.command()(models)


def _print_facts(facts: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _flatten(facts):
        table.add_row(name, value)
    console().print(table)


def _flatten(facts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name} ")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(str(item) for item in value) or "none"
        else:
            yield f"{prefix}{name}", "none" if value is None else str(value)
