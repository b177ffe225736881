"""MATLAB 4 files of numbers, in which ITK and ANTs keep transforms (``.mat``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import check_exists

_HEADER = 20
# The tens digit of a header's type; files of text (its ones digit) or integers are not ITK's.
_PRECISIONS = {0: "f8", 1: "f4"}
_LONGEST_NAME = 256


def is_matlab(path: Path) -> bool:
    """Whether a file begins as a MATLAB 4 file of numbers does."""
    with path.open("rb") as file:
        start = file.read(_HEADER)
    return len(start) == _HEADER and any(_is_header(start, order) for order in "<>")


def _is_header(start: bytes, order: str) -> bool:
    kind, *_, length = np.frombuffer(start, f"{order}i4").tolist()
    return 0 <= kind < 5000 and 0 < length <= _LONGEST_NAME


def read_matlab(path: Path) -> list[tuple[str, NDArray[np.float64]]]:
    """Reads the named arrays of a MATLAB 4 file, in their order.

    Args:
        path: The file, little or big endian.

    Returns:
        Name and numbers of each, the latter in one row.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file, is cut short, or holds something else than real
            floating-point numbers; MATLAB's later formats (5 and 7.3) are among these.
    """
    check_exists(path)
    content = path.read_bytes()
    arrays, at = [], 0
    while at < len(content):
        name, values, at = _array(path, content, at)
        arrays.append((name, values))
    return arrays


def _array(path: Path, content: bytes, at: int) -> tuple[str, NDArray[np.float64], int]:
    """The array whose header begins at a byte, and where the next one begins."""
    wrong = f"{path}: expected a MATLAB 4 file, as ITK and ANTs write transforms"
    header = content[at : at + _HEADER]
    if len(header) < _HEADER:
        raise ValueError(f"{wrong}; it is cut short at byte {at}")
    order = "<"
    kind, rows, columns, imaginary, length = np.frombuffer(header, "<i4").tolist()
    if not 0 <= kind < 5000:
        order = ">"
        kind, rows, columns, imaginary, length = np.frombuffer(header, ">i4").tolist()
    precision = _PRECISIONS.get(kind % 100 // 10)
    if (
        not 0 <= kind < 5000
        or kind % 10
        or precision is None
        or imaginary
        or min(rows, columns) < 0
        or not 0 < length <= _LONGEST_NAME
    ):
        raise ValueError(f"{wrong}; got the header {header.hex(' ', 4)} at byte {at}")
    begin = at + _HEADER + length
    end = begin + rows * columns * int(precision[1])
    if end > len(content):
        raise ValueError(f"{wrong}; it is cut short: {end} bytes expected, {len(content)} held")
    name = content[begin - length : begin].rstrip(b"\0").decode("latin-1")
    values = np.frombuffer(content[begin:end], order + precision).astype(np.float64)
    return name, values, end
