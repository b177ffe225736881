"""An image or a stack of slices, as a file holds it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plasticine.io.orientation import axis_directions

Kind = Literal["nifti", "analyze", "mgh", "itk", "dicom", "array", "image"]
"""What a file is: "itk" is .mha, .mhd and .nrrd, "array" is .npy, "image" is a picture."""

KINDS_WITHOUT_SPACING: tuple[Kind, ...] = ("array", "image")
"""Those that know no millimetres: their images are pictures, not slices of one body."""


@dataclasses.dataclass(frozen=True)
class Volume:
    """An image as a file holds it, in the file's own axis order.

    Attributes:
        data: ``(X, Y, Z)``: a NIfTI file's three axes; ``(slices, rows, columns)`` of a
            stack; ``(rows, columns, 1)`` of a single picture, so that the first indices are the
            file's own. float32 where `read_volume` gives it, of the file's own element type
            where `read_stored` does.
        affine: float64 ``(4, 4)``, voxel index to millimetres (RAS+); None where the file has
            none.
        path: Where it was read from.
        kind: What the file is.
        stored_dtype: The element type in the file.
        stored_shape: The shape in the file.
        notes: What a reader of the result should know: assumptions and conversions.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64] | None
    path: Path
    kind: Kind
    stored_dtype: str
    stored_shape: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def placed(self, orientation: str) -> Volume:
        """Gives a volume that knows no millimetres a position in space.

        Voxels are taken to be 1 mm, the first voxel lies at the origin, and slices, rows and
        columns run where ``orientation`` says; a viewer then shows it upright, and voxels and
        millimetres are the same number.

        Args:
            orientation: Axis codes of (slice, row, column), as "SPR".

        Returns:
            The volume with an affine; itself where it has one already.
        """
        if self.affine is not None:
            return self
        slice_axis, row_axis, column_axis = axis_directions(orientation)
        single = len(self.stored_shape) == 2
        columns = (
            (row_axis, column_axis, slice_axis) if single else (slice_axis, row_axis, column_axis)
        )
        affine = np.eye(4)
        affine[:3, :3] = np.stack(columns, axis=1)
        note = f"no spacing in a {self.kind} file: outputs have 1 mm voxels, axes {orientation}"
        return dataclasses.replace(self, affine=affine, notes=(*self.notes, note))

    def as_float32(self) -> Volume:
        """The volume in float32, with a note where whole numbers were rounded.

        Raises:
            ValueError: It holds NaN or infinite values, or values beyond float32.
            TypeError: Its elements are no real numbers.
        """
        if self.data.dtype.kind not in "biuf":
            raise TypeError(f"{self.path}: expected real numbers, got {self.data.dtype}")
        # A value beyond float32 becomes infinite, and is refused below.
        with np.errstate(over="ignore", under="ignore"):
            values = np.ascontiguousarray(self.data, dtype=np.float32)
        bad = ~np.isfinite(values)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{self.path}: {int(bad.sum())} of {bad.size} voxels are NaN or infinite "
                f"(in float32), the first at {first}"
            )
        notes = self.notes
        wide = self.data.dtype.kind in "iu" and self.data.dtype.itemsize > 2
        if wide and (values != self.data).any():
            notes = (f"some {self.data.dtype} values were rounded to float32", *notes)
        return dataclasses.replace(self, data=values, notes=notes)


def from_array(data: NDArray[Any], path: Path, kind: Literal["array", "image"]) -> Volume:
    """A volume of an array without spacing: ``(rows, columns)`` or ``(slices, rows, columns)``.

    Raises:
        ValueError: The array has another number of axes.
    """
    if data.ndim not in (2, 3):
        raise ValueError(
            f"{path}: expected (rows, columns) or (slices, rows, columns), got shape {data.shape}"
        )
    return Volume(
        data=data[..., None] if data.ndim == 2 else data,
        affine=None,
        path=path,
        kind=kind,
        stored_dtype=str(data.dtype),
        stored_shape=tuple(data.shape),
    )
