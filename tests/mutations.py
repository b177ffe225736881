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
Bytes = Callable[[bytes], bytes]


def same(data: bytes) -> bytes:
    """The bytes themselves."""
    return data


@dataclass(frozen=True)
class Envelope:
    """How a format wraps its content: damage to the content leaves a whole wrapping around it."""

    open: Bytes = same
    close: Bytes = same

    def spoil(self, data: bytes, damage: Bytes, inside: bool) -> bytes:
        """Damages a file's bytes, or what is inside of the envelope."""
        return self.close(damage(self.open(data))) if inside else damage(data)


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


@dataclass(frozen=True)
class Hit:
    """One damage.

    Attributes:
        where: as a share of the bytes there are.
        kind: "overwrite", "insert", "delete", "flip" or "cut".
        pattern: what is written.
        count: how many bytes are deleted, or which bit is flipped.
    """

    where: float
    kind: str
    pattern: bytes
    count: int

    def __call__(self, data: bytes) -> bytes:
        """The damaged bytes."""
        at = int(self.where * len(data))
        if self.kind == "cut":
            return data[:at]
        if self.kind == "insert":
            return data[:at] + self.pattern + data[at:]
        if self.kind == "delete":
            return data[:at] + data[at + self.count :]
        if self.kind == "flip":
            flipped = bytes([byte ^ 1 << self.count % 8 for byte in data[at : at + 1]])
            return data[:at] + flipped + data[at + 1 :]
        return data[:at] + self.pattern + data[at + len(self.pattern) :]


@dataclass(frozen=True)
class Damage:
    """Damage in one place or a few."""

    hits: list[Hit]

    def __call__(self, data: bytes) -> bytes:
        """The damaged bytes."""
        for hit in self.hits:
            data = hit(data)
        return data


# More often among the first bytes, where headers are.
_places = st.builds(
    lambda reach, at: reach * at / 2**14, st.sampled_from((0.05, 0.3, 1.0)), st.integers(0, 2**14)
)
_hits = st.builds(
    Hit,
    _places,
    st.sampled_from(("overwrite", "overwrite", "flip", "insert", "delete", "cut")),
    st.sampled_from(_PATTERNS) | st.binary(min_size=1, max_size=8),
    st.integers(1, 64),
)
damages = st.builds(Damage, st.lists(_hits, min_size=1, max_size=3))


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


@dataclass(frozen=True)
class Misfit:
    """A change of one value, or key, in a tree of mappings and lists.

    Attributes:
        way: which entry is taken at each level, counted round.
        how: "replace", "remove", "rename" or "add".
        value: what is put there.
    """

    way: list[int]
    how: str
    value: Any

    def __call__(self, tree: Any) -> Any:
        """The tree with the change."""
        return self._changed(tree, self.way)

    def _changed(self, tree: Any, way: list[int]) -> Any:
        if not isinstance(tree, dict | list) or not tree:
            return self.value
        entries = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
        at = way[0] % len(entries)
        key, item = entries[at]
        if len(way) > 1 and isinstance(item, dict | list) and item:
            entries[at] = key, self._changed(item, way[1:])
        elif self.how == "replace":
            entries[at] = key, self.value
        elif self.how == "remove":
            del entries[at]
        elif self.how == "rename":
            entries[at] = f"{key}x", item
        else:
            entries.append((f"{key}_more", self.value))
        return dict(entries) if isinstance(tree, dict) else [item for _, item in entries]


misfits = st.builds(
    Misfit,
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.sampled_from(("replace", "replace", "remove", "rename", "add")),
    st.sampled_from(WRONG_VALUES),
)


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
