"""Files of transforms, of any format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from plasticine.io.checks import check_exists, named_errors
from plasticine.nn.output_folder import OutputFolder
from plasticine.transforms.ends import Ends
from plasticine.transforms.formats import FORMATS
from plasticine.transforms.formats.format import Format
from plasticine.transforms.transform import Transform

_NAMED = {one.name: one for one in FORMATS}


def format_of(path: Path) -> Format:
    """The format of a file, by its content.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of none that is known, or could be of several, which mean other things.
    """
    check_exists(path)
    with named_errors(path):
        found = [one for one in FORMATS if one.recognises(path)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(one.name for one in found or FORMATS)
    what = "could be of several formats" if found else "is no transform of a format that is known"
    raise ValueError(f"{path}: {what}; say which one it is, as FORMAT:FILE; one of {names}")


def format_named(text: str | os.PathLike[str]) -> Format:
    """The format of ``FORMAT:FILE``, or of a file by its content; raises as `format_of`."""
    path, told = named_file(text)
    return told or format_of(path)


def named_file(text: str | os.PathLike[str]) -> tuple[Path, Format | None]:
    """What ``FILE`` or ``FORMAT:FILE`` names; a file whose whole name that is goes first."""
    path = Path(text)
    prefix, colon, rest = str(text).partition(":")
    if colon and rest and prefix in _NAMED and not path.exists():
        return Path(rest), _NAMED[prefix]
    return path, None


def read_transform(file: str | os.PathLike[str], ends: Ends | None = None) -> Transform:
    """Reads a transform of any format that is known.

    Args:
        file: Its name, or ``FORMAT:FILE`` where the content does not tell the format.
        ends: The images that it maps between, for formats that need them.

    Returns:
        The map from points of the fixed image to points of the moving one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of no known format, or could be of several; it is damaged; or an image
            that it needs is not given.
        TypeError: A field's elements are no real numbers.
        RuntimeError: A package that reads the format is not installed.
    """
    path, told = named_file(file)
    check_exists(path)
    format_ = told or format_of(path)
    with named_errors(path):
        return format_.read(path, ends or Ends())


Step = tuple[str | os.PathLike[str], bool]
"""A file of a transform, or ``FORMAT:FILE``, and whether its inverse is meant."""


def read_chain(steps: Sequence[Step], ends: Ends) -> list[Transform]:
    """Reads transforms that are applied one after the other.

    Args:
        steps: In the order in which a point of the fixed image goes through them.
        ends: The images at the two ends of the chain. A file in between has no known images: of a
            format that needs them it must be the first or the last, as it does.

    Returns:
        The transforms.

    Raises:
        As `read_transform`, and ValueError where an inverse needs an image that is not given.
    """
    found = []
    for number, (file, inverse) in enumerate(steps):
        first, last = number == 0, number == len(steps) - 1
        around = Ends(ends.fixed if first else None, ends.moving if last else None)
        transform = read_transform(file, around.reversed() if inverse else around)
        found.append(transform.inverse(around.moving) if inverse else transform)
    return found


def format_to_write(file: str | os.PathLike[str]) -> tuple[Path, Format]:
    """Where and in which format ``FILE`` or ``FORMAT:FILE`` asks for a transform.

    Raises:
        ValueError: The name's end belongs to no format that is written, or that format is read
            alone.
    """
    path, told = named_file(file)
    if told is not None and told.write is None:
        raise ValueError(f"{path}: transforms of {told.title} are read, not written")
    if told is not None:
        return path, told
    name = path.name.lower()
    fits = [one for one in FORMATS if one.write is not None and name.endswith(one.suffixes)]
    if not fits:
        raise ValueError(
            f"{path}: no format of transforms is written to such a name; say which, as "
            f"FORMAT:FILE; one of {', '.join(one.name for one in FORMATS if one.write)}"
        )
    return path, fits[0]


def write_transform(
    file: str | os.PathLike[str], transform: Transform, ends: Ends | None = None
) -> None:
    """Writes a transform; ITK's formats go first where a name's end belongs to several.

    The file appears complete or not at all, and with it a ``.json`` beside it where its format has
    no room for what it says of itself.

    Args:
        file: Its name, or ``FORMAT:FILE``.
        transform: From points of the fixed image to points of the moving one.
        ends: The images that it maps between: for formats that need them, for the voxels of a
            field, and for what the file says of itself.

    Raises:
        ValueError: The format cannot say what the transform does, an image that it needs is not
            given, or nothing is written to such a name.
        OSError: The file cannot be written.
        RuntimeError: A package that writes the format is not installed.
    """
    path, format_ = format_to_write(file)
    assert format_.write is not None
    names = [path.name]
    if path.name.lower().endswith(format_.beside):
        names.append(f"{path.name}.json")
    with OutputFolder(path.parent, names) as folder:
        written = folder / path.name
        try:
            format_.write(written, transform, ends or Ends())
        except ValueError as error:  # which names the file in the folder that is moved into place
            raise ValueError(str(error).replace(str(written), str(path))) from error
