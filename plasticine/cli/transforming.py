"""The commands that take transforms: warp, compose, invert, exponential, jacobian, convert."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plasticine.cli.errors import check_asked_to_end, clear_errors
from plasticine.cli.options import Debug, console, path
from plasticine.cli.progress import progress
from plasticine.cli.transform_options import (
    Fixed,
    InverseOfLast,
    Moving,
    OutputTransform,
    Transforms,
    check_not_read,
    steps_of,
)

if TYPE_CHECKING:
    from plasticine.transforms import Ends

_FILE = Annotated[str, typer.Argument(metavar="FILE", help="A transform, or FORMAT:FILE.")]


def warp(
    source: Annotated[
        Path,
        typer.Argument(
            parser=path,
            metavar="INPUT",
            help="What lies in the moving image: an image, a series of volumes, a label map, or "
            "points (.csv, .fcsv, .vtk, .vtp).",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", parser=path, help="File to write.", show_default=False)
    ],
    transform: Transforms = None,
    inverse: InverseOfLast = False,
    reference: Annotated[
        Path | None,
        typer.Option("-r", "--reference", parser=path, help="Image whose voxels are filled."),
    ] = None,
    spacing: Annotated[
        float | None,
        typer.Option(help="Millimetres of the voxels, where they are not to be the reference's."),
    ] = None,
    interpolation: Annotated[
        str,
        typer.Option(
            help="linear, nearest, cubic or bspline; of a label map label (the label of the "
            "greatest linear weight) or label-nearest."
        ),
    ] = "linear",
    outside: Annotated[
        float, typer.Option(help="What stands where the transforms lead out of the image.")
    ] = 0.0,
    moving: Moving = None,
    debug: Debug = False,
) -> None:
    """Carry an image, a label map or points from the moving to the fixed image.

    All transforms are applied with one interpolation. Points go the way that images go, by the
    inverses.

    plasticine warp image.nii.gz -r fixed.nii.gz -t warp.nii.gz -t affine.mat -o warped.nii.gz

    plasticine warp atlas.csv -t affine.tfm --inverse -o points.csv
    """
    with clear_errors(debug):
        from plasticine.io.points import POINT_SUFFIXES
        from plasticine.transforms import carry_image_file, carry_points_file

        del inverse  # it stands among the transforms
        steps = steps_of(transform)
        check_not_read(output, source, reference, moving, *(file for file, _ in steps))
        if source.suffix.lower() in POINT_SUFFIXES:
            off = carry_points_file(source, output, steps, reference=reference, moving=moving)
            if off:
                console().print(f"Note: {off} points have no exact inverse: flagged as outside")
        else:
            with progress("warping") as advance:
                carry_image_file(
                    source,
                    output,
                    steps,
                    reference=reference,
                    spacing=spacing,
                    interpolation=interpolation,
                    outside=outside,
                    advance=advance,
                )
        check_asked_to_end()


def compose(
    output: OutputTransform,
    transform: Transforms = None,
    inverse: InverseOfLast = False,
    fixed: Fixed = None,
    moving: Moving = None,
    debug: Debug = False,
) -> None:
    """Make one transform of several.

    In the order of warp. What is linear becomes one matrix; deformations become one field on the
    fixed image's voxels, or stay parts where the format has room for them (.h5).

    plasticine compose -t 1Warp.nii.gz -t 0GenericAffine.mat --fixed fixed.nii.gz -o whole.nii.gz
    """
    with clear_errors(debug):
        from plasticine.transforms import read_chain, simplified, write_transform

        del inverse  # it stands among the transforms
        steps = steps_of(transform)
        check_not_read(output, fixed, moving, *(file for file, _ in steps))
        ends = _ends(fixed, moving)
        whole = simplified(read_chain(steps, ends))
        with progress("composing") as advance:
            write_transform(output, whole, dataclasses.replace(ends, advance=advance))
        check_asked_to_end()


def invert(
    source: _FILE,
    output: OutputTransform,
    fixed: Fixed = None,
    moving: Moving = None,
    debug: Debug = False,
) -> None:
    """Write the inverse of a transform.

    A deformation's is a field on the moving image's voxels, or on its own where --moving is not
    given.

    plasticine invert displacement.nii.gz --moving moving.nii.gz -o inverse.nii.gz
    """
    with clear_errors(debug):
        from plasticine.transforms import DisplacementField, read_transform, write_transform

        check_not_read(output, source, fixed, moving)
        ends = _ends(fixed, moving)
        transform = read_transform(source, ends)
        back = ends.reversed()
        if back.fixed is None and isinstance(transform, DisplacementField):
            back = dataclasses.replace(back, fixed=transform.grid)
        with progress("inverting") as advance:
            inverse = transform.inverse(ends.fixed)
            write_transform(output, inverse, dataclasses.replace(back, advance=advance))
        check_asked_to_end()


def exponential(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="A stationary velocity field, or FORMAT:FILE.")
    ],
    output: OutputTransform,
    inverse: Annotated[bool, typer.Option("--inverse", help="Of the opposite velocity.")] = False,
    squarings: Annotated[int, typer.Option(min=0, help="Of scaling and squaring.")] = 7,
    fixed: Fixed = None,
    debug: Debug = False,
) -> None:
    """Write the displacement that following a velocity field for one unit of time comes to.

    plasticine exponential velocity.nii.gz -o displacement.nii.gz
    """
    with clear_errors(debug):
        from plasticine.transforms import (
            DisplacementField,
            VelocityField,
            read_transform,
            write_transform,
        )

        check_not_read(output, source, fixed)
        ends = _ends(fixed, None)
        velocity = read_transform(source, ends)
        if isinstance(velocity, DisplacementField):
            # Files of both look alike.
            velocity = VelocityField(velocity.displacement, velocity.grid, velocity.ndim)
        if not isinstance(velocity, VelocityField):
            raise ValueError(f"{source}: expected a field, got a transform of another kind")
        velocity = dataclasses.replace(velocity, squarings=squarings)
        with progress("following the velocity"):
            write_transform(output, velocity.inverse() if inverse else velocity, ends)
        check_asked_to_end()


def jacobian(
    source: _FILE,
    output: Annotated[
        Path, typer.Option("-o", "--output", parser=path, help="Folder for the results.")
    ],
    log: Annotated[
        bool, typer.Option("--log", help="Write the logarithm of the determinant.")
    ] = False,
    mask: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="Mask on the same voxels, more than 0 counts: measured besides."
        ),
    ] = None,
    fixed: Fixed = None,
    moving: Moving = None,
    debug: Debug = False,
) -> None:
    """Measure how a transform changes volumes, and where it folds.

    The Jacobian determinant J is the volume of the moving image that comes into one of the fixed:
    1 keeps it, less gathers, and where it is not positive the transform folds. A field is measured
    on its own voxels, or on those of --fixed.

    plasticine jacobian displacement.nii.gz -o jacobian
    """
    with clear_errors(debug):
        from plasticine.io import OutputFolder
        from plasticine.report import jacobian_files, print_jacobian, write_jacobian
        from plasticine.transforms import read_mask, read_transform
        from plasticine.transforms.files import format_named, named_file
        from plasticine.transforms.formats.format import as_field

        ends = _ends(fixed, moving)
        transform = read_transform(source, ends)
        file, _ = named_file(source)
        with progress("measuring") as advance:
            field = as_field(
                file, transform, dataclasses.replace(ends, advance=advance), "its kind"
            )
        own = getattr(transform, "grid", None)
        if field.ndim == 3 and 1 in field.grid.shape and (own is None or 1 not in own.shape):
            raise ValueError(
                f"{file}: how volumes change across one slice cannot be seen: expected a fixed "
                f"image of at least 2 voxels along each axis, got {field.grid.shape}"
            )
        inside = None if mask is None else read_mask(mask, field.grid)
        other = jacobian_files(log=not log).keys() - jacobian_files(log=log).keys()
        with OutputFolder(output, jacobian_files(log=log), other) as folder:
            record = write_jacobian(
                field,
                folder,
                name=file.name,
                format_name=format_named(source).title,
                log=log,
                mask=inside,
            )
            check_asked_to_end()
        print_jacobian(record, output)


def convert(
    source: _FILE,
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="File, or FORMAT:FILE.")],
    fixed: Fixed = None,
    moving: Moving = None,
    debug: Debug = False,
) -> None:
    """Write a transform in another format.

    What the other format cannot say is refused. Some need the images that the transform maps
    between.

    plasticine convert fsl:flirt.mat affine.tfm --fixed fixed.nii.gz --moving moving.nii.gz
    """
    with clear_errors(debug):
        from plasticine.transforms import read_transform, write_transform

        check_not_read(output, source, fixed, moving)
        ends = _ends(fixed, moving)
        transform = read_transform(source, ends)
        with progress("converting") as advance:
            write_transform(output, transform, dataclasses.replace(ends, advance=advance))
        check_asked_to_end()


def _ends(fixed: Path | None, moving: Path | None) -> Ends:
    """The images that are given, and what they are called."""
    from plasticine.transforms import Ends, read_grid

    return Ends(
        None if fixed is None else read_grid(fixed),
        None if moving is None else read_grid(moving),
        "fixed" if fixed is None else fixed.name,
        "moving" if moving is None else moving.name,
    )
