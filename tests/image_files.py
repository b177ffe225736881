"""Images and fields in files of other programs, for the tests of what reads them."""

from __future__ import annotations

import locale
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813 (its users' name for it)
from numpy.typing import NDArray

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns ITK's coordinates into NIfTI's, and back."""

SHAPE = (20, 22, 6)


def voxels(dtype: str = "int16") -> NDArray[Any]:
    """Of SHAPE, within 0 to 200."""
    return (200 * np.random.default_rng(0).random(SHAPE)).astype(dtype)


def random_image(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Within [0, 1]."""
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def oblique(
    spacing: tuple[float, ...] = (2.0, 1.5, 4.0), orientation: str = "RAS", unit: float = 1.0
) -> NDArray[np.float64]:
    """Turned by about 20 degrees about two axes, with axes as asked, far from the origin."""
    a, b = 0.3, -0.2
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])
    turn = turn @ np.array([[1.0, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    axes = nibabel.orientations.axcodes2ornt(tuple(orientation))
    affine = np.eye(4)
    affine[:3, :3] = turn @ nibabel.orientations.inv_ornt_aff(axes, (1, 1, 1))[:3, :3] * spacing
    affine[:3, 3] = (-31.0, 12.5, 70.0)
    affine[:3] *= unit
    return affine


def reoriented(image: Any, orientation: str) -> Any:
    """The same body, stored along other axes by nibabel."""
    before = nibabel.orientations.io_orientation(image.affine)
    after = nibabel.orientations.axcodes2ornt(tuple(orientation))
    return image.as_reoriented(nibabel.orientations.ornt_transform(before, after))


def save(
    path: Path,
    data: NDArray[Any],
    affine: NDArray[np.float64] | None = None,
    *,
    unit: str | int = "unknown",
    intent: int = 0,
    codes: int | None = None,
) -> Path:
    """Writes a NIfTI file of the array's own type; ``codes`` are those of both of its forms."""
    affine = np.eye(4) if affine is None else affine
    image = nibabel.Nifti1Image(data, affine, dtype=data.dtype)
    if codes is not None:
        image.set_sform(affine, code=codes)
        image.set_qform(affine, code=codes)
    if isinstance(unit, str):
        image.header.set_xyzt_units(unit, "sec")  # the unit of time shares the byte
    else:
        image.header["xyzt_units"] = unit
    image.header["intent_code"] = intent
    path.parent.mkdir(exist_ok=True)
    nibabel.save(image, path)
    return path


def itk_image(
    data: NDArray[Any], spacing: Any = None, origin: Any = None, *, vectors: bool = False
) -> Any:
    """SimpleITK's image of an array along its own axes, z first."""
    image = sitk.GetImageFromArray(data, isVector=vectors)
    if spacing is not None:
        image.SetSpacing([float(s) for s in spacing])
    if origin is not None:
        image.SetOrigin([float(o) for o in origin])
    return image


def write_itk(path: Path, data: NDArray[Any], *, compressed: bool = False, **place: Any) -> Path:
    """Writes an array along its own axes, z first."""
    sitk.WriteImage(itk_image(data, **place), str(path), compressed)
    return path


def write_oblique(path: Path, *, compressed: bool = False) -> None:
    """The volume, placed by ``oblique``."""
    lps = TO_RAS @ oblique()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = itk_image(voxels().T, spacing, lps[:3, 3])
    image.SetDirection((lps[:3, :3] / spacing).ravel())
    sitk.WriteImage(image, str(path), compressed)


def write_dicom(
    folder: Path,
    *,
    positions: list[NDArray[np.float64]] | None = None,
    series: str = "1.2.3.4",
    names: str = "{:02d}.dcm",
) -> Path:
    """A series of slices in files whose names run against their positions."""
    folder.mkdir(exist_ok=True)
    data, lps = voxels(), TO_RAS @ oblique()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / spacing
    if positions is None:
        positions = [lps[:3, 3] + z * lps[:3, 2] for z in range(SHAPE[2])]
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    language = locale.setlocale(locale.LC_ALL)
    for z, position in enumerate(positions):
        image = itk_image(data[:, :, z].T[None], spacing, position)
        image.SetDirection([float(d) for d in directions.ravel()])
        values = {
            "0008|0060": "MR",
            "0008|103e": f"slices of {series}",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0008|0018": f"{series}.{z + 1}",
            "0020|0013": str(z + 1),
            "0020|0032": "\\".join(f"{p:.10g}" for p in position),
            "0020|0037": "\\".join(f"{d:.12g}" for d in directions[:, :2].T.ravel()),
        }
        for key, value in values.items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / names.format(50 - z)))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, language)  # GDCM's writer sets "C"
    return folder
