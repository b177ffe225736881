"""Axis codes: which way an array's axes run through a body."""

from __future__ import annotations

import nibabel
import numpy as np
from numpy.typing import NDArray

DEFAULT_ORIENTATION = "SPR"
PICTURE_ORIENTATION = "SPL"
"""Where pictures are put between which a transform maps: ITK's column and row are LPS+ there."""
_PAIRS = ("LR", "PA", "IS")


def axis_directions(orientation: str) -> tuple[NDArray[np.float64], ...]:
    """The RAS+ unit vectors of three axis codes.

    Args:
        orientation: Three letters of L/R, P/A and I/S, each the end an axis runs to.

    Returns:
        Three vectors of length 1, in the codes' order.

    Raises:
        ValueError: The letters do not name three different axes.
    """
    directions = []
    for code in orientation:
        for axis, pair in enumerate(_PAIRS):
            if code in pair:
                vector = np.zeros(3)
                vector[axis] = 1.0 if code == pair[1] else -1.0
                directions.append(vector)
    if len(orientation) != 3 or len(directions) != 3 or not np.stack(directions).any(0).all():
        raise ValueError(
            f"orientation: expected three axis codes such as {DEFAULT_ORIENTATION!r}, "
            f"got {orientation!r}"
        )
    return tuple(directions)


def axes_towards(
    affine: NDArray[np.float64], orientation: str
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """How to permute and flip an array's axes so that they run closest to ``orientation``.

    Args:
        affine: ``(4, 4)``, voxel index to millimetres (RAS+); may be oblique.
        orientation: The wanted axis codes.

    Returns:
        For each wanted axis, which axis of the array it is, and whether to flip it.

    Raises:
        ValueError: The codes name no three axes.
    """
    axis_directions(orientation)  # refuses bad codes with a message
    wanted = nibabel.orientations.axcodes2ornt(tuple(orientation))
    transform = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(affine), wanted
    )
    axes, flips = [0, 0, 0], [False, False, False]
    for array_axis, (wanted_axis, direction) in enumerate(transform):
        axes[int(wanted_axis)] = array_axis
        flips[int(wanted_axis)] = bool(direction < 0)
    return (axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2])


def is_axial(affine: NDArray[np.float64]) -> bool:
    """Whether the third of an array's axes, and it alone, runs along the third of space."""
    return not affine[:2, 2].any() and not affine[2, :2].any()
