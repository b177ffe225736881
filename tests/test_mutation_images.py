"""Damaged images and fields: a reader gives a sound result, or says what is wrong with which file.

A new format needs a line in FORMATS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from mutations import BARE, GZIP, PNG, Bytes, Envelope, damages, read_or_refuse
from PIL import Image

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
@given(damage=damages(), inside=st.booleans(), second=st.booleans())
def test_damaged_images(
    tmp_path: Path, suffix: str, damage: Bytes, inside: bool, second: bool
) -> None:
    path = tmp_path / f"damaged{suffix}"
    FORMATS[suffix].write(path)
    # A header of one file with its voxels in another: either may be what is damaged.
    beside = [other for other in sorted(tmp_path.iterdir()) if other != path]
    spoil(beside[0] if second and beside else path, FORMATS[suffix].envelope, damage, inside)
    found = read_or_refuse(lambda: read_volume(path), path.with_suffix(""))
    if found is None:
        return
    assert found.data.dtype == np.float32
    assert found.data.ndim == 3
    assert found.data.size == np.prod(found.stored_shape) > 0
    assert np.isfinite(found.data).all()
    if found.affine is not None:
        assert found.affine.shape == (4, 4)
        assert np.isfinite(found.affine).all()
        assert np.isfinite(np.linalg.inv(found.affine)).all()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@given(damage=damages(), inside=st.booleans())
def test_damaged_displacements(tmp_path: Path, suffix: str, damage: Bytes, inside: bool) -> None:
    path = tmp_path / f"damaged{suffix}"
    field = np.stack([volume("float32") * scale for scale in (0.1, -0.2, 0.3)])
    write_displacement(path, field, AFFINE)
    spoil(path, FORMATS[suffix].envelope, damage, inside)
    found = read_or_refuse(lambda: read_displacement(path), path)
    if found is None:
        return
    displacement, affine = found
    assert displacement.ndim == 4
    assert displacement.shape[0] == 3
    assert np.isfinite(displacement).all()
    assert affine.shape == (4, 4)
    assert np.isfinite(affine).all()
    assert np.isfinite(np.linalg.inv(affine)).all()


def spoil(path: Path, envelope: Envelope, damage: Bytes, inside: bool) -> None:
    """Damages a file, or what its envelope holds."""
    data = path.read_bytes()
    path.write_bytes(envelope.close(damage(envelope.open(data))) if inside else damage(data))
