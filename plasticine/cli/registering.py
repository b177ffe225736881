"""``plasticine register``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from plasticine.cli.errors import check_asked_to_end, check_device, clear_errors
from plasticine.cli.options import Debug, Device, path
from plasticine.cli.progress import progress

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
    budget: Annotated[
        str, typer.Option(help="How long the deformation is looked for: fast, default or best.")
    ] = "default",
    metric: Annotated[
        str | None,
        typer.Option(
            help="lncc, mutual_information or mind; if not given, mutual information for the "
            "affine part and lncc for the deformation."
        ),
    ] = None,
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
    initial: Annotated[
        Path | None,
        typer.Option(parser=path, help="Where to begin: a 4 x 4 matrix as affine.txt has it."),
    ] = None,
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Bring one image to another, and write where every voxel went.

    The two may be of other sizes, spacings and directions; a slice goes to a slice.
    """
    with clear_errors(debug):
        from plasticine.io import OutputFolder, read_matrix, read_volume, register_volumes
        from plasticine.report import (
            LABELS_FILE,
            print_registration,
            registration_files,
            write_registration,
        )

        started = time.perf_counter()
        volumes = read_volume(moving), read_volume(fixed)
        matrix = None if initial is None else read_matrix(initial)
        files = registration_files(labels=moving_labels is not None)
        with OutputFolder(output, files, {LABELS_FILE} - files.keys()) as folder:
            check_device(device)
            with progress("registering") as advance:
                result = register_volumes(
                    *volumes,
                    transform=transform,
                    budget=budget,
                    metric=metric,
                    moving_mask=moving_mask,
                    fixed_mask=fixed_mask,
                    moving_labels=moving_labels,
                    fixed_labels=fixed_labels,
                    initial=matrix,
                    device=device,
                    progress=advance,
                )
            record = write_registration(result, folder)
            check_asked_to_end()
        print_registration(result, record, output, time.perf_counter() - started)
