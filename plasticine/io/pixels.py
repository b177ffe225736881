"""What a viewer shows of a picture's stored samples: grey values, upright."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def grey_of(colours: NDArray[Any], name: str, path: Path) -> NDArray[Any]:
    """Colours as grey, where they are shades of grey.

    Args:
        colours: ``(..., channels)``.
        name: What the colours are, as "RGB".
        path: The file, for the message.

    Returns:
        ``(...)``, of the same type.

    Raises:
        TypeError: The channels of a pixel differ.
    """
    if (colours != colours[..., :1]).any():
        raise TypeError(f"{path}: expected a grey picture, got {name} colours")
    return colours[..., 0]


def check_opaque(alpha: NDArray[Any], path: Path) -> None:
    """Refuses a picture with transparent parts: what lies behind them is not known.

    Args:
        alpha: Any shape; the largest number of its type, or 1 of a float, is opaque.
        path: The file, for the message.

    Raises:
        ValueError: A pixel is not opaque.
    """
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    if (alpha != opaque).any():
        raise ValueError(f"{path}: expected a grey picture, got transparent parts")


def upright(page: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turns a picture as its orientation tag says.

    Args:
        page: ``(rows, columns)``, as stored.
        orientation: The value of the tag 274 of Exif and TIFF 6.0 (page 36): where the stored
            first row and column are seen. 1 is upright; other values than 2 to 8 say nothing.

    Returns:
        The picture as it is seen: ``(columns, rows)`` of the stored for 5 to 8.
    """
    if orientation in (5, 6, 7, 8):
        page = page.T
    if orientation in (3, 4, 7, 8):
        page = page[::-1]
    if orientation in (2, 3, 6, 7):
        page = page[:, ::-1]
    return page


def orientation_note(orientations: set[int]) -> tuple[str, ...]:
    """What to say of pages of these orientations: nothing where all are upright."""
    turned = sorted(orientations & set(range(2, 9)))
    if not turned:
        return ()
    values = ", ".join(map(str, turned))
    return (f"turned as a viewer shows it: the file's orientation tag is {values}",)


def narrow_note(bits: int) -> tuple[str, ...]:
    """What to say of samples that many programs would stretch to 8 bits."""
    if bits not in (2, 4):
        return ()
    return (f"{bits}-bit values were kept as they are stored, 0 to {2**bits - 1}",)
