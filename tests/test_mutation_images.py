"""Damaged images and fields: a reader gives a sound result, or says what is wrong with which file.

A new format needs a line in FORMATS.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from mutations import BARE, GZIP, PNG, Damage, Envelope, damages, read_or_refuse
from PIL import Image
from search_profiles import more_examples

from plasticine.io import READABLE_SUFFIXES, read_displacement, read_volume, write_displacement

SHAPE = (5, 4, 3)
AFFINE = np.array([[-2.0, 0, 0, 3], [0, 1.6, -1.2, 0], [0, 1.2, 1.6, -5], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Format:
    """A file format under test.

    Attributes:
        write: writes a small valid file, and maybe a second one of the same stem beside it.
        envelope: how its content is wrapped.
    """

    write: Callable[[Path], None]
    envelope: Envelope = BARE


def volume(dtype: str = "int16") -> np.ndarray:
    return np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)


def nifti(path: Path) -> None:
    image = nibabel.Nifti1Image(volume(), AFFINE)
    image.header.set_slope_inter(0.5, 3)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def nifti_pair(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(volume(), AFFINE), path)


def freesurfer(path: Path) -> None:
    nibabel.save(nibabel.MGHImage(volume("float32"), AFFINE), path)


def array(path: Path) -> None:
    np.save(path, volume())


def itk(path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume()), str(path), False)


def displacement_field(path: Path) -> None:
    field = np.stack([volume("float32") * scale for scale in (0.1, -0.2, 0.3)])
    write_displacement(path, field, AFFINE)


def picture(mode: str = "L", **options: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        page = Image.fromarray(volume("uint8")[:, :, 0] * 4).convert(mode)
        page.save(path, **options)

    return write


def pages(path: Path) -> None:
    """A TIFF of 16-bit pages."""
    first, *others = (Image.fromarray(page) for page in volume("uint16"))
    first.save(path, save_all=True, append_images=others)


FORMATS = {
    ".nii": Format(nifti),
    ".nii.gz": Format(nifti, GZIP),
    ".hdr": Format(nifti_pair),
    ".img": Format(nifti_pair),
    ".hdr.gz": Format(nifti_pair, GZIP),
    ".img.gz": Format(nifti_pair, GZIP),
    ".mgh": Format(freesurfer),
    ".mgz": Format(freesurfer, GZIP),
    ".npy": Format(array),
    ".mha": Format(itk),
    ".mhd": Format(itk),
    ".nrrd": Format(itk),
    ".nhdr": Format(itk),
    ".png": Format(picture(), PNG),
    ".jpg": Format(picture()),
    ".jpeg": Format(picture("RGB")),
    ".bmp": Format(picture()),
    ".tif": Format(pages),
    ".tiff": Format(picture(compression="tiff_deflate")),
}


def test_every_format_is_among_them() -> None:
    assert set(READABLE_SUFFIXES) <= set(FORMATS)


@pytest.mark.parametrize("suffix", READABLE_SUFFIXES)
def test_what_is_damaged_is_valid(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"whole{suffix}"
    FORMATS[suffix].write(path)
    assert read_volume(path).data.size in (np.prod(SHAPE), np.prod(SHAPE[:2]))


@pytest.mark.parametrize("suffix", READABLE_SUFFIXES)
@more_examples
@given(damage=damages, inside=st.booleans(), second=st.booleans())
def test_damaged_images(
    tmp_path: Path, suffix: str, damage: Damage, inside: bool, second: bool
) -> None:
    path = tmp_path / f"damaged{suffix}"
    files = dict(whole_files(FORMATS[suffix].write, path.name))
    # A header of one file with its voxels in another: either may be what is damaged.
    others = sorted(files.keys() - {path.name})
    name = others[0] if second and others else path.name
    files[name] = FORMATS[suffix].envelope.spoil(files[name], damage, inside)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = read_or_refuse(lambda: read_volume(path), path.with_suffix(""))
    if found is None:
        return
    assert found.data.dtype == np.float32
    assert found.data.ndim == 3
    assert found.data.size == np.prod(found.stored_shape) > 0
    assert np.isfinite(found.data).all()
    if found.affine is not None:
        assert_can_be_inverted(found.affine)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@more_examples
@given(damage=damages, inside=st.booleans())
def test_damaged_displacements(tmp_path: Path, suffix: str, damage: Damage, inside: bool) -> None:
    path = tmp_path / f"damaged{suffix}"
    whole = whole_files(displacement_field, path.name)[path.name]
    path.write_bytes(FORMATS[suffix].envelope.spoil(whole, damage, inside))
    found = read_or_refuse(lambda: read_displacement(path), path)
    if found is None:
        return
    displacement, affine = found
    assert displacement.ndim == 4
    assert displacement.shape[0] == 3
    assert np.isfinite(displacement).all()
    assert_can_be_inverted(affine)


def assert_can_be_inverted(affine: np.ndarray) -> None:
    assert affine.shape == (4, 4)
    assert np.isfinite(affine).all()
    assert np.isfinite(np.linalg.inv(affine)).all()


@functools.cache
def whole_files(write: Callable[[Path], None], name: str) -> dict[str, bytes]:
    """What a writer writes, by name: the file, and maybe others beside it."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, name))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}
