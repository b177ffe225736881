"""Reading pictures."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from plasticine.io.pixels import check_opaque, grey_of, narrow_note, orientation_note, upright
from plasticine.io.tiff import TIFF_SIGNATURES, read_tiff
from plasticine.io.volume import Volume, from_array

_ORIENTATION = 274
# By what Pillow multiplies PNG's grey of few bits.
_STRETCH = {2: 85, 4: 17}


def read_picture(path: Path) -> Volume:
    """Reads a .png, .jpg, .bmp or .tif file; several pages of a TIFF are a stack.

    What a file is, is told from its first bytes. Values are as stored, of the file's own bits;
    colours and palettes are resolved where all they show is grey. A picture lies as a viewer
    shows it.

    Raises:
        ValueError: It is not a picture, is damaged, too large, transparent, animated, or of
            pages that differ in shape.
        TypeError: It is coloured.
    """
    with path.open("rb") as file:
        start = file.read(26)
    if start.startswith(TIFF_SIGNATURES):
        return read_tiff(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # over 89 megapixels
            with Image.open(path, formats=("PNG", "JPEG", "BMP")) as picture:
                values, notes = _values(picture, start, path)
                orientation = picture.getexif().get(_ORIENTATION, 1)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: the picture is too large ({error})") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: the picture is cut short or damaged ({error})") from error
    volume = from_array(upright(values, orientation), path, "image")
    return dataclasses.replace(volume, notes=(*notes, *orientation_note({orientation})))


def _values(picture: Any, start: bytes, path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    """A picture's grey values as stored, (rows, columns), and what is to be said of them."""
    notes: tuple[str, ...] = ()
    frames = getattr(picture, "n_frames", 1)
    if picture.format == "MPO":
        notes = (f"the first of the file's {frames} pictures was read",)
    elif frames > 1:
        raise ValueError(f"{path}: expected one picture, got an animation of {frames}")
    if picture.format == "PNG":
        depth, colour_type = start[24], start[25]
        if depth == 16 and colour_type != 0:
            return _sixteen_bit_png(picture, path), notes
        if depth in _STRETCH and colour_type == 0:
            values = np.asarray(picture) // _STRETCH[depth]
            _check_transparent_value(picture, values[..., None], path)
            return values, (*notes, *narrow_note(depth))
    return _grey(picture, path), notes


def _grey(picture: Any, path: Path) -> NDArray[Any]:
    """A picture of 1 or 8 bits a channel, or of one of 16, as Pillow decodes it."""
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    mode, values = picture.mode, np.asarray(picture)
    if mode in ("LA", "RGBA"):
        check_opaque(values[..., -1], path)
        return grey_of(values[..., :-1], mode, path)
    if mode not in ("1", "L", "I", "I;16", "RGB"):
        raise TypeError(f"{path}: expected a grey picture, got colour mode {mode}")
    if mode == "I":  # of a PNG of 16 bits in older versions of Pillow
        values = values.astype(np.uint16)
    colours = values if mode == "RGB" else values[..., None]
    _check_transparent_value(picture, colours, path)
    return grey_of(colours, mode, path)


def _sixteen_bit_png(picture: Any, path: Path) -> NDArray[Any]:
    """A PNG of several channels of 16 bits, of which Pillow keeps the upper byte alone.

    The layout in which the decoder is told to find the samples decides which bytes it keeps:
    once the upper, once the lower ones.
    """
    samples: NDArray[Any]
    if picture.mode == "RGBA" and picture.tile[0].args == "LA;16B":
        # Two samples of two bytes each are taken for four of one byte.
        samples = _decoded(picture, "RGBA").view(">u2").astype(np.uint16)
    else:
        mode = picture.mode
        upper = _decoded(picture, f"{mode};16B").astype(np.uint16)
        with Image.open(path) as again:
            samples = upper << 8 | _decoded(again, f"{mode};16L")
    if samples.shape[-1] in (2, 4):
        check_opaque(samples[..., -1], path)
        samples = samples[..., :-1]
    else:
        _check_transparent_value(picture, samples, path)
    return grey_of(samples, "RGB", path)


def _decoded(picture: Any, layout: str) -> NDArray[np.uint8]:
    picture.tile = [tile._replace(args=layout) for tile in picture.tile]
    return np.asarray(picture)


def _check_transparent_value(picture: Any, samples: NDArray[Any], path: Path) -> None:
    """Refuses a picture that shows the value which a PNG's tRNS chunk makes transparent.

    Args:
        picture: As Pillow opened it.
        samples: ``(rows, columns, channels)``, as stored.
        path: The file.

    Raises:
        ValueError: A pixel is of that value.
    """
    key = picture.info.get("transparency")
    if key is not None and (samples == np.asarray(key).astype(samples.dtype)).all(-1).any():
        raise ValueError(f"{path}: expected a grey picture, got transparent parts")
