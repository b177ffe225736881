"""Pictures that the tests write: random values, packed samples, and TIFF's tags by hand."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.io import Volume, read_stored

ROWS, COLUMNS = 5, 7


def random_values(dtype: str, *shape: int) -> NDArray[Any]:
    """Random values over the whole range of a type."""
    generator = np.random.default_rng(3)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return generator.normal(size=shape).astype(kind)
    info = np.iinfo(kind)
    return generator.integers(info.min, info.max, shape, dtype=kind, endpoint=True)


def packed(samples: NDArray[Any], bits: int) -> bytes:
    """Rows of samples of few bits, each row padded to a whole byte."""
    shifts = np.arange(bits - 1, -1, -1)
    ones = (samples[..., None].astype(np.int64) >> shifts & 1).astype(np.uint8)
    return np.packbits(ones.reshape(len(samples), -1), axis=1).tobytes()


def tiff(
    path: Path, data: bytes, bits: int, *, photometric: int = 1, order: str = "<", **more: Any
) -> Path:
    """A TIFF of one strip, its tags by hand."""
    tags: list[tuple[int, int, Any]] = [
        (256, 3, [COLUMNS]),
        (257, 3, [ROWS]),
        (258, 3, [bits]),
        (259, 3, more.pop("t259", [1])),
        (262, 3, [photometric]),
        (273, 4, [8]),
        (277, 3, [1]),
        (278, 3, [ROWS]),
        (279, 4, [len(data)]),
        *[(int(code[1:]), 3, value) for code, value in more.items()],
    ]
    data += b"\0" * (len(data) % 2)
    start = 8 + len(data)
    behind = start + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for code, kind, values in sorted(tags):
        content = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(content) > 4:
            place = struct.pack(f"{order}I", behind + len(extra))
            extra += content
        else:
            place = content.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", code, kind, len(values)) + place
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0"
    path.write_bytes(mark + struct.pack(f"{order}I", start) + data + directory + extra)
    return path


def assert_reads(path: Path, expected: NDArray[Any], *, exact: bool = False) -> Volume:
    """The file holds these values, one slice or several; of their type if ``exact``."""
    volume = read_stored(path)
    found = volume.data if expected.ndim == 3 else volume.data[..., 0]
    np.testing.assert_array_equal(found, expected)
    assert not exact or found.dtype == expected.dtype
    return volume
