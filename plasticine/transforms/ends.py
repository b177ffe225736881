"""What a file of a transform does not say itself: the images that it maps between."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from plasticine.transforms.places import Advance, Grid


@dataclasses.dataclass(frozen=True)
class Ends:
    """The two images that a transform maps between, as far as they are known.

    Attributes:
        fixed: The voxels of the image whose points it takes.
        moving: The voxels of the image that it takes them to.
        fixed_name: What the file is to say of the first: the name of its file.
        moving_name: Likewise of the second.
        remark: What else it is to say.
        advance: Is told of the progress, where a file is written of what has to be worked out.
    """

    fixed: Grid | None = None
    moving: Grid | None = None
    fixed_name: str = "fixed"
    moving_name: str = "moving"
    remark: str = ""
    advance: Advance | None = None

    def fixed_for(self, path: Path, format_name: str) -> Grid:
        """The fixed image's voxels, of a format that cannot do without.

        Raises:
            ValueError: They are not known.
        """
        return _known(self.fixed, path, format_name, "fixed")

    def moving_for(self, path: Path, format_name: str) -> Grid:
        """The moving image's voxels, likewise.

        Raises:
            ValueError: They are not known.
        """
        return _known(self.moving, path, format_name, "moving")

    @property
    def note(self) -> str:
        """One line for a file that is written: what wrote it, and what it maps."""
        from plasticine import __version__

        what = f"points of {self.fixed_name} to points of {self.moving_name}"
        use = f"for pulling {self.moving_name} onto {self.fixed_name}"
        remark = f". {self.remark}" if self.remark else ""
        whole = f"plasticine {__version__}: {what}, {use}{remark}"
        # A file's name need not be UTF-8.
        return whole.encode("utf-8", "backslashreplace").decode("utf-8")

    def reversed(self) -> Ends:
        """The other way around."""
        return dataclasses.replace(
            self,
            fixed=self.moving,
            moving=self.fixed,
            fixed_name=self.moving_name,
            moving_name=self.fixed_name,
        )


def _known(grid: Grid | None, path: Path, format_name: str, which: str) -> Grid:
    if grid is None:
        raise ValueError(
            f"{path}: a transform of {format_name} means nothing without the {which} image, which "
            "was not given"
        )
    return grid
