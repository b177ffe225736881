"""``plasticine translate``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from plasticine.cli.cases import (
    Case,
    beside,
    find,
    images_within,
    names_of,
    own_device,
    share_of,
)
from plasticine.cli.cohort import run_all, run_one
from plasticine.cli.earlier import finished, read_record, request_of
from plasticine.cli.errors import SOME_FAILED, check_asked_to_end, check_device, clear_errors
from plasticine.cli.options import (
    COMPUTING,
    Debug,
    Device,
    DryRun,
    Jobs,
    Json,
    Overwrite,
    Part,
    Quiet,
    Report,
    Talk,
    path,
    some_input,
)

_SAMPLING = "How the image is drawn"
_MOVING = "How the shape may change"
_RECORD = "trace.json"

Seed = Annotated[
    int,
    typer.Option(
        help="Seed of the random noise, at most 2^48 - 1. The same seed gives the same result.",
        min=0,
        rich_help_panel=_SAMPLING,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="How often the network refines the image: more takes longer. The model's own number "
        "if not given.",
        min=1,
        rich_help_panel=_SAMPLING,
    ),
]


@dataclasses.dataclass
class Translating:
    """The translation of a case, with what all cases have in common."""

    model: str
    device: str
    overwrite: bool
    report: bool
    several: bool
    labels: Path | None
    reference: Path | None
    deform: bool
    optimise: bool
    sampling: dict[str, Any]

    doing = "translating"
    table = "translations.csv"

    def __post_init__(self) -> None:
        self._loaded: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}  # each process loads the model itself

    def prepare(self) -> None:
        """Loads the model, and refuses sampling options that do not suit it."""
        from plasticine.translation import Sampling, Translator

        if self._loaded is None:
            check_device(self.device)
            translator = Translator.load(self.model, device=self.device)
            sampling = Sampling.of(translator.model, **self.sampling)
            self._loaded = translator, sampling

    def columns(self) -> dict[str, str]:
        """The figures of the table on the terminal."""
        return {
            "folds": "folding.folds",
            "largest displacement, mm": "metrics.displacement_max_mm",
            "seconds": "seconds",
        }

    def figures(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record's figures."""
        from plasticine.report.record import figures_of

        folding = ("folds", "fraction", "minimum", "maximum", "sd_log_jacobian")
        groups = {"seconds": None, "folding": folding, "metrics": None, "domain_check": ("inside",)}
        return {"input": record["input"]["file"]} | figures_of(record, groups)

    def recorded(self, case: Case) -> dict[str, Any] | None:
        """The record in the case's folder."""
        return read_record(case.folder, _RECORD)

    def finished(self, case: Case) -> dict[str, Any] | None:
        """The record, where the case was translated in the same way."""
        if self.overwrite or not case.folder.is_dir():
            return None
        return finished(case.folder, _RECORD, self._results(), self._request(case))

    def _results(self) -> dict[str, str]:
        from plasticine.report import result_files
        from plasticine.report.viewer import report_files

        return result_files(self.sampling["samples"]) | report_files(self.report)

    def _model_file(self) -> Path:
        from plasticine.translation import Translator

        return Translator.shipped().get(self.model, Path(self.model))

    def _beside(self, case: Case) -> dict[str, Path | None]:
        return {
            name: beside(given, case.inputs[0], f"--{name}", several=self.several)
            for name, given in (("labels", self.labels), ("reference", self.reference))
        }

    def _request(self, case: Case) -> dict[str, Any]:
        files = {"input": case.inputs[0], "model": self._model_file()} | self._beside(case)
        options = self.sampling | {"deform": self.deform, "optimise": self.optimise}
        return request_of(files, options)

    def run(
        self, case: Case, advance: Callable[[int, int], None], show: Console | None = None
    ) -> dict[str, Any]:
        """Translates the case."""
        from plasticine.io import OutputFolder, read_volume, translate_volume
        from plasticine.registration.velocity import REFINEMENT
        from plasticine.report import (
            EVALUATION_FILES,
            OPTIONAL_FILES,
            print_results,
            registration_files,
            write_results,
        )
        from plasticine.report.viewer import REPORT_FILE, read_case, report_files, write_report

        started = time.perf_counter()
        volume = read_volume(case.inputs[0])
        files = self._results()
        obsolete = {*EVALUATION_FILES, *OPTIONAL_FILES, *report_files(True)} - files.keys()
        if self.overwrite and (case.folder / "registration.json").is_file():
            obsolete |= registration_files(labels=True).keys() - files.keys()
        with OutputFolder(case.folder, files, obsolete) as folder:
            self.prepare()
            translator, sampling = self._loaded
            self.finished(case)  # which refuses a folder of other results
            result = translate_volume(
                translator,
                volume,
                **self._beside(case),
                deform=self.deform,
                optimise=REFINEMENT if self.optimise else None,
                sampling=sampling,
                progress=advance,
            )
            record = write_results(
                result,
                folder,
                model_file=self._model_file(),
                structure=self.report,
                request=self._request(case),
            )
            if self.report:
                write_report(read_case(folder), folder / REPORT_FILE)
            check_asked_to_end()
        if show is not None:
            seconds = time.perf_counter() - started
            print_results(result, case.folder, seconds, files, show)
        return record


