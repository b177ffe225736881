"""``plasticine register``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from plasticine.cli.cases import Case, own_device, share_of
from plasticine.cli.cohort import run_all, run_one
from plasticine.cli.earlier import finished, read_record, request_of
from plasticine.cli.errors import SOME_FAILED, check_asked_to_end, check_device, clear_errors
from plasticine.cli.options import (
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
)
from plasticine.cli.pairs import PER_CASE, cases_of
from plasticine.cli.reporting import say_where

_POINTS = ".csv of columns x, y, z in ITK's millimetres (LPS+), .fcsv, or a surface, .vtk, .vtp."
_KINDS = "NIfTI, Analyze, FreeSurfer, MetaImage, NRRD, .npy or picture file, or a DICOM folder."
_RECORD = "registration.json"

_MAP = "The kind of map"
_DRIVES = "What is matched"
_BEGIN = "Where it begins"
_CARRIED = "What is carried along"


@dataclasses.dataclass
class Registering:
    """The registration of a case, with what all cases have in common.

    Attributes:
        network: Trained model that the deformation begins from.
        device: Of torch.
        overwrite: Whether other results are replaced.
        report: Whether the interactive page is written, too.
        files: Arguments of ``register_volumes`` that are files, of all cases.
        options: Its other arguments.
    """

    network: str | None
    device: str
    overwrite: bool
    report: bool
    files: dict[str, Any]
    options: dict[str, Any]

    doing = "registering"
    table = "registrations.csv"

    def __post_init__(self) -> None:
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_network": None}  # each process loads the model itself

    def prepare(self) -> None:
        """Loads the network, where there is one."""
        check_device(self.device)
        if self.network is not None and self._network is None:
            from plasticine.translation import Translator

            self._network = Translator.load(self.network, device=self.device)

    def columns(self) -> dict[str, str]:
        """The figures of the table on the terminal."""
        return {
            "LNCC before": "similarity.before.lncc",
            "after": "similarity.after.lncc",
            "mean Dice": "dice.mean",
            "folds": "folding.folds",
        }

    def figures(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record's figures."""
        from plasticine.report.record import figures_of

        folding = ("folds", "fraction", "minimum", "maximum", "sd_log_jacobian")
        groups = {
            "seconds": None,
            "similarity": None,
            "dice": None,
            "folding": folding,
            "displacement_beyond_affine": None,
            "inverse_consistency": None,
            "valid_fraction": None,
            "landmarks_mm": None,
        }
        files = {name: record[name]["file"] for name in ("moving", "fixed")}
        return files | figures_of(record, groups)

    def recorded(self, case: Case) -> dict[str, Any] | None:
        """The record in the case's folder."""
        return read_record(case.folder, _RECORD)

    def finished(self, case: Case) -> dict[str, Any] | None:
        """The record, where the case was registered in the same way."""
        if self.overwrite or not case.folder.is_dir():
            return None
        return finished(case.folder, _RECORD, self._results(case), self._request(case))

    def _of(self, case: Case) -> dict[str, Any]:
        return self.files | case.options

    def _results(self, case: Case) -> dict[str, str]:
        from plasticine.report import registration_files
        from plasticine.report.viewer import report_files

        files = self._of(case)
        return registration_files(
            labels=files["moving_labels"] is not None,
            moving_points=files["moving_points"],
            fixed_points=files["fixed_points"],
        ) | report_files(self.report, translation=False)

    def _request(self, case: Case) -> dict[str, Any]:
        files = {"moving": case.inputs[0], "fixed": case.inputs[1]}
        for name, given in self._of(case).items():
            several = given if isinstance(given, list) else [given]
            files |= {f"{name} {i}" if i else name: file for i, file in enumerate(several)}
        if self.network is not None:
            from plasticine.translation import Translator

            files["network"] = Translator.shipped().get(self.network, Path(self.network))
        return request_of(files, self.options)

    def run(
        self, case: Case, advance: Callable[[int, int], None], show: Console | None = None
    ) -> dict[str, Any]:
        """Registers the case."""
        from plasticine.io import OutputFolder, read_volume, register_volumes
        from plasticine.report import (
            EVALUATION_FILES,
            RESULT_FILES,
            optional_files,
            print_registration,
            write_registration,
        )
        from plasticine.report.viewer import REPORT_FILE, read_case, report_files, write_report

        started = time.perf_counter()
        moving, fixed = case.inputs
        volumes = read_volume(moving), read_volume(fixed)
        files = self._results(case)
        of_report = report_files(True, translation=False).keys()
        obsolete = (optional_files() | of_report) - files.keys()
        if self.overwrite and (case.folder / "trace.json").is_file():
            of_translation = RESULT_FILES | EVALUATION_FILES | report_files(True)
            obsolete |= of_translation.keys() - files.keys()
        with OutputFolder(case.folder, files, obsolete) as folder:
            self.prepare()
            self.finished(case)  # which refuses a folder of other results
            own = self._of(case) | self.options
            arguments: dict[str, Any] = {k: v for k, v in own.items() if v is not None}
            result = register_volumes(
                volumes[0],
                volumes[1],
                **arguments,
                network=self._network,
                device=self.device,
                progress=advance,
            )
            record = write_registration(result, folder, request=self._request(case))
            if self.report:
                write_report(read_case(folder), folder / REPORT_FILE)
            check_asked_to_end()
        if show is not None:
            seconds = time.perf_counter() - started
            print_registration(result, record, case.folder, seconds, show)
            if self.report:
                say_where(case.folder / REPORT_FILE, show)
        return record


