"""A folder of results that appears complete or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

_PREFIX = ".plasticine-"
_LOCK = ".plasticine-lock"
_EARLIER = ".earlier"


class OutputFolder:
    """Writes a set of files so that a failure leaves nothing half written.

    Entering proves that the folder can be written, before any work is done; files are then
    written to a hidden folder inside it, and moved to their places on leaving without an error.
    Files of the same names are replaced, others are left alone. After an error the hidden
    folder, and any folder that entering had to create, are removed.

    Files of one set never lie beside those of an earlier one: where there are several, all of the
    earlier files are taken away before the first new one is put in its place, so that a process
    killed in between leaves a set that lacks a file. Nor do those of two processes: they take
    turns to move them. What is in place is on the disk.

    A process that is killed leaves its hidden folder; the next one to enter removes it. A process
    keeps a lock on its own for as long as it lives, so that those of others at work are told from
    it, also by other machines on a shared disk.

        with OutputFolder("results", ["a.txt"]) as temporary:
            (temporary / "a.txt").write_text("...")

    Args:
        folder: Where the files are to be; created where it is missing.
        names: The files that will be written, all of them.
        obsolete: Files that are taken away with the earlier ones, for they tell of those.
    """

    def __init__(
        self, folder: str | os.PathLike[str], names: Iterable[str], obsolete: Iterable[str] = ()
    ) -> None:
        self.folder = Path(folder)
        self.names = tuple(names)
        self.earlier = (*self.names, *obsolete)
        self._temporary: Path | None = None
        self._lock = -1
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
        for name in self.earlier:
            if (self.folder / name).is_dir():
                raise IsADirectoryError(f"{self.folder / name}: a folder is in the way of a file")
        try:
            for folder in reversed(missing):
                folder.mkdir()
                self._created.append(folder)
            remove_abandoned(self.folder)
            self._temporary, self._lock = _hidden_folder(self.folder)
        except OSError as error:
            self._remove()
            reason = error.strerror or error
            raise type(error)(f"{self.folder}: cannot write there ({reason})") from error
        except BaseException:
            self._remove()
            raise
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
                    _to_disk(self._temporary / name)
                with taking_turns(self.folder):
                    self._move(self._temporary)
                self._created.clear()
        finally:
            self._remove()

    def _move(self, temporary: Path) -> None:
        """Puts the new files in their places; on an error the earlier ones are put back."""
        if len(self.earlier) == 1:  # in one step
            os.replace(temporary / self.names[0], self.folder / self.names[0])
            _to_disk(self.folder)
            return
        earlier = temporary / _EARLIER
        earlier.mkdir()
        try:
            for name in self.earlier:
                if os.path.lexists(self.folder / name):
                    os.replace(self.folder / name, earlier / name)
            _to_disk(self.folder)
            for name in self.names:
                os.replace(temporary / name, self.folder / name)
            _to_disk(self.folder)
        except BaseException:
            self._put_back(temporary, earlier)
            raise

    def _put_back(self, temporary: Path, earlier: Path) -> None:
        for name in self.names:
            if not os.path.lexists(temporary / name):  # it is in its place
                os.replace(self.folder / name, temporary / name)
        for name in self.earlier:
            if os.path.lexists(earlier / name):
                os.replace(earlier / name, self.folder / name)

    def _remove(self) -> None:
        if self._temporary is not None:
            try:
                shutil.rmtree(self._temporary, ignore_errors=True)
            finally:  # once more, as a request to end may have come meanwhile
                shutil.rmtree(self._temporary, ignore_errors=True)
                os.close(self._lock)
                self._temporary = None
        for folder in reversed(self._created):
            try:
                folder.rmdir()
            except OSError:  # something else was put there meanwhile: not ours to remove
                break
        self._created.clear()


@contextlib.contextmanager
def taking_turns(folder: Path) -> Iterator[None]:
    """Waits while another process moves its files into the folder."""
    file = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a disk without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def remove_abandoned(folder: Path) -> None:
    """Removes the hidden folders of processes that were killed.

    Those in use are left alone, and so is a folder without our lock, whose name is chance.
    """
    for hidden in folder.glob(f"{_PREFIX}*"):
        if hidden.is_symlink() or not hidden.is_dir():
            continue
        # It is not ours, its process lives, or none can tell whether it does.
        with contextlib.suppress(OSError):
            lock = os.open(hidden / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(hidden, ignore_errors=True)
            finally:
                os.close(lock)


def _hidden_folder(folder: Path) -> tuple[Path, int]:
    """A new hidden folder, and the open file by which this process keeps it locked."""
    while True:
        hidden = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        # Before it is locked another process may take it for an abandoned one: begin anew then.
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            lock = _open_lock(hidden)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise
            except OSError:  # a disk without locks, on which nobody can take it for abandoned
                pass
            if _is_there(hidden / _LOCK, lock):
                return hidden, lock
            os.close(lock)


def _open_lock(hidden: Path) -> int:
    return os.open(hidden / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)


def _is_there(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _to_disk(path: Path) -> None:
    """Waits until a file, or a folder's list of them, is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
