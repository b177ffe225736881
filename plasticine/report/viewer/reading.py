"""The folder of a translation or a registration, read back to be shown."""

from __future__ import annotations

from pathlib import Path

from plasticine.report.viewer.case import Case
from plasticine.report.viewer.registration_case import read_registration_case
from plasticine.report.viewer.translation_case import read_translation_case


def is_case(folder: Path) -> bool:
    """Whether a folder holds a translation or a registration."""
    return (folder / "trace.json").is_file() or (folder / "registration.json").is_file()


def read_case(
    folder: Path,
    *,
    source: Path | None = None,
    fixed: Path | None = None,
    labels: Path | None = None,
) -> Case:
    """Reads what ``plasticine translate`` or ``plasticine register`` left.

    Args:
        folder: The folder.
        source: The image that was translated or moved, where it is no longer where it was.
        fixed: The image that it was registered to, likewise.
        labels: A label map on the source's voxels, to be shown and carried.

    Returns:
        What a page shows of it.

    Raises:
        FileNotFoundError: The folder is of neither, or a file is not there.
        ValueError: Files do not fit together.
    """
    if (folder / "registration.json").is_file():
        return read_registration_case(folder, source=source, fixed=fixed, labels=labels)
    if (folder / "trace.json").is_file():
        if fixed is not None:
            raise ValueError(f"{folder}: a translation has no fixed image; got {fixed}")
        return read_translation_case(folder, source=source, labels=labels)
    raise FileNotFoundError(
        f"{folder}: expected the folder of a translation or a registration, with trace.json or "
        "registration.json"
    )
