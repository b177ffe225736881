"""A matrix of millimetres in a text file, as picsl-greedy, c3d and NiftyReg write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import check_affine, named_errors
from plasticine.transforms.ends import Ends
from plasticine.transforms.formats.format import Format, as_affine
from plasticine.transforms.transform import AffineTransform, Transform


def is_matrix(path: Path) -> bool:
    """Whether a file is four rows of four numbers."""
    with path.open("rb") as file:
        start = file.read(4096)
    lines = [line.split() for line in start.decode("latin-1").splitlines()]
    rows = [line for line in lines if line and not line[0].startswith("#")]
    try:
        return np.array(rows, dtype=np.float64).shape == (4, 4)
    except ValueError:
        return False


def read_matrix(path: Path) -> NDArray[np.float64]:
    """Reads four rows of four numbers; lines that begin with # are comments.

    Returns:
        ``(4, 4)`` float64.

    Raises:
        ValueError: It holds something else, or cannot be inverted.
    """
    with named_errors(path):
        matrix = np.loadtxt(path, dtype=np.float64, ndmin=2)
    if matrix.shape != (4, 4) or not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise ValueError(
            f"{path}: expected four rows of four numbers, the last 0 0 0 1; got {matrix.tolist()}"
        )
    return check_affine(path, matrix)


def _read(path: Path, ends: Ends) -> Transform:
    """Fixed to moving millimetres, along RAS+ axes."""
    return AffineTransform(read_matrix(path))


def _write(path: Path, transform: Transform, ends: Ends) -> None:
    matrix = as_affine(path, transform, "a matrix of greedy and c3d").matrix
    rows = [" ".join(f"{number:.17g}" for number in row) for row in matrix]
    path.write_text("\n".join([f"# {ends.note}", *rows]) + "\n", encoding="utf-8")


FORMAT = Format(
    name="matrix",
    title="a matrix of millimetres (greedy, c3d, NiftyReg)",
    suffixes=(".txt", ".mat"),
    # A .mat is more often FSL's, of other coordinates.
    recognises=is_matrix,
    read=_read,
    write=_write,
    holds=("affine",),
)
