"""Reading TIFF files as their own tags say."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tifffile import COMPRESSION, PHOTOMETRIC

from plasticine.io.pixels import check_opaque, grey_of, narrow_note, orientation_note, upright
from plasticine.io.volume import Volume, from_array

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of a TIFF or BigTIFF file."""

_ORIENTATION = 274
# How many samples of a pixel are its colour.
_COLOURS = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.YCBCR: 3,
}
_NAMES = {PHOTOMETRIC.SEPARATED: "CMYK"}
# What tifffile decodes with a further package alone, and libtiff within Pillow does.
_BY_PILLOW = (
    COMPRESSION.CCITTRLE,
    COMPRESSION.CCITT_T4,
    COMPRESSION.CCITT_T6,
    COMPRESSION.LZW,
    COMPRESSION.JPEG,
    COMPRESSION.ZSTD,
)
# The bits of one grey sample in Pillow's modes, and by what Pillow multiplies it.
_MODES = {"1": (1,), "L": (2, 4, 8), "I;16": (12, 16), "I;16B": (16,), "I": (16, 32), "F": (32,)}
_STRETCH = {2: 85, 4: 17}
# What tifffile and Pillow raise of a damaged file.
_DAMAGE = (ValueError, OSError, SyntaxError, LookupError, RuntimeError, struct.error, zlib.error)
# Axes that a stack may run along: depth, pages, or not named.
_STACKED = "ZIQ"
# No compression that is read makes less of more: a bound to what a small file may claim.
_MOST_COMPRESSED = 3000


def read_tiff(path: Path) -> Volume:
    """Reads a TIFF or BigTIFF file: one picture, or a stack of pages or of ImageJ's slices.

    Values are as stored, of the file's own element type; white and black are exchanged where
    white is stored as 0, and palettes and colours are resolved where all they show is grey.
    Pictures lie as a viewer shows them.

    Args:
        path: The file.

    Returns:
        The volume, without a position in space.

    Raises:
        ValueError: It is not TIFF, is damaged, too large or transparent, its pages differ in
            shape, or its axes are others than slices, rows and columns.
        TypeError: It is coloured.
    """
    try:
        # Other files that a description names are not opened.
        with _errors_raised(path), tifffile.TiffFile(path, _multifile=False) as file:
            series = _only_series(file, path)
            page: Any = series.keyframe  # a TiffPage
            _check_kind(page, path)
            pages: list[Any] = [one.aspage() for one in series.pages if one is not None]
            _check_complete(file, series, pages, path)
            orientations = [one.tags.valueof(_ORIENTATION, default=1) for one in pages]
            if _needs_pillow(page):
                stored = _read_by_pillow(path, len(pages), page)
            else:
                stored = _read_pages(file, series, path)
    except tifffile.TiffFileError as error:
        raise ValueError(f"{path}: not a TIFF file ({error})") from error
    except _DAMAGE as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {_reason(str(error))}") from error
    greys, notes = _grey_pages(stored, page, path)
    if not _needs_pillow(page):  # Pillow turns a TIFF itself
        each = orientations if len(orientations) == len(greys) else orientations[:1] * len(greys)
        greys = [upright(one, value) for one, value in zip(greys, each, strict=True)]
    if any(one.shape != greys[0].shape for one in greys):
        raise ValueError(f"{path}: its pages differ in shape: {[one.shape for one in greys]}")
    return _volume(greys, path, (*notes, *orientation_note(set(orientations))))


def _reason(error: str) -> str:
    """What to say of what tifffile or Pillow said of a file."""
    if "imagecodecs" in error:
        return (
            f"cannot read it, the package imagecodecs is missing ({error}): install that, or save "
            "it without compression, in whole bytes a sample"
        )
    if "not a known COMPRESSION" in error or "not supported" in error:
        return f"cannot read it ({error}): save it without compression, in whole bytes a sample"
    return f"the picture is cut short or damaged ({error})"


def _volume(pages: list[NDArray[Any]], path: Path, notes: tuple[str, ...]) -> Volume:
    data = np.stack(pages) if len(pages) > 1 else pages[0]
    volume = from_array(data, path, "image")
    return dataclasses.replace(volume, notes=notes)


