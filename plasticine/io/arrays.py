"""Reading .npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plasticine.io.volume import Volume, from_array


def read_array(path: Path) -> Volume:
    """Reads a .npy file of numbers.

    Raises:
        ValueError: It is not one, or has another number of axes than 2 or 3.
    """
    try:
        # Mapped first: a header that claims more than the file holds is refused, not allocated.
        with np.errstate(over="raise"):
            data = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a .npy file of numbers ({error})") from error
    if not isinstance(data, np.ndarray):
        raise ValueError(f"{path}: expected one array, got an archive of several")
    return from_array(np.array(data), path, "array")