def translate(
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            show_default=False,
            callback=some_input,
            help="Image or stack of slices: NIfTI, Analyze, FreeSurfer, MetaImage, NRRD, .npy or "
            "picture file, or a folder of DICOM slices. Or several: files, folders of images or "
            "of DICOM series, patterns in quotes such as 'data/*/t1.nii.gz'.",
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", is_eager=True, help="The same as INPUT. May be repeated."),
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="Model file, or a name that `plasticine models` lists."),
    ] = ...,  # type: ignore[assignment]
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=path,
            help="Folder for the results; of several inputs with a folder in it for each.",
        ),
    ] = ...,  # type: ignore[assignment]
    overwrite: Overwrite = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Label map on the input's voxels, for a model that needs one; of several inputs "
            "a folder with a file of the same name for each.",
        ),
    ] = None,
    deform: Annotated[
        bool,
        typer.Option(
            "--deform/--no-deform",
            help="--no-deform keeps the shape and changes intensities alone.",
            rich_help_panel=_MOVING,
        ),
    ] = True,
    reference: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Image of the target kind, on the input's voxels, whose shape the result is to "
            "have; of several inputs a folder, as for --labels.",
            rich_help_panel=_MOVING,
        ),
    ] = None,
    optimise: Annotated[
        bool,
        typer.Option(
            "--optimise",
            help="Improve the deformation to the reference for this pair alone; slower, more "
            "accurate. Needs --reference.",
            rich_help_panel=_MOVING,
        ),
    ] = False,
    refine: Annotated[
        int,
        typer.Option(
            help="How often the deformation is found anew while the image is drawn.",
            min=0,
            rich_help_panel=_MOVING,
        ),
    ] = 0,
    seed: Seed = 0,
    solver: Annotated[
        str | None,
        typer.Option(
            help="Method that turns noise into an image: ddpm, ddim or dpm-solver++ for a "
            "diffusion model, euler or heun for a flow model. The model's own if not given.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    steps: Steps = None,
    samples: Annotated[
        int,
        typer.Option(
            help="How many images are drawn and averaged. From 2 on, uncertainty.nii.gz says how "
            "much they differ.",
            min=1,
            rich_help_panel=_SAMPLING,
        ),
    ] = 1,
    mirror: Annotated[
        bool | None,
        typer.Option(
            help="Draw half of the samples from the mirrored image and mirror them back; it takes "
            "effect from 3 samples on. The model's own if not given.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="How strictly the image follows the input's structure; 1 is plain. The model's "
            "own if not given.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    start: Annotated[
        float | None,
        typer.Option(
            help="How much noise the drawing begins from, above 0 to 1. 1 is noise alone; less "
            "keeps some of the input's own look. The model's own if not given.",
            rich_help_panel=_SAMPLING,
        ),
    ] = None,
    slab: Annotated[
        int | None,
        typer.Option(
            help="Voxels of the slabs that a large volume is cut into, to save memory; 0 for no "
            "slabs. The model's own if not given.",
            min=0,
            rich_help_panel=COMPUTING,
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            help="Voxels that neighbouring slabs share. The model's own if not given.",
            min=0,
            rich_help_panel=COMPUTING,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="Of the network's arithmetic: float32, bfloat16 or float16.",
            rich_help_panel=COMPUTING,
        ),
    ] = "float32",
    report: Report = False,
    device: Device = "cpu",
    jobs: Jobs = 1,
    part: Part = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Translate images, and write where every voxel of the results came from.

    φ, "phi", is the map that says so: the result at p shows what the input has at φ(p).

    One input's results lie in the output folder. Several inputs' lie in a folder each; those that
    are finished are skipped, a failure does not stop the others, and translations.csv has the
    figures of all. Under torchrun each process takes its share.

    Exit codes: 0 all done; 1 error; 2 wrong usage; 3 some of several inputs failed.

    For example:

      plasticine translate t1.nii.gz -m brain-t1-t2 -o out

      plasticine translate 'data/*/t1.nii.gz' -m brain-t1-t2 -o out --samples 8 --jobs 2
    """
    with clear_errors(debug):
        given = [*(source or ()), *(more or ())]
        found = find(given, images_within, output)
        several = found.several
        work = Translating(
            model=model,
            device=own_device(device),
            overwrite=overwrite,
            report=report,
            several=several,
            labels=labels,
            reference=reference,
            deform=deform,
            optimise=optimise,
            sampling={
                "solver": solver,
                "steps": steps,
                "samples": samples,
                "guidance": guidance,
                "start": start,
                "refine": refine,
                "seed": seed,
                "slab": slab,
                "overlap": overlap,
                "mirror": mirror,
                "precision": precision,
            },
        )
        talk = Talk(json=as_json, quiet=quiet, dry_run=dry_run, debug=debug)
        if not several:
            run_one(work, Case(output.name, (found.paths[0],), output), talk)
            return
        cases = [
            Case(name, (image,), output / name)
            for name, image in zip(names_of(found.paths), found.paths, strict=True)
        ]
        if run_all(work, cases, talk, share_of(part), jobs, output):
            raise typer.Exit(SOME_FAILED)
