"""What is checked of every file that is read: its size, its affine, what its reader raises."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SAME_PLACE = 0.1
"""Voxels: how far apart the corners of one volume may land and still be called the same place.

Headers round to float32 and quaternions, which moves the corner of 1000 voxels by less than
0.01; a shift that matters to a label or to a measure, half a voxel, is well beyond.
"""

# What deflate can make of one byte at most (zlib's technical notes: 1032), and headers beside it.
_MOST_PER_COMPRESSED_BYTE = 1032
_HEADERS = 4096
# What precedes an error's own words in ITK: a line of its source, a class and a pointer.
_WHERE_IN_ITK = re.compile(r".*(?:ITK |sitk::)ERROR: (?:\w+ ?\(0x[0-9a-f]+\): )?")
# |det| over the product of the axes' lengths: 1 where they are perpendicular, whatever the voxel
# is. Headers round to float32, so that axes in one plane come out at about 1e-7.
_LEAST_INDEPENDENCE = 1e-4


def check_exists(path: Path) -> None:
    """Refuses a file that is not there.

    Raises:
        FileNotFoundError: It is not.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turns whatever a reader raises on a file into a ValueError with its name and a reason.

    What already begins with the file's name passes, and so do a missing file and a forbidden one.

    Args:
        path: The file.

    Raises:
        ValueError: The reader raised any other exception.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except MemoryError as error:
        raise ValueError(f"{path}: does not fit into memory ({error})") from error
    except Exception as error:
        if str(error).startswith(f"{path}: "):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        reason = _WHERE_IN_ITK.sub("SimpleITK: ", reason)
        raise ValueError(f"{path}: damaged, or not what its name says ({reason})") from error


def check_claim(path: Path, claimed: int, held: int, *, compressed: bool) -> None:
    """Compares what a header claims with what its file can hold, before anything is allocated.

    Args:
        path: The file.
        claimed: Bytes from the file's start, or that of its uncompressed content, to the end of
            the data that the header claims.
        held: Bytes of the file.
        compressed: Whether it is a gzip, of which a byte can hold 1032 at most.

    Raises:
        ValueError: The file cannot hold as much.
    """
    most = held * _MOST_PER_COMPRESSED_BYTE + _HEADERS if compressed else held
    if claimed < 0 or claimed > most:
        can = "at most " if compressed else ""
        raise ValueError(
            f"{path}: the file is cut short or damaged: its header claims {claimed} bytes, "
            f"it holds {can}{most}"
        )


def check_affine(path: Path, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Checks that an affine is finite and can be inverted, whatever the size of a voxel.

    Args:
        path: The file it is from.
        affine: ``(4, 4)``, voxel index to millimetres.

    Returns:
        The affine, float64.

    Raises:
        ValueError: It is not finite, an axis has no length, or the axes lie in one plane.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(affine).all():
        raise ValueError(f"{path}: its affine holds NaN or infinite values: {affine.tolist()}")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not (sizes > 0).all() or (abs(np.linalg.det(affine[:3, :3] / sizes)) < _LEAST_INDEPENDENCE):
        raise ValueError(f"{path}: its affine cannot be inverted: {affine.tolist()}")
    return affine


def corner_distance(
    affine: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[float, float]:
    """How far apart two affines put the corners of a volume, where it is most.

    Args:
        affine: ``(4, 4)``, voxel index to millimetres, invertible.
        other: Likewise; need not be invertible.
        shape: ``(X, Y, Z)``; the corners are the centres of its outermost voxels.

    Returns:
        The distance in voxels of the first affine, and in millimetres.
    """
    ends = [(0, size - 1) for size in shape[:3]] + [(0,)] * (3 - len(shape[:3]))
    corners = np.array([(*corner, 1.0) for corner in itertools.product(*ends)])
    apart = (corners @ (other - affine).T)[:, :3]
    voxels = np.linalg.solve(affine[:3, :3], apart.T)
    return (
        float(np.linalg.norm(voxels, axis=0).max()),
        float(np.linalg.norm(apart, axis=1).max()),
    )