def register(
    moving: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MOVING",
            show_default=False,
            help=f"Image to be moved: {_KINDS} Or several: files, folders, patterns in quotes.",
        ),
    ] = None,
    fixed: Annotated[
        Path | None,
        typer.Argument(
            parser=path,
            metavar="FIXED",
            show_default=False,
            help="Image that it is brought to, likewise; the last argument.",
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="The same as MOVING. May be repeated."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="In place of MOVING and FIXED a list of pairs: .csv with the columns moving and "
            "fixed, or .json with a list of objects of these keys. More columns: name, and "
            f"{', '.join(PER_CASE)}. Paths are relative to the list.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=path,
            help="Folder for the results; of several pairs with a folder in it for each.",
        ),
    ] = ...,  # type: ignore[assignment]
    overwrite: Overwrite = False,
    transform: Annotated[
        str, typer.Option(rich_help_panel=_MAP, help="deformable, affine, similarity or rigid.")
    ] = "deformable",
    method: Annotated[
        str,
        typer.Option(
            rich_help_panel=_MAP,
            help="Of the deformation: greedy, or velocity: in both directions alike, more regular "
            "and slower.",
        ),
    ] = "greedy",
    budget: Annotated[
        str,
        typer.Option(
            rich_help_panel=_MAP,
            help="How long the deformation is looked for: fast, default or best.",
        ),
    ] = "default",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=_DRIVES,
            help="lncc, mutual_information or mind; if not given, lncc, which suits any two "
            "modalities. Given again, the deformation follows all of them, each by its weight: "
            "--metric lncc --metric mind=0.5. mind@2 is of the second "
            "pair of images alone. sum_of_squares serves the deformation, too.",
        ),
    ] = None,
    moving_channel: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=_DRIVES,
            parser=path,
            help="A further image on MOVING's voxels, such as its T2. May be given again.",
        ),
    ] = None,
    fixed_channel: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=_DRIVES,
            parser=path,
            help="What it is compared with, on FIXED's voxels; as many, in order.",
        ),
    ] = None,
    rotations: Annotated[
        int,
        typer.Option(
            rich_help_panel=_BEGIN,
            min=0,
            help="Begin from so many rotations, too, spread over all of them: of images that may "
            "be turned in any way. 60 leave no turn further than 61 degrees from one.",
        ),
    ] = 0,
    moving_mask: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_DRIVES,
            parser=path,
            help="Mask on MOVING's voxels: more than 0 counts.",
        ),
    ] = None,
    fixed_mask: Annotated[
        Path | None,
        typer.Option(rich_help_panel=_DRIVES, parser=path, help="Mask on FIXED's voxels."),
    ] = None,
    moving_labels: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_CARRIED,
            parser=path,
            help="Label map on MOVING's voxels, to be carried to FIXED.",
        ),
    ] = None,
    fixed_labels: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_CARRIED,
            parser=path,
            help="Label map on FIXED's voxels: Dice. Needs --moving-labels.",
        ),
    ] = None,
    labels_weight: Annotated[
        float,
        typer.Option(
            rich_help_panel=_DRIVES,
            help="More than 0: the two label maps drive the deformation, too, and count so many "
            "times as much as the images.",
        ),
    ] = 0.0,
    label_interpolation: Annotated[
        str,
        typer.Option(
            rich_help_panel=_CARRIED,
            help="linear, the label of the greatest linear weight, or nearest.",
        ),
    ] = "linear",
    moving_points: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_CARRIED,
            parser=path,
            help=f"Points of MOVING, to be carried to FIXED: {_POINTS}",
        ),
    ] = None,
    fixed_points: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_CARRIED, parser=path, help="Points of FIXED, to be carried to MOVING."
        ),
    ] = None,
    moving_landmarks: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_DRIVES,
            parser=path,
            help="Points of MOVING that show the same as those of FIXED in the same row: the "
            "affine stage begins at the map that fits them, and they pull the deformation. .csv "
            "as above, or .fcsv of 3D Slicer.",
        ),
    ] = None,
    fixed_landmarks: Annotated[
        Path | None,
        typer.Option(rich_help_panel=_DRIVES, parser=path, help="Points of FIXED, likewise."),
    ] = None,
    landmarks_weight: Annotated[
        float,
        typer.Option(
            rich_help_panel=_DRIVES, help="How strongly landmarks pull, beside the images."
        ),
    ] = 4.0,
    initial: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=_BEGIN,
            parser=path,
            help="Where to begin: an affine transform (.tfm, .txt or .mat of ITK and ANTs, or a "
            "text file of 4 x 4 numbers in RAS+), or a displacement field (.nii.gz). Given again, "
            "they are applied in their order, as --initial 1Warp.nii.gz --initial "
            "0GenericAffine.mat.",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_BEGIN,
            help="Trained model, a file or the name of a shipped one, of MOVING's kind of image to "
            "FIXED's: the deformation begins from what its registration network says.",
        ),
    ] = None,
    report: Report = False,
    device: Device = "cpu",
    jobs: Jobs = 1,
    part: Part = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Bring one image to another, and write where every voxel went.

    The two may be of other sizes, spacings and directions; a slice goes to a slice. φ, "phi", is
    the map that is found: the result at p shows what the moving image has at φ(p). Where φ turns
    space inside out it has a fold, which anatomy does not have.

    One pair's results lie in the output folder. Several pairs' lie in a folder each; those that
    are finished are skipped, a failure does not stop the others, and registrations.csv has the
    figures of all. Under torchrun each process takes its share.

    Exit codes: 0 all done; 1 error; 2 wrong usage; 3 some of several pairs failed.

    For example:

      plasticine register moving.nii.gz fixed.nii.gz -o out

      plasticine register 'heads/*.nii.gz' atlas.nii.gz -o out --moving-labels labels/ --jobs 2

      plasticine register --pairs pairs.csv -o out
    """
    with clear_errors(debug):
        files: dict[str, Any] = {
            "moving_channels": moving_channel or [],
            "fixed_channels": fixed_channel or [],
            "moving_mask": moving_mask,
            "fixed_mask": fixed_mask,
            "moving_labels": moving_labels,
            "fixed_labels": fixed_labels,
            "moving_points": moving_points,
            "fixed_points": fixed_points,
            "moving_landmarks": moving_landmarks,
            "fixed_landmarks": fixed_landmarks,
            "initial": initial or [],
        }
        options = {
            "transform": transform,
            "method": method,
            "budget": budget,
            "metric": metric or None,
            "rotations": rotations,
            "labels_weight": labels_weight,
            "label_interpolation": label_interpolation,
            "landmarks_weight": landmarks_weight,
        }
        given = [*(moving or ()), *(more or ())]
        cases, several = cases_of(given, fixed, pairs, output, files)
        work = Registering(network, own_device(device), overwrite, report, files, options)
        talk = Talk(json=as_json, quiet=quiet, dry_run=dry_run, debug=debug)
        if not several:
            run_one(work, cases[0], talk)
        elif run_all(work, cases, talk, share_of(part), jobs, output):
            raise typer.Exit(SOME_FAILED)
