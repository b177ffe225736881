"""Files of images, label maps, series and points, carried by files of transforms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plasticine import __version__
from plasticine.io.checks import named_errors
from plasticine.io.labels import whole_numbers
from plasticine.io.nifti import placement, read_data, read_header
from plasticine.io.nifti_writing import save_nifti, write_image, write_labels
from plasticine.io.orientation import PICTURE_ORIENTATION
from plasticine.io.points import read_points
from plasticine.io.reading import read_stored, read_volume
from plasticine.nn.output_folder import OutputFolder
from plasticine.transforms.carrying import (
    IMAGE_INTERPOLATIONS,
    carry_image,
    carry_labels,
    take_points,
)
from plasticine.transforms.ends import Ends
from plasticine.transforms.files import Step, read_chain
from plasticine.transforms.places import Advance, Grid
from plasticine.transforms.transform import Transform, simplified

LABEL_INTERPOLATIONS = {"label": "linear", "label-nearest": "nearest"}
_WITH_HEADER = (".nii", ".nii.gz", ".mgh", ".mgz")
# NIfTI's codes of a unit of time, in seconds.
_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}


def read_grid(path: Path) -> Grid:
    """The voxels of an image file; of NIfTI and FreeSurfer its header alone is read.

    A picture or a file without spacing is put where ITK has it: 1 mm, column and row along LPS+.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image.
    """
    if not path.name.lower().endswith(_WITH_HEADER):
        return Grid.of(read_stored(path).placed(PICTURE_ORIENTATION))
    with named_errors(path):
        header, _ = read_header(path)
        shape = [int(n) for n in header.get_data_shape()[:3]]
        x, y, z = (*shape, *[1] * (3 - len(shape)))
        return Grid((x, y, z), placement(path, header)[0])


def read_mask(path: Path, grid: Grid) -> NDArray[np.bool_]:
    """Where an image is more than 0.

    Args:
        path: The image.
        grid: The voxels that it must lie on.

    Returns:
        ``(X, Y, Z)``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, or of other voxels.
    """
    volume = read_volume(path).placed(PICTURE_ORIENTATION)
    if not Grid.of(volume).same_place(grid):
        raise ValueError(
            f"{path}: expected an image on the transform's voxels, {grid.shape}, got one of "
            f"{volume.data.shape} or of another place"
        )
    inside: NDArray[np.bool_] = volume.data > 0
    return inside


def carry_image_file(
    source: Path,
    output: Path,
    steps: Sequence[Step],
    *,
    reference: Path | None = None,
    spacing: float | None = None,
    interpolation: str = "linear",
    outside: float = 0.0,
    advance: Advance | None = None,
) -> None:
    """Pulls an image file onto other voxels, and writes it.

    Args:
        source: The moving image: a volume, a picture, or a NIfTI series, volume by volume.
        output: ``.nii`` or ``.nii.gz``.
        steps: The transforms, in the order in which a point of the reference goes through them.
        reference: The image whose voxels are filled; the source's own where only a spacing is
            given.
        spacing: Millimetres of the voxels, in place of the reference's.
        interpolation: Of `carry_image`; of a label map "label" or "label-nearest".
        outside: What stands where the transforms lead out of the image.
        advance: Is told of the progress.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Neither a reference nor a spacing is given, an option is none of those above,
            or a file is not what it should be.
    """
    if reference is None and spacing is None:
        raise ValueError("expected a reference image, or a spacing, for the voxels to be filled")
    known = (*IMAGE_INTERPOLATIONS, *LABEL_INTERPOLATIONS)
    if interpolation not in known:
        raise ValueError(
            f"interpolation: expected one of {', '.join(known)}; got {interpolation!r}"
        )
    if not output.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"{output}: expected a name that ends in .nii or .nii.gz")
    as_labels = interpolation in LABEL_INTERPOLATIONS
    if not as_labels and _is_series(source):
        volume, moving = None, read_grid(source)
    else:
        volume = read_stored(source) if as_labels else read_volume(source)
        moving = Grid.of(volume.placed(PICTURE_ORIENTATION))
    fixed = moving if reference is None else read_grid(reference)
    fixed = fixed if spacing is None else fixed.with_spacing(spacing)
    transform = simplified(read_chain(steps, Ends(fixed, moving)))
    done = ", ".join(_named(step) for step in steps) or "as is"
    onto = source.name if reference is None else reference.name
    whole = f"plasticine {__version__} warp: {source.name} pulled onto {onto} by {done}"
    note = whole.encode("utf-8", "backslashreplace").decode()
    with OutputFolder(output.parent, [output.name]) as folder:
        path = folder / output.name
        if volume is None:
            volumes, step = _carried_series(
                source, (moving, transform, fixed), interpolation, outside, advance
            )
            save_nifti(path, volumes, fixed.affine, note, time_step=step)
        elif as_labels:
            labels, _ = whole_numbers(volume.data, str(source))
            how = LABEL_INTERPOLATIONS[interpolation]
            warped = carry_labels(
                labels, moving, transform, fixed, interpolation=how, advance=advance
            )
            write_labels(path, warped, fixed.affine, description=note)
        else:
            image = carry_image(
                volume.data,
                moving,
                transform,
                fixed,
                interpolation=interpolation,
                outside=outside,
                advance=advance,
            )
            write_image(path, image, fixed.affine, description=note)


def carry_points_file(
    source: Path,
    output: Path,
    steps: Sequence[Step],
    *,
    reference: Path | None = None,
    moving: Path | None = None,
) -> int:
    """Takes points of the moving image to the fixed one, and writes them.

    They go through the inverses of the transforms, the last one first.

    Args:
        source: ``.csv``, ``.fcsv``, ``.vtk`` or ``.vtp``, millimetres along LPS+ axes.
        output: Of the same kind.
        steps: The transforms that carry images likewise.
        reference: The fixed image, of transforms that need it.
        moving: The moving image, likewise.

    Returns:
        How many points have no exact inverse; the file flags them as outside.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The kinds of file differ, or a file is not what it should be.
    """
    if output.suffix.lower() != source.suffix.lower():
        raise ValueError(f"{output}: expected a name that ends in {source.suffix}")
    ends = Ends(
        None if reference is None else read_grid(reference),
        None if moving is None else read_grid(moving),
    )
    back = [transform.inverse(ends.fixed) for transform in reversed(read_chain(steps, ends))]
    taken = take_points(read_points(source), back)
    with OutputFolder(output.parent, [output.name]) as folder:
        return taken.write(folder / output.name)


def _named(step: Step) -> str:
    file, inverse = step
    return f"{Path(file).name}{' inverted' if inverse else ''}"


def _is_series(path: Path) -> bool:
    if not path.name.lower().endswith(_WITH_HEADER):
        return False
    shape = read_header(path)[0].get_data_shape()
    return len(shape) == 4 and int(shape[3]) > 1


def _carried_series(
    source: Path,
    maps: tuple[Grid, Transform, Grid],
    interpolation: str,
    outside: float,
    advance: Advance | None,
) -> tuple[NDArray[np.float32], float]:
    """Each volume of a series for itself, ``(X, Y, Z, T)``, and the seconds between them."""
    moving, transform, fixed = maps
    header, data_path = read_header(source)
    data = read_data(source, header, data_path)
    if data.dtype.kind not in "biuf":
        raise TypeError(f"{source}: expected real numbers, got {data.dtype}")
    carried: NDArray[np.float32] = np.empty((*fixed.shape, data.shape[3]), np.float32)
    for time in range(data.shape[3]):
        volume = np.ascontiguousarray(data[..., time], np.float32)
        carried[..., time] = carry_image(
            volume, moving, transform, fixed, interpolation=interpolation, outside=outside
        )
        if advance is not None:
            advance(time + 1, data.shape[3])
    unit = _SECONDS.get(int(header["xyzt_units"]) & 56, 1.0) if "xyzt_units" in header else 1e-3
    return carried, float(header.get_zooms()[3]) * unit
