"""``plasticine register``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from plasticine.cli.errors import check_asked_to_end, check_device, clear_errors
from plasticine.cli.options import Debug, Device, Report, path
from plasticine.cli.progress import progress
from plasticine.cli.reporting import say_where

_POINTS = ".csv of columns x, y, z in ITK's millimetres (LPS+), .fcsv, or a surface, .vtk, .vtp."
_KINDS = "NIfTI, Analyze, FreeSurfer, MetaImage, NRRD, .npy or picture file, or a DICOM folder."


def register(
    moving: Annotated[
        Path,
        typer.Argument(parser=path, metavar="MOVING", help=f"Image to be moved: {_KINDS}"),
    ],
    fixed: Annotated[
        Path,
        typer.Argument(parser=path, metavar="FIXED", help="Image that it is brought to, likewise."),
    ],
    output: Annotated[Path, typer.Option(parser=path, help="Folder for the results.")],
    transform: Annotated[
        str, typer.Option(help="deformable, affine, similarity or rigid.")
    ] = "deformable",
    method: Annotated[
        str,
        typer.Option(
            help="Of the deformation: greedy, or velocity: in both directions alike, more regular "
            "and slower."
        ),
    ] = "greedy",
    budget: Annotated[
        str, typer.Option(help="How long the deformation is looked for: fast, default or best.")
    ] = "default",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="lncc, mutual_information or mind; if not given, lncc, which suits any two "
            "modalities. Given again, the deformation follows all of them, each by its weight: "
            "--metric lncc --metric mind=0.5. mind@2 is of the second "
            "pair of images alone. sum_of_squares serves the deformation, too."
        ),
    ] = None,
    moving_channel: Annotated[
        list[Path] | None,
        typer.Option(
            parser=path,
            help="A further image on MOVING's voxels, such as its T2. May be given again.",
        ),
    ] = None,
    fixed_channel: Annotated[
        list[Path] | None,
        typer.Option(
            parser=path, help="What it is compared with, on FIXED's voxels; as many, in order."
        ),
    ] = None,
    rotations: Annotated[
        int,
        typer.Option(
            min=0,
            help="Begin from so many rotations, too, spread over all of them: of images that may "
            "be turned in any way. 60 leave no turn further than 61 degrees from one.",
        ),
    ] = 0,
    moving_mask: Annotated[
        Path | None,
        typer.Option(parser=path, help="Mask on MOVING's voxels: more than 0 counts."),
    ] = None,
    fixed_mask: Annotated[
        Path | None, typer.Option(parser=path, help="Mask on FIXED's voxels.")
    ] = None,
    moving_labels: Annotated[
        Path | None,
        typer.Option(parser=path, help="Label map on MOVING's voxels, to be carried to FIXED."),
    ] = None,
    fixed_labels: Annotated[
        Path | None,
        typer.Option(parser=path, help="Label map on FIXED's voxels: Dice. Needs --moving-labels."),
    ] = None,
    labels_weight: Annotated[
        float,
        typer.Option(
            help="More than 0: the two label maps drive the deformation, too, and count so many "
            "times as much as the images."
        ),
    ] = 0.0,
    label_interpolation: Annotated[
        str,
        typer.Option(help="linear, the label of the greatest linear weight, or nearest."),
    ] = "linear",
    moving_points: Annotated[
        Path | None,
        typer.Option(parser=path, help=f"Points of MOVING, to be carried to FIXED: {_POINTS}"),
    ] = None,
    fixed_points: Annotated[
        Path | None, typer.Option(parser=path, help="Points of FIXED, to be carried to MOVING.")
    ] = None,
    moving_landmarks: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Points of MOVING that show the same as those of FIXED in the same row: the "
            "affine stage begins at the map that fits them, and they pull the deformation. .csv "
            "as above, or .fcsv of 3D Slicer.",
        ),
    ] = None,
    fixed_landmarks: Annotated[
        Path | None, typer.Option(parser=path, help="Points of FIXED, likewise.")
    ] = None,
    landmarks_weight: Annotated[
        float, typer.Option(help="How strongly landmarks pull, beside the images.")
    ] = 4.0,
    initial: Annotated[
        list[Path] | None,
        typer.Option(
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
            help="Trained model, a file or the name of a shipped one, of MOVING's kind of image to "
            "FIXED's: the deformation begins from what its registration network says."
        ),
    ] = None,
    report: Report = False,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Bring one image to another, and write where every voxel went.

    The two may be of other sizes, spacings and directions; a slice goes to a slice.
    """
    with clear_errors(debug):
        from plasticine.io import OutputFolder, read_volume, register_volumes
        from plasticine.report import (
            optional_files,
            print_registration,
            registration_files,
            write_registration,
        )
        from plasticine.report.viewer import read_case, report_files, write_report

        started = time.perf_counter()
        volumes = read_volume(moving), read_volume(fixed)
        files = registration_files(
            labels=moving_labels is not None,
            moving_points=moving_points,
            fixed_points=fixed_points,
        )
        files |= report_files(report, translation=False)
        obsolete = {*optional_files(), *report_files(True, translation=False)} - files.keys()
        with OutputFolder(output, files, obsolete) as folder:
            check_device(device)
            model = None
            if network is not None:
                from plasticine.translation import Translator

                model = Translator.load(network, device=device)
            with progress("registering") as advance:
                result = register_volumes(
                    *volumes,
                    transform=transform,
                    method=method,
                    budget=budget,
                    metric=metric or None,
                    rotations=rotations,
                    moving_channels=moving_channel or (),
                    fixed_channels=fixed_channel or (),
                    moving_mask=moving_mask,
                    fixed_mask=fixed_mask,
                    moving_labels=moving_labels,
                    fixed_labels=fixed_labels,
                    labels_weight=labels_weight,
                    label_interpolation=label_interpolation,
                    moving_points=moving_points,
                    fixed_points=fixed_points,
                    moving_landmarks=moving_landmarks,
                    fixed_landmarks=fixed_landmarks,
                    landmarks_weight=landmarks_weight,
                    initial=initial,
                    network=model,
                    device=device,
                    progress=advance,
                )
            record = write_registration(result, folder)
            if report:
                write_report(read_case(folder), folder / "report.html")
            check_asked_to_end()
        print_registration(result, record, output, time.perf_counter() - started)
        if report:
            say_where(output / "report.html")
