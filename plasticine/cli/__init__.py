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

from plasticine.cli.errors import check_asked_to_end, check_device, clear_errors
from plasticine.cli.options import Debug, Device, Report, console, path
from plasticine.cli.progress import checking_progress, progress, training_progress
from plasticine.cli.registering import register
from plasticine.cli.reporting import report
from plasticine.cli.transform_options import TakesTransforms
from plasticine.cli.transforming import compose, convert, exponential, invert, jacobian, warp

app = typer.Typer(
    help="Traceable medical image translation and registration: what moved, what was recoloured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Seed = Annotated[int, typer.Option(help="Seed of the noise, at most 2^48 - 1.", min=0)]
Steps = Annotated[
    int | None,
    typer.Option(help="Network runs of a sample; the model's own number if not given.", min=1),
]


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
    """Say what is installed, and which backends work here and why others do not."""
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
    """
    with clear_errors(debug):
        from plasticine.selfcheck import check, show

        with checking_progress() as advance:
            findings = check(operators, advance)
        agrees = show(findings, console())
    if not agrees:
        raise typer.Exit(1)


@app.command()
def translate(
    source: Annotated[
        Path,
        typer.Argument(
            parser=path,
            metavar="INPUT",
            help="Image or stack of slices: NIfTI, Analyze, FreeSurfer, MetaImage, NRRD, .npy or "
            "picture file, or a folder of DICOM slices.",
        ),
    ],
    model: Annotated[str, typer.Option(help="Model file, or the name of a shipped one.")],
    output: Annotated[Path, typer.Option(parser=path, help="Folder for the results.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="Label map on the input's voxels, of a model that needs one."
        ),
    ] = None,
    deform: Annotated[
        bool,
        typer.Option(
            "--deform/--no-deform", help="--no-deform keeps the shape: intensities alone."
        ),
    ] = True,
    seed: Seed = 0,
    solver: Annotated[
        str | None,
        typer.Option(
            help="ddpm, ddim or dpm-solver++, of a flow euler or heun; "
            "the model's own if not given."
        ),
    ] = None,
    steps: Steps = None,
    samples: Annotated[int, typer.Option(help="How many samples are drawn.", min=1)] = 1,
    mirror: Annotated[
        bool | None,
        typer.Option(
            help="Draw every second pair of samples, the third and fourth first, of the mirrored "
            "image; the model's own if not given.",
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="Strength of classifier-free guidance, 1 for none; the model's own if not given."
        ),
    ] = None,
    start: Annotated[
        float | None,
        typer.Option(
            help="From how noisy an image: 1 is noise alone, less keeps some of the moved source; "
            "the model's own if not given."
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="Image of the target domain, on the input's voxels, to register to."
        ),
    ] = None,
    optimise: Annotated[
        bool,
        typer.Option(
            "--optimise",
            help="Instance optimisation: gradient descent from the network's deformation on this "
            "pair alone. Needs --reference.",
        ),
    ] = False,
    refine: Annotated[
        int, typer.Option(help="How often the deformation is refined while sampling.", min=0)
    ] = 0,
    slab: Annotated[
        int | None,
        typer.Option(
            help="Voxels of the slabs that take turns in memory, 0 for the whole at once; the "
            "model's own if not given.",
            min=0,
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            help="Voxels that neighbouring slabs share; the model's own if not given.", min=0
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of the denoiser's runs: float32, bfloat16 or float16.")
    ] = "float32",
    report: Report = False,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Translate an image, and write where every voxel of the result came from."""
    with clear_errors(debug):
        from plasticine.io import OutputFolder, read_volume, translate_volume
        from plasticine.registration.velocity import REFINEMENT
        from plasticine.report import EVALUATION_FILES, RESULT_FILES, print_results, write_results
        from plasticine.report.viewer import read_case, report_files, write_report
        from plasticine.translation import Sampling, Translator

        started = time.perf_counter()
        volume = read_volume(source)
        files = RESULT_FILES | report_files(report)
        with OutputFolder(output, files, EVALUATION_FILES | report_files(True)) as folder:
            check_device(device)
            translator = Translator.load(model, device=device)
            sampling = Sampling.of(
                translator.model,
                solver=solver,
                steps=steps,
                samples=samples,
                guidance=guidance,
                start=start,
                refine=refine,
                seed=seed,
                slab=slab,
                overlap=overlap,
                mirror=mirror,
                precision=precision,
            )
            with progress("translating") as advance:
                result = translate_volume(
                    translator,
                    volume,
                    labels=labels,
                    reference=reference,
                    deform=deform,
                    optimise=REFINEMENT if optimise else None,
                    sampling=sampling,
                    progress=advance,
                )
            model_file = Translator.shipped().get(model, Path(model))
            write_results(result, folder, model_file=model_file, structure=report)
            if report:
                write_report(read_case(folder), folder / "report.html")
            check_asked_to_end()
        print_results(result, output, time.perf_counter() - started, files)


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
    output: Annotated[Path, typer.Option(parser=path, help="Folder for the results.")] = Path(
        "plasticine-demo"
    ),
    seed: Seed = 0,
    steps: Steps = None,
    debug: Debug = False,
) -> None:
    """Translate real T1 brain slices to T2 with the shipped weights; needs no network."""
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
        Path, typer.Option(parser=path, help="Folder for the checkpoints and the model file.")
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


@app.command()
def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(parser=path, metavar="FOLDER", help="What `plasticine translate` wrote."),
    ],
    truth: Annotated[
        Path | None,
        typer.Option(parser=path, help="True image of the target domain, on the source's grid."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="Mask on the source's grid: figures inside it, too. Needs --truth."
        ),
    ] = None,
    erosion: Annotated[int, typer.Option(help="Voxels that the mask is eroded by.", min=0)] = 4,
    labels: Annotated[
        Path | None,
        typer.Option(parser=path, help="Label map of the source, carried by the deformation."),
    ] = None,
    target_labels: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="Label map of the translated image, to compare. Needs --labels."
        ),
    ] = None,
    target_folder: Annotated[
        Path | None,
        typer.Option(parser=path, help="Folder of target images: FID and KID of the slices."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(parser=path, help="Folder for the figures; FOLDER if not given.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure a translation: folds and, where they are given, truth, labels and target images."""
    with clear_errors(debug):
        from plasticine import report
        from plasticine.io import OutputFolder
        from plasticine.report.record import printable

        output = folder if output is None else output
        with progress("measuring") as advance:
            record = report.evaluate(
                folder,
                truth=truth,
                mask=mask,
                erosion=erosion,
                labels=labels,
                target_labels=target_labels,
                target_folder=target_folder,
                progress=advance,
            )
        with OutputFolder(output, report.EVALUATION_FILES) as temporary:
            report.write_evaluation(record, temporary)
            check_asked_to_end()
        terminal = console()
        terminal.print(report.table_of(record))
        for note in record["notes"]:
            terminal.print(f"Note: {note}", soft_wrap=True)
        figures = printable(output / "evaluation.json")
        terminal.print(f"Figures: {figures}", soft_wrap=True)


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
