"""Which cases a command works on, what they are called, and which of them are this process's."""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

_LABELS = "_labels"


@dataclasses.dataclass(frozen=True)
class Case:
    """One of the things that a command works on.

    Attributes:
        name: What it is called; also the folder of its results below the output folder.
        inputs: Its files or folders: of a registration the moving and the fixed image.
        folder: Where its results go.
        options: Its own options, which go before those of the command.
    """

    name: str
    inputs: tuple[Path, ...]
    folder: Path
    options: dict[str, Path] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Found:
    """What the arguments of a command stand for.

    Attributes:
        paths: The files and folders.
        several: Whether each gets a folder of its own below the output folder. One image, named
            as it is, does not; a folder of one image does.
    """

    paths: list[Path]
    several: bool


def find(
    given: Sequence[str | Path], within: Callable[[Path, Path], list[Path]], output: Path
) -> Found:
    """The files and folders that arguments stand for.

    Args:
        given: Files, folders, or patterns such as ``data/*/t1.nii.gz``; ``**`` goes any depth.
        within: What a folder stands for, without what lies in the output folder.
        output: The output folder.
    """
    paths: list[Path] = []
    several = len(given) > 1
    for argument in given:
        named = Path(argument)
        matched = [named]
        if not named.exists() and glob.has_magic(str(argument)):
            found = sorted(Path(path) for path in glob.glob(str(argument), recursive=True))
            several |= bool(found)
            matched = found or [named]
        for path in matched:
            held = within(path, output) if path.is_dir() else [path]
            several |= held != [path]
            paths += held
    unique = {path.resolve(): path for path in reversed(paths)}
    return Found([path for path in dict.fromkeys(paths) if unique[path.resolve()] is path], several)


def images_within(folder: Path, output: Path) -> list[Path]:
    """The images of a folder: itself, where it is a DICOM series, its files, or those below it."""
    from plasticine.io import READABLE_SUFFIXES, files_in
    from plasticine.io.dicom import is_dicom

    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    others = [
        entry
        for entry in entries
        if entry.is_file() and not entry.name.lower().endswith(READABLE_SUFFIXES)
    ]
    if any(is_dicom(file) for file in others):
        return [folder]
    files: list[Path] = []
    if any(entry.is_file() and entry not in others for entry in entries):
        files = files_in(folder)
    below = [
        image
        for entry in entries
        if entry.is_dir() and not (output.exists() and entry.samefile(output))
        for image in images_within(entry, output)
        if image != entry or any(is_dicom(file) for file in entry.iterdir() if file.is_file())
    ]
    return files or below or [folder]


def results_within(folder: Path, record: str) -> list[Path]:
    """The folders of results at or below a folder: those that hold the record."""
    if (folder / record).is_file():
        return [folder]
    return sorted(path.parent for path in folder.rglob(record)) or [folder]


def stem(path: Path) -> str:
    """A file's name without the end that tells its format; a folder's name."""
    from plasticine.io import READABLE_SUFFIXES

    suffixes = sorted(READABLE_SUFFIXES, key=len, reverse=True)
    end = next((s for s in suffixes if path.name.lower().endswith(s)), "")
    return path.resolve().name if path.is_dir() else path.name[: len(path.name) - len(end)]


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each path, no two alike: its stem, or with the folders in which they differ."""
    stems = [stem(path) for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    absolute = [path.resolve() for path in paths]
    common = os.path.commonpath([path.parent for path in absolute])
    folders = [path.parent.relative_to(common) for path in absolute]
    for ends in (stems, [path.name for path in absolute]):
        names = [str(folder / end) for folder, end in zip(folders, ends, strict=True)]
        if len(set(names)) == len(names):
            break
    return names


def beside(given: Path | None, source: Path, option: str, *, several: bool) -> Path | None:
    """The file of an option that belongs to one of several images.

    Args:
        given: What the option says: a file or, for several images, a folder with one file for
            each, of the image's name or of that name followed by "_labels".
        source: The image.
        option: The option's name, for the message.
        several: Whether there are several images.

    Raises:
        ValueError: A single file was given for several images.
        FileNotFoundError: The folder holds no file of that name.
    """
    if given is None or not several:
        return given
    if not given.is_dir():
        raise ValueError(
            f"{option}: of several images expected a folder with a file for each; got {given}"
        )
    from plasticine.io import files_in

    wanted = (stem(source), stem(source) + _LABELS)
    for file in files_in(given):
        if stem(file) in wanted:
            return file
    raise FileNotFoundError(f"{option}: {given} holds no file for {source}: {' or '.join(wanted)}")


def check_part(text: str | None) -> str | None:
    """Refuses a share that is not ``i/n`` with 1 <= i <= n."""
    if text is None:
        return None
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise typer.BadParameter(f"expected i/n with 1 <= i <= n, such as 2/8; got {text!r}")
    return text


def share_of(part: str | None) -> slice:
    """Which of a list's items are this process's: of ``--part i/n``, and of torchrun's rank."""
    number, count = (1, 1) if part is None else map(int, part.split("/"))
    rank, world = (int(os.environ.get(name, d)) for name, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
    return slice((number - 1) * world + rank, None, count * world)


def own_device(device: str) -> str:
    """Under torchrun "cuda" is each process's own GPU."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local is not None else device
