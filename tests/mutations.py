"""Damage to files, for Hypothesis, and what a reader may make of it."""

from __future__ import annotations

import contextlib
import gzip
import resource
import signal
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st

# What a reader may take for a file of a few kilobytes, and a read that does not end.
MOST_BYTES = 500 * 2**20
MOST_SECONDS = 120
# Above what the process has already; an array of the size that a damaged header claims is refused
# by the system and not by the machine's running out of memory.
_ADDRESSES = 4 * 2**30

Result = TypeVar("Result")
Draw = st.DrawFn
Bytes = Callable[[bytes], bytes]


def same(data: bytes) -> bytes:
    """The bytes themselves."""
    return data


@dataclass(frozen=True)
class Envelope:
    """How a format wraps its content: damage to the content leaves a whole wrapping around it."""

    open: Bytes = same
    close: Bytes = same


def compressed(data: bytes) -> bytes:
    """A gzip of the data, the same every time."""
    return gzip.compress(data, compresslevel=1, mtime=0)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold, as far as chunks can be told."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        out += data[at:end] + struct.pack(">I", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(out) + data[at:]


BARE, GZIP, PNG = Envelope(), Envelope(gzip.decompress, compressed), Envelope(same, with_checksums)

_PATTERNS = (
    *(bytes([value]) * count for value in (0x00, 0xFF, 0x7F, 0x80, 0x01) for count in (1, 2, 4, 8)),
    *(struct.pack(f"<{kind}", value) for kind in "fd" for value in (float("nan"), float("inf"))),
    *(struct.pack("<f", value) for value in (-1.0, 1e-30, 1e30, 3.5)),
    *(struct.pack("<h", value) for value in (2, 3, 5, 7, 100, 1000, 32767, -1)),
    *(struct.pack("<q", value) for value in (2**31, 2**40, 2**62, -1)),
    b"\n",
    b'"',
    b"{",
    b"}",
    b"9999999999",
    b"-",
    "\u00e9".encode(),
    b"\xc3\x28",
    b"[" * 20000,
)


@st.composite
def damages(draw: Draw) -> Callable[[bytes], bytes]:
    """A function that damages bytes in one to four places, more often among the first ones."""
    hits = draw(st.lists(_hits(), min_size=1, max_size=4))

    def damage(data: bytes) -> bytes:
        for where, (kind, pattern, count) in hits:
            at = min(int(where * len(data)), max(0, len(data) - 1))
            if kind == "overwrite":
                data = data[:at] + pattern + data[at + len(pattern) :]
            elif kind == "insert":
                data = data[:at] + pattern + data[at:]
            elif kind == "delete":
                data = data[:at] + data[at + count :]
            elif kind == "flip" and data:
                data = data[:at] + bytes([data[at] ^ 1 << count % 8]) + data[at + 1 :]
            elif kind == "cut":
                data = data[:at]
        return data

    return damage


@st.composite
def _hits(draw: Draw) -> tuple[float, tuple[str, bytes, int]]:
    reach = draw(st.sampled_from((0.05, 0.3, 1.0)))
    where = reach * draw(st.integers(0, 2**16)) / 2**16
    kind = draw(st.sampled_from(("overwrite", "overwrite", "flip", "insert", "delete", "cut")))
    pattern = draw(st.sampled_from(_PATTERNS) | st.binary(min_size=1, max_size=8))
    return where, (kind, pattern, draw(st.integers(1, 64)))


WRONG_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**70,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    [],
    [0],
    ["x", 1],
    {},
    {"a": 1},
)


@st.composite
def misfits(draw: Draw) -> Callable[[Any], Any]:
    """A function that gives a tree of mappings and lists with one value, or key, changed."""
    steps = draw(st.lists(st.integers(0, 40), min_size=1, max_size=5))
    how = draw(st.sampled_from(("replace", "replace", "remove", "rename", "add")))
    value = draw(st.sampled_from(WRONG_VALUES))

    def change(tree: Any) -> Any:
        return _changed(tree, steps, how, value)

    return change


def _changed(tree: Any, steps: list[int], how: str, value: Any) -> Any:
    if not isinstance(tree, dict | list) or not tree:
        return value
    entries = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))
    at = steps[0] % len(entries)
    key, item = entries[at]
    if len(steps) > 1 and isinstance(item, dict | list) and item:
        entries[at] = key, _changed(item, steps[1:], how, value)
    elif how == "replace":
        entries[at] = key, value
    elif how == "remove":
        del entries[at]
    elif how == "rename":
        entries[at] = f"{key}x", item
    else:
        entries.append((f"{key}_more", value))
    return dict(entries) if isinstance(tree, dict) else [item for _, item in entries]


def read_or_refuse(
    read: Callable[[], Result],
    named: Path,
    refusals: tuple[type[Exception], ...] = (ValueError, TypeError, OSError),
) -> Result | None:
    """What a reader gives of a damaged file, or None where it refuses it as it should.

    Args:
        read: reads the file.
        named: whose name every refusal must hold.
        refusals: the exceptions that are documented; any other passes through, and fails the test.

    Returns:
        The result, whose worth the caller looks at.
    """
    error: Exception | None = None
    result = None
    with _bounds(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = read()
        except refusals as refusal:
            error = refusal
    if error is None:
        return result
    assert named.name in str(error), f"{error!r} does not name {named.name}"
    assert not isinstance(error.__cause__ or error.__context__, MemoryError), (
        f"{error!r}: memory was asked for before the file's size was looked at"
    )
    return None


@contextlib.contextmanager
def _bounds() -> Iterator[None]:
    """Fails the test where a read takes far more memory, or time, than any file here needs."""

    def too_long(*_: Any) -> None:
        pytest.fail(f"the reader did not return within {MOST_SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(MOST_SECONDS)
    tracemalloc.start()
    try:
        with contextlib.suppress(FileNotFoundError):  # no /proc: the next bound has to do
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + _ADDRESSES
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert peak <= MOST_BYTES, f"the reader took {peak / 2**20:.0f} MB"