@contextlib.contextmanager
def _errors_raised(path: Path) -> Iterator[None]:
    """Raises what tifffile would only log as an error, and keeps its warnings to itself."""
    errors: list[str] = []

    def take(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            errors.append(record.getMessage())
        return False

    logger = logging.getLogger("tifffile")
    logger.addFilter(take)
    try:
        yield
    finally:
        logger.removeFilter(take)
    if errors:
        raise ValueError(f"{path}: {_reason(errors[0])}")


def _only_series(file: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """The pages of a file that are alike, where all are."""
    if len(file.series) != 1:
        found = [(one.keyframe.shape, str(one.dtype)) for one in file.series]
        raise ValueError(f"{path}: its pages differ in shape or type: {found}")
    series: tifffile.TiffPageSeries = file.series[0]
    if file.is_ome and series.kind != "ome":
        raise ValueError(
            f"{path}: its OME description is not of this file alone: expected one file that holds "
            "all of its planes"
        )
    others = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if n > 1]
    others = [(axis, n) for axis, n in others if axis not in "YXS"]
    if len(others) > 1 or any(axis not in _STACKED for axis, _ in others):
        named = ", ".join(f"{n} along {axis}" for axis, n in others)
        raise ValueError(
            f"{path}: expected slices (Z) or pages of rows and columns, got {named}, as the file "
            "names its axes (C: channels, T: frames)"
        )
    return series


def _check_kind(page: Any, path: Path) -> None:
    """Refuses what is not known to show grey: from the tags alone."""
    bits, photometric = page.bitspersample, page.photometric
    if photometric not in _COLOURS:
        name = _NAMES.get(photometric, getattr(photometric, "name", photometric))
        raise TypeError(f"{path}: expected a grey picture, got colour mode {name}")
    alpha = len(page.extrasamples)
    if page.samplesperpixel - alpha != _COLOURS[photometric] or tuple(page.extrasamples) not in (
        (),
        (1,),
        (2,),
    ):
        raise TypeError(
            f"{path}: expected a grey picture, got {page.samplesperpixel} samples a pixel of "
            f"colour mode {photometric.name}"
        )
    if page.dtype is None:
        raise ValueError(f"{path}: cannot read samples of {bits} bits")
    if photometric == PHOTOMETRIC.MINISWHITE and (page.dtype.kind not in "bu" or bits > 16):
        raise ValueError(
            f"{path}: white is stored as 0 (photometric 0), but what black is, "
            f"is not known of {page.dtype} values"
        )
    if photometric == PHOTOMETRIC.PALETTE and page.colormap is None:
        raise ValueError(f"{path}: the palette is missing")
    if Image.MAX_IMAGE_PIXELS and page.imagewidth * page.imagelength > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{path}: the picture is too large ({page.imagewidth} × {page.imagelength} pixels, "
            f"at most {Image.MAX_IMAGE_PIXELS} are read)"
        )


def _check_complete(
    file: tifffile.TiffFile,
    series: tifffile.TiffPageSeries,
    pages: list[Any],
    path: Path,
) -> None:
    """Refuses a file that is too short for what its tags say, or whose palettes differ."""
    size = file.filehandle.size
    ends = [0 if series.dataoffset is None else series.dataoffset + series.nbytes]
    for page in pages:
        if not np.array_equal(page.colormap, pages[0].colormap):
            raise ValueError(f"{path}: its pages have palettes of their own")
        ends += [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
        stored = sum(page.databytecounts)
        if min(page.databytecounts, default=0) == 0 or (
            page.compression == COMPRESSION.NONE
            and page.bitspersample >= 8
            and stored < page.size * page.bitspersample // 8
        ):
            raise ValueError(f"{path}: the picture is cut short or damaged (a part is missing)")
    if max(ends) > size:
        raise ValueError(
            f"{path}: the picture is cut short or damaged "
            f"(its parts end at byte {max(ends)}, the file at {size})"
        )
    if series.nbytes > _MOST_COMPRESSED * size:
        raise ValueError(f"{path}: {size} bytes cannot hold the {series.nbytes} that it claims")


def _read_pages(
    file: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path
) -> list[NDArray[Any]]:
    """The samples of each page, (rows, columns, samples), as stored."""
    page: Any = series.keyframe
    planes = series.size // page.size
    declared = (file.imagej_metadata or {}).get("images", planes)
    if isinstance(declared, int) and declared > planes:
        # ImageJ's own way to store a large stack: one page, and all slices behind it.
        length = declared * page.nbytes
        if not page.is_final or page.dataoffsets[0] + length > file.filehandle.size:
            raise ValueError(f"{path}: ImageJ's images={declared}, but it holds {planes}")
        data = file.filehandle.read_array(
            page.dtype.newbyteorder(file.byteorder), declared * page.size, page.dataoffsets[0]
        )
        data, planes = data.astype(page.dtype), declared
    else:
        data = series.asarray()
    data = data.reshape(planes, *page.shape)
    # Samples lie last; an axis of depth 1 of a tiled volume falls away.
    samples = page.axes.find("S")
    data = data[..., None] if samples < 0 else np.moveaxis(data, samples + 1, -1)
    return list(data.reshape(-1, page.imagelength, page.imagewidth, data.shape[-1]))


def _needs_pillow(page: Any) -> bool:
    return page.compression in _BY_PILLOW or page.bitspersample in (2, 4, 12)


def _read_by_pillow(path: Path, count: int, page: Any) -> list[NDArray[Any]]:
    """The same of what tifffile cannot decode; turned upright already, as Pillow does."""
    # libtiff gives the machine's own byte order; Pillow swaps all of these but uint16 once more.
    if page.parent.byteorder == ">" and page.bitspersample > 8 and page.dtype != np.uint16:
        raise _not_by_pillow(page, path)
    pages = []
    try:
        picture: Any = Image.open(path, formats=("TIFF",))
    except UnidentifiedImageError as error:  # tifffile has read its tags: it is TIFF
        raise _not_by_pillow(page, path) from error
    with picture:
        if picture.n_frames != count:
            raise ValueError(f"{path}: its tags say {count} pages, but it holds {picture.n_frames}")
        for index in range(count):
            picture.seek(index)
            pages.append(_as_stored(np.asarray(picture), picture.mode, page, path))
    return pages


def _not_by_pillow(page: Any, path: Path) -> ValueError:
    order = {"<": "little", ">": "big"}[page.parent.byteorder]
    return ValueError(
        f"{path}: cannot read {page.samplesperpixel} samples of {page.bitspersample} bits "
        f"({page.dtype}, {order}-endian) of compression {page.compression.name}: "
        "save it without compression, in whole bytes a sample"
    )


def _as_stored(values: NDArray[Any], mode: str, page: Any, path: Path) -> NDArray[Any]:
    """What Pillow made of a page, undone: (rows, columns, samples) of the page's own type."""
    bits, photometric = page.bitspersample, page.photometric
    samples = page.samplesperpixel
    if photometric == PHOTOMETRIC.PALETTE:
        known = (mode, samples) == ("P", 1) and bits <= 8
    elif samples == 1:
        known = bits in _MODES.get(mode, ())
    else:
        known = (mode, samples) in (("LA", 2), ("RGB", 3), ("RGBA", 4)) and bits == 8
    if not known:
        raise _not_by_pillow(page, path)
    if photometric != PHOTOMETRIC.PALETTE and samples == 1:
        if bits in _STRETCH:
            values = values // _STRETCH[bits]
        if photometric == PHOTOMETRIC.MINISWHITE and bits <= 8:  # Pillow inverts these alone
            values = _inverted(values, bits)
    return values.reshape(*values.shape[:2], -1).astype(page.dtype)


def _grey_pages(
    stored: list[NDArray[Any]], page: Any, path: Path
) -> tuple[list[NDArray[Any]], tuple[str, ...]]:
    """Pages of grey values, (rows, columns), and what is to be said of them."""
    bits, photometric = page.bitspersample, page.photometric
    if page.extrasamples:
        for samples in stored:
            check_opaque(samples[..., -1], path)
        stored = [samples[..., :-1] for samples in stored]
    if photometric == PHOTOMETRIC.PALETTE:
        palette = _palette(page)
        stored = [palette[samples[..., 0]] for samples in stored]
    pages = [grey_of(samples, photometric.name, path) for samples in stored]
    if photometric == PHOTOMETRIC.MINISWHITE:
        note = "white is stored as 0 (photometric 0): the values were inverted, as a viewer does"
        return [_inverted(values, bits) for values in pages], (note, *narrow_note(bits))
    return pages, () if photometric == PHOTOMETRIC.PALETTE else narrow_note(bits)


def _palette(page: Any) -> NDArray[Any]:
    """The colours of a palette, (entries, 3): of 8 bits where 16 say no more."""
    colours = page.colormap.T
    for factor in (257, 256):
        if (colours % factor == 0).all():
            return (colours // factor).astype(np.uint8)
    return colours


def _inverted(values: NDArray[Any], bits: int) -> NDArray[Any]:
    return ~values if values.dtype == bool else (2**bits - 1 - values).astype(values.dtype)
