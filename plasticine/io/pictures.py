"""Reading pictures."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.io.volume import Volume, from_array


def read_picture(path: Path) -> Volume:
    """Reads a .png, .jpg, .bmp or .tif file; several pages are a stack.

    Raises:
        ValueError: It is not a picture, is damaged, too large, transparent, or of pages that
            differ in shape.
        TypeError: It is coloured.
    """
    from PIL import Image, ImageSequence, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # over 89 megapixels
            with Image.open(path) as picture:
                pages = [_grey(page, path) for page in ImageSequence.Iterator(picture)]
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture file") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: the picture is too large ({error})") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: the picture is cut short or damaged ({error})") from error
    if any(page.shape != pages[0].shape for page in pages):
        raise ValueError(f"{path}: its pages differ in shape: {[page.shape for page in pages]}")
    return from_array(np.stack(pages) if len(pages) > 1 else pages[0], path, "image")


def _grey(page: Any, path: Path) -> NDArray[Any]:
    """One page as (rows, columns); colours only where they are shades of grey."""
    if page.mode == "P":
        page = page.convert("RGBA" if "transparency" in page.info else "RGB")
    values = np.asarray(page)
    if page.mode in ("LA", "RGBA"):
        if (values[..., -1] != 255).any():
            raise ValueError(f"{path}: expected a grey picture, got transparent parts")
        values = values[..., :-1]
    elif page.mode not in ("1", "L", "I", "I;16", "I;16B", "I;16L", "F", "RGB"):
        raise TypeError(f"{path}: expected a grey picture, got colour mode {page.mode}")
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise TypeError(f"{path}: expected a grey picture, got {page.mode} colours")
        values = values[..., 0]
    return values
