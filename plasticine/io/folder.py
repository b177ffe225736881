"""A folder of results that appears complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType


class OutputFolder:
    """Writes a set of files so that a failure leaves nothing half written.

    Entering proves that the folder can be written, before any work is done; files are then
    written to a hidden folder inside it, and moved to their places on leaving without an error.
    Files of the same names are replaced, others are left alone. After an error the hidden
    folder, and any folder that entering had to create, are removed.

        with OutputFolder("results", ["a.txt"]) as temporary:
            (temporary / "a.txt").write_text("...")

    Args:
        folder: Where the files are to be; created where it is missing.
        names: The files that will be written, all of them.
    """

    def __init__(self, folder: str | os.PathLike[str], names: Iterable[str]) -> None:
        self.folder = Path(folder)
        self.names = tuple(names)
        self._temporary: Path | None = None
        self._created: list[Path] = []

    def __enter__(self) -> Path:
        """Creates the folder.

        Returns:
            The hidden folder to write into.

        Raises:
            OSError: The folder, or a file of it that is in the way, cannot be written.
        """
        existing = self.folder
        missing = []
        while not existing.exists() and existing != existing.parent:
            missing.append(existing)
            existing = existing.parent
        if not existing.is_dir():
            raise NotADirectoryError(f"{self.folder}: cannot write there, {existing} is a file")
        for name in self.names:
            if (self.folder / name).is_dir():
                raise IsADirectoryError(f"{self.folder / name}: a folder is in the way of a file")
        try:
            for folder in reversed(missing):
                folder.mkdir()
                self._created.append(folder)
            self._temporary = Path(tempfile.mkdtemp(prefix=".plasticine-", dir=self.folder))
        except OSError as error:
            self._remove()
            reason = error.strerror or error
            raise type(error)(f"{self.folder}: cannot write there ({reason})") from error
        return self._temporary

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Moves the files to their places, or after an error removes them."""
        assert self._temporary is not None
        try:
            if kind is None:
                missing = [n for n in self.names if not (self._temporary / n).is_file()]
                if missing:
                    raise RuntimeError(f"{self.folder}: not written: {', '.join(missing)}")
                for name in self.names:
                    os.replace(self._temporary / name, self.folder / name)
                self._created.clear()
        finally:
            self._remove()

    def _remove(self) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None
        for folder in reversed(self._created):
            try:
                folder.rmdir()
            except OSError:  # something else was put there meanwhile: not ours to remove
                break
        self._created.clear()
