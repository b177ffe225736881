"""How the voxels of a file are laid out on the page."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.io.orientation import axes_towards
from plasticine.report.drawing import SHOWN_AXES


@dataclasses.dataclass(frozen=True)
class ShownGrid:
    """A file's grid, turned so that its axes run towards Inferior, Posterior and Right.

    Arrays on the page are ``(I, P, R)``, the last axis fastest. A place on the page is
    ``(x, y, z)``: the index along R, along P and along I.

    Attributes:
        shape: ``(X, Y, Z)`` of the file.
        affine: ``(4, 4)``, voxel index of the file to millimetres (RAS+).
        axes: Which of the file's axes runs along I, P and R.
        flips: Whether each of them runs the other way.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(
        cls, shape: tuple[int, ...], affine: NDArray[np.float64], *, picture: bool = False
    ) -> ShownGrid:
        """Lays out the voxels of a file.

        Args:
            shape: ``(X, Y, Z)``.
            affine: ``(4, 4)``, voxel index to millimetres (RAS+).
            picture: Of a file that knows no directions: it is shown as it is stored.
        """
        x, y, z = shape
        axes, flips = axes_towards(affine, SHOWN_AXES)
        return cls((x, y, z), affine, axes, (False, False, False) if picture else flips)

    def turned(self, volume: NDArray[Any]) -> NDArray[Any]:
        """``(X, Y, Z)`` as ``(I, P, R)``."""
        flipped = tuple(axis for axis, flip in enumerate(self.flips) if flip)
        return np.flip(volume.transpose(self.axes), flipped)

    def to_file(self) -> NDArray[np.float64]:
        """``(4, 4)``, a place on the page, ``(x, y, z)``, to the voxel index of the file."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for shown, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            matrix[axis, 2 - shown] = -1 if flip else 1
            matrix[axis, 3] = self.shape[axis] - 1 if flip else 0
        return matrix

    def described(self) -> dict[str, Any]:
        """What the page has to know."""
        to_file = self.to_file()
        return {
            "size": [self.shape[axis] for axis in reversed(self.axes)],
            "toFile": to_file.tolist(),
            "toMillimetres": (self.affine @ to_file).tolist(),
        }
