"""Reading a matrix from a text file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import check_affine, check_exists, named_errors


def read_matrix(path: Path) -> NDArray[np.float64]:
    """Reads a map of millimetres as picsl-greedy and c3d write it.

    Args:
        path: Four rows of four numbers; lines that begin with # are comments.

    Returns:
        ``(4, 4)``, fixed to moving millimetres along RAS+ axes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds something else, or cannot be inverted.
    """
    check_exists(path)
    with named_errors(path):
        matrix = np.loadtxt(path, dtype=np.float64, ndmin=2)
    if matrix.shape != (4, 4) or not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise ValueError(
            f"{path}: expected four rows of four numbers, the last 0 0 0 1; got {matrix.tolist()}"
        )
    return check_affine(path, matrix)
